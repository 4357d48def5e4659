"""Task 3's trainer and driver: every method from the repository to a prediction."""

from __future__ import annotations

import json

import numpy as np
import pytest

from covidseg.cli.main import main as covidseg
from covidseg.core.errors import ConfigError
from covidseg.engine.recipes import load_recipe
from covidseg.engine.runs import read_run
from covidseg.imaging.nifti import read_nifti, write_nifti
from covidseg.imaging.volume import Volume
from covidseg.trainers.transfer import (
    TransferRecipe,
    main,
    open_transfer_run,
    refuse_another,
    stages,
)
from covidseg.trainers.transfer import run as transfer_run

SMALL = [
    "--profile=demo", "--patch.size=[32,32]", "--patch.batch_size=4", "--network.features=[4,8]",
    "--train.epochs=2", "--train.steps_per_epoch=2", "--train.checkpoint_every=2",
    "--train.validate_every=0", "--train.workers=0", "--train.log_every=2",
    "--train.mixed_precision=no",
]  # fmt: skip


@pytest.fixture(scope="session")
def transfer(sources_hub, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache3")

    def run(out, *words, recipe="task3-lung"):
        main(["--recipe", recipe, "--out", str(out), *SMALL, f"--data.hub={sources_hub}",
              f"--data.cache={cache}", *words])  # fmt: skip
        return out

    return run


def scan():
    return Volume(np.random.default_rng(0).integers(-1000, 100, (40, 40, 6)), np.eye(4))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["alone", "joint", "heads", "marginal"])
def test_every_method_learns_and_predicts(transfer, tmp_path, method, capsys):
    run = transfer(tmp_path / "run", f"--transfer.method={method}")
    manifest = json.loads((run / "manifest.json").read_text())
    learnt = manifest["data"]["train"]
    assert len(learnt["cases"]) == (4 if method == "alone" else 44)
    assert learnt["labels"]["covid-ct-seg"] == ["left_lung", "right_lung"]
    several = method in ("heads", "marginal")
    assert read_run(run).network.classes == (5 if several else 3)
    for dataset in ("covid-ct-seg", "structseg"):
        found = open_transfer_run(run, dataset, device="cpu").predict(scan())
        assert set(np.unique(found.data)) <= {0, 1, 2}
    # The command predicts what the driver does; so does an ensemble of such runs.
    write_nifti(tmp_path / "scan.nii.gz", scan())
    words = ["predict", str(tmp_path / "scan.nii.gz"), "--intensity", "hu", "--device", "cpu"]
    expected = open_transfer_run(run, device="cpu").predict(scan()).data
    for runs in ([run], [run, run]):
        out = tmp_path / f"out{len(runs)}"
        given = [word for one in runs for word in ("--run", str(one))]
        with pytest.raises(SystemExit) as ended:
            covidseg([*words, *given, "--out", str(out)])
        assert not ended.value.code
        assert "Labels: 1 left_lung, 2 right_lung." in capsys.readouterr().out
        assert (read_nifti(out / "scan.nii.gz").data != expected).mean() < 1e-3


@pytest.mark.slow
def test_finetune_goes_on_from_the_source(transfer, tmp_path):
    words = ["--transfer.method=finetune", "--transfer.source_share=0.5"]
    run = transfer(tmp_path / "run", *words)
    first, second = read_run(run / "pretrained", TransferRecipe), read_run(run, TransferRecipe)
    assert (first.grid, first.network, first.patch) == (second.grid, second.network, second.patch)
    # Both are planned for the four scans alone.
    assert second.grid == read_run(transfer(tmp_path / "alone", "--transfer.method=alone")).grid
    # The scans get as many steps as without a source.
    assert (first.train.epochs, second.train.epochs) == (1, 2)
    assert second.optim.lr == pytest.approx(0.5 * first.optim.lr)
    counts = [
        len(json.loads((folder / "manifest.json").read_text())["data"]["train"]["cases"])
        for folder in (run / "pretrained", run)
    ]
    assert counts == [40, 4]
    assert stages(second, run) == [(run / "pretrained", 2), (run, 4)]
    transfer(run, "--resume", *words)  # all is done: nothing happens


@pytest.fixture(scope="module")
def lesion_hub(tmp_path_factory):
    from covidseg.registry.hub import build_hub
    from covidseg.registry.phantom.generate import write_phantoms

    place = tmp_path_factory.mktemp("lesions")
    datasets = ["msd", "structseg", "covid-ct-seg", "mosmed"]
    write_phantoms(place / "raw", "tiny", datasets=datasets, progress=False, workers=1)
    build_hub(place / "raw", place / "hub", workers=1, progress=False)
    return place / "hub"


