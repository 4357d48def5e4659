"""The COVID-SemiSeg driver: each slice predicted once, by a model that did not see it."""

from __future__ import annotations

import pytest

from covidseg.engine.runs import read_run, runs_in
from covidseg.scoring.scores import read_scores
from covidseg.trainers import phantoms, semiseg, supervised
from covidseg.trainers.semiseg import main


def run_here(jobs, logs):
    """Instead of seven processes, each of which would import torch anew."""
    for job in jobs:
        trainer = phantoms if job.name.startswith("phantoms") else supervised
        assert job.arguments[:2] == ["-m", trainer.__name__]
        trainer.main(job.arguments[2:])
        assert job.done() == job.steps


@pytest.mark.parametrize(
    ("gpu", "precision", "profile"),
    [(False, "no", "cpu"), (False, "bf16", "cpu-bf16"), (True, "bf16", "gpu")],
)
def test_the_profile_is_the_machines_unless_one_is_asked_for(
    gpu, precision, profile, monkeypatch, tmp_path
):
    monkeypatch.setattr(semiseg.torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(semiseg, "native_precision", lambda: precision)
    assert semiseg.chosen_profile("auto", "semiseg-2d") == profile
    assert semiseg.chosen_profile("cpu", "semiseg-2d") == "cpu"
    # A run's own recipe, which is one profile's already.
    (tmp_path / "config.yaml").write_text("name: mine\n")
    assert semiseg.chosen_profile("auto", str(tmp_path / "config.yaml")) is None
    assert semiseg.profile_words(None) == []


def test_values_for_the_networks_of_phantoms_are_told_apart():
    words = ["--train.epochs", "5", "--start.train.epochs", "7", "--start.seed=1", "--seed=2"]
    assert semiseg.parted(words) == (
        ["--train.epochs", "7", "--seed=1"],
        ["--train.epochs", "5", "--seed=2"],
    )


@pytest.mark.slow
def test_every_slice_is_predicted_by_a_model_that_did_not_see_it(tmp_path, capsys, monkeypatch):
    from covidseg.cli.main import main as covidseg
    from covidseg.engine.task_data import read_part
    from covidseg.registry.hub import build_hub
    from covidseg.registry.phantom.generate import write_phantoms

    raw, hub, out = tmp_path / "raw", tmp_path / "hub", tmp_path / "runs"
    write_phantoms(raw, "tiny", datasets=["semiseg"], progress=False, workers=1)
    build_hub(raw, hub, workers=1, progress=False)
    both = [
        f"--data.cache={tmp_path / 'cache'}",
        "--grid.plane_size=[32,32]", "--patch.size=[32,32]", "--patch.batch_size=2",
        "--train.epochs=1", "--train.steps_per_epoch=1", "--train.workers=0",
        "--train.checkpoint_every=1", "--train.log_every=1", "--train.mixed_precision=no",
        "--window.mirror=false",
    ]  # fmt: skip
    drawn = ["--phantoms.size=tiny", "--phantoms.seeds=1", f"--phantoms.folder={tmp_path / 'ph'}"]
    of_starts = [word.replace("--", "--start.", 1) for word in (*both, *drawn)]
    options = ["--hub", str(hub), "--out", str(out), "--starts=2", *both, *of_starts]
    monkeypatch.setattr(semiseg, "run_side_by_side", run_here)
    main(options)
    assert "50 slices of 50" in capsys.readouterr().out
    starts = [read_run(out / name).train.start for name in ("all", "fold0", "fold1", "fold4")]
    assert starts == [str(out / "starts" / number) for number in "0101"]
    # An ensemble of what is in the folder is of the six, not of the networks of phantoms.
    assert [run.name for run in runs_in([out])] == ["all", *(f"fold{k}" for k in range(5))]
    scores = read_scores(out / "scores.csv")
    assert scores["case_id"].nunique() == len(scores) == 50
    for fold in range(5):
        learnt = {case.case_id for case in read_part(hub, f"semiseg-fold{fold}", "train").cases}
        predicted = {
            path.name.removesuffix(".nii.gz")
            for path in (out / f"fold{fold}/predictions/validation").glob("*.nii.gz")
        }
        assert len(learnt) + len(predicted) == 50
        assert not learnt & predicted

    # The model of all slices segments a folder of pictures.
    pictures = next(raw.rglob("TestingSet/LungInfection-Test/Imgs"))
    with pytest.raises(SystemExit) as ended:
        covidseg(["predict", "--run", str(out / "all"), str(pictures), "--out",
                  str(tmp_path / "predicted")])  # fmt: skip
    assert not ended.value.code
    assert len(list((tmp_path / "predicted").glob("*.png"))) == len(list(pictures.iterdir()))