@pytest.mark.slow
def test_painted_lesions_are_learnt_before_the_four_scans(transfer, lesion_hub, tmp_path):
    words = [
        f"--data.hub={lesion_hub}", "--data.configuration=task3-msd-tumour",
        "--transfer.method=paint", "--transfer.source_share=0.5",
    ]  # fmt: skip
    cache = tmp_path / "cache"
    words.append(f"--data.cache={cache}")
    run = transfer(tmp_path / "run", *words, recipe="task3-infection")
    first, second = (
        json.loads((folder / "manifest.json").read_text()) for folder in (run / "pretrained", run)
    )
    learnt = first["data"]["train"]
    assert learnt["labels"] == {"msd": ["painted lesions"]}
    # At a tiny phantom's voxels the chest wall of one has a hole.
    assert learnt["without_lungs"] == ["lung_086"]
    written = {path: path.stat().st_mtime_ns for path in (cache / "lungs").iterdir()}
    assert len(learnt["cases"]) == len(written) > 4
    assert second["data"]["train"]["labels"] == {"covid-ct-seg": ["infection"]}
    assert second["start"]["run"] == str(run / "pretrained")
    assert read_run(run / "pretrained").data.labels == ("lesion",)
    found = open_transfer_run(run, device="cpu").predict(scan())
    assert set(np.unique(found.data)) <= {0, 1}
    # It is what would be made now, as far as that shows without reading scans.
    again = load_recipe("task3-infection", None, [*SMALL[1:], *words], TransferRecipe)
    with pytest.raises(ConfigError, match="another configuration"):
        refuse_another(again, run)
    again = load_recipe("task3-infection", "demo", [*SMALL[1:], *words], TransferRecipe)
    refuse_another(again, run)
    transfer(run, "--resume", *words, recipe="task3-infection")  # all is done: nothing happens
    assert written == {path: path.stat().st_mtime_ns for path in (cache / "lungs").iterdir()}


@pytest.mark.slow
def test_a_scan_without_lungs_is_not_said_to_be_learnt_from(
    transfer, lesion_hub, tmp_path, monkeypatch, capsys
):
    from covidseg.core.errors import LabelError
    from covidseg.trainers import transfer as module

    def without_the_first(cases, folder, *, progress):
        kept, _ = cases_with_lungs(cases[1:], folder, progress=progress)
        return kept, {cases[0].case_id: LabelError("shows no air inside the body")}

    cases_with_lungs = module.cases_with_lungs
    monkeypatch.setattr(module, "cases_with_lungs", without_the_first)
    run = transfer(
        tmp_path / "run", f"--data.hub={lesion_hub}", "--data.configuration=task3-msd-tumour",
        "--transfer.method=paint", "--transfer.source_share=0.5", recipe="task3-infection",
    )  # fmt: skip
    learnt = json.loads((run / "pretrained" / "manifest.json").read_text())["data"]["train"]
    (left_out,) = learnt["without_lungs"]
    assert left_out not in learnt["cases"]
    assert f"left out of the source: {left_out}: shows no air" in capsys.readouterr().out


@pytest.mark.slow
def test_chosen_cases_are_learnt_from(transfer, tmp_path):
    words = ["--transfer.method=alone", "--data.cases=[coronacases_007]"]
    run = transfer(tmp_path / "run", *words)
    learnt = json.loads((run / "manifest.json").read_text())["data"]["train"]["cases"]
    assert list(learnt) == ["coronacases_007"]


@pytest.mark.slow
def test_another_run_is_refused_before_the_source_is_learnt(transfer, tmp_path):
    run = transfer(tmp_path / "run", "--transfer.method=alone")
    for resume, message in ((["--resume"], "transfer.method"), ([], "holds a run already")):
        with pytest.raises(ConfigError, match=message):
            transfer(run, *resume, "--transfer.method=finetune", "--transfer.source_share=0.5")
    assert not (run / "pretrained").exists()


@pytest.mark.slow
def test_joint_training_draws_cases_whatever_their_source(transfer, tmp_path):
    run = transfer(tmp_path / "run", "--transfer.method=joint")
    assert not read_run(run).patch.by_source


def test_what_is_refused(transfer, tmp_path):
    with pytest.raises(ConfigError, match="finetune_lr is 0"):
        transfer(tmp_path / "e", "--transfer.finetune_lr=0")
    with pytest.raises(ConfigError, match="has no COVID-19 scans"):
        transfer(tmp_path / "a", "--data.configuration=task2-structseg-lung", "--data.fold=null")
    with pytest.raises(ConfigError, match="source_share"):
        words = ["--transfer.method=finetune", "--transfer.source_share=0.1"]
        transfer(tmp_path / "b", *words)
    with pytest.raises(ConfigError, match=r"is paint.*left_lung, right_lung.*finetune"):
        transfer(tmp_path / "d", "--transfer.method=paint")
    with pytest.raises(ConfigError, match="was not found"):
        transfer(tmp_path / "c", "--data.configuration=task3-nsclc-lung")


@pytest.mark.slow
def test_the_driver_from_a_fold_to_the_table(sources_hub, tmp_path, capsys):
    from covidseg.scoring.scores import read_scores
    from covidseg.trainers.task3 import main as task3

    task3([
        "--subtasks", "lung", "--sources", "structseg-lung", "--methods", "alone", "heads",
        "--folds", "1", "--hub", str(sources_hub), "--out", str(tmp_path / "out"),
        "--profile", "demo", f"--data.cache={tmp_path / 'cache'}",
        *[word for word in SMALL if word != "--profile=demo"],
    ])  # fmt: skip
    shown = capsys.readouterr().out
    assert "3D U-Net (published)" in shown
    assert "PHANTOM DATA" in shown
    scores = read_scores(tmp_path / "out" / "scores.csv")
    counts = scores.groupby(["algorithm", "part"])["case_id"].nunique().to_dict()
    assert counts == {("alone", "test"): 16, ("heads", "test"): 16, ("heads", "validation"): 10}
    assert (tmp_path / "out" / "lung" / "alone" / "fold1").is_dir()


@pytest.mark.slow
def test_the_scans_alone_are_one_training_whatever_sources_are_asked_for(lesion_hub, tmp_path):
    from covidseg.scoring.scores import read_scores
    from covidseg.trainers.task3 import main as task3

    def call(*sources):
        task3([
            "--subtasks", "lung", "--sources", *sources, "--methods", "alone", "--folds", "0",
            "--hub", str(lesion_hub), "--out", str(tmp_path / "out"), "--profile", "demo",
            f"--data.cache={tmp_path / 'cache'}",
            *[word for word in SMALL if word != "--profile=demo"],
        ])  # fmt: skip
        return read_scores(tmp_path / "out" / "scores.csv")

    weights = tmp_path / "out/lung/alone/fold0/checkpoints/last/model.safetensors"
    one = call("msd-lung")
    written = weights.stat().st_mtime_ns
    # Called after another source that the repository did not have before.
    path = tmp_path / "out/lung/alone/fold0/config.yaml"
    assert "configuration: task3-structseg-lung" in path.read_text()
    both = call("structseg-lung", "msd-lung")
    assert weights.stat().st_mtime_ns == written
    assert len(both) == 2 * len(one)
    assert set(both["task"]) > set(one["task"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["alone", "joint", "marginal", "finetune"])
def test_a_run_of_another_recipe_is_refused_before_anything_is_trained(
    method, sources_hub, tmp_path, nothing_begins
):
    from covidseg.trainers import task3

    words = (
        f"--data.cache={tmp_path / 'cache'}", "--transfer.source_share=0.5",
        *[word for word in SMALL if word != "--profile=demo"],
    )  # fmt: skip
    made = task3.Protocol(
        sources=(("lung", "structseg-lung"),), methods=(method,), folds=(0,),
        profile="demo", overrides=words, hub=sources_hub, out=tmp_path / "out",
    )  # fmt: skip
    (arm,) = task3.arms(made)
    run = task3.run_folder(made, arm)
    transfer_run(task3._recipe(made, arm), run)

    def call(*more):
        task3.main([
            "--subtasks", "lung", "--sources", "structseg-lung", "--methods", "heads", method,
            "--folds", "0", "--profile", "demo", "--hub", str(sources_hub),
            "--out", str(made.out), *words, *more,
        ])  # fmt: skip

    with pytest.raises(nothing_begins, match="heads-fold0"):
        call()
    with pytest.raises(ConfigError, match=r"another configuration: optim.lr"):
        call("--optim.lr=0.1")
    for folder in [run, run / "pretrained"] if method == "finetune" else [run]:
        whole = (folder / "manifest.json").read_text()
        manifest = json.loads(whole)
        manifest["data"]["train"]["sha256"] = "of other cases"
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ConfigError, match="began to learn from other data"):
            call()
        (folder / "manifest.json").write_text(whole)


def test_what_the_driver_paints(tmp_path, sources_hub, capsys):
    from covidseg.trainers import task3

    words = ["--profile", "demo", "--hub", str(sources_hub), "--out", str(tmp_path), "--folds", "0",
             "--sources", "structseg-lung"]  # fmt: skip
    with pytest.raises(ConfigError, match="for lungs a method other than paint"):
        task3.main(["--subtasks", "lung", "--methods", "paint", *words])
    protocol = task3.Protocol(
        sources=(("lung", "structseg-lung"), ("infection", "msd-tumour")),
        methods=("alone", "paint"), folds=(0,),
        profile="demo", overrides=(), hub=sources_hub, out=tmp_path,
    )  # fmt: skip
    found = [(arm.subtask, arm.method) for arm in task3.arms(protocol)]
    assert found == [("lung", "alone"), ("infection", "alone"), ("infection", "paint")]
