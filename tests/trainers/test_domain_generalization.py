"""The trainer of Task 2 as its user calls it: every method, resumed, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from covidseg.core.errors import ConfigError, SplitError
from covidseg.engine.checkpoint import last_checkpoint
from covidseg.engine.runs import open_runs
from covidseg.generalization.batch_norm import AdaptedPredictor
from covidseg.generalization.build import open_generalising_run
from covidseg.imaging.volume import Volume
from covidseg.trainers.domain_generalization import main

SMALL = [
    "--profile=demo", "--patch.size=[32,32]", "--patch.batch_size=4", "--network.features=[4,8]",
    "--train.epochs=1", "--train.steps_per_epoch=4", "--train.checkpoint_every=2",
    "--train.validate_every=1", "--train.workers=0", "--train.log_every=2",
    "--train.mixed_precision=no",
]  # fmt: skip
METHODS = ["gin", "gin-ipa", "slaug", "randconv", "mixstyle", "bigaug"]


@pytest.fixture(scope="session")
def train(sources_hub, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache2")

    def run(out, *words, recipe="task2-lung"):
        main(["--recipe", recipe, "--out", str(out), *SMALL, f"--data.hub={sources_hub}",
              f"--data.cache={cache}", *words])  # fmt: skip
        return out

    return run


def weights(run):
    return (last_checkpoint(run) / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(train, tmp_path, method):
    run = train(tmp_path / "run", f"--generalization.name={method}")
    losses = np.genfromtxt(run / "log.csv", delimiter=",", names=True)["loss"]
    assert np.isfinite(losses).all()


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(train, tmp_path, monkeypatch):
    # None of the methods has state of its own: what is drawn is the samples' seeds'.
    name = "--generalization.name=slaug"
    whole = train(tmp_path / "whole", name)

    from covidseg.engine import loop

    original, count = loop._Run._step, 0

    def stops(self, *arguments):
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(loop._Run, "_step", stops)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", name)
    monkeypatch.setattr(loop._Run, "_step", original)
    torch.manual_seed(99)
    train(tmp_path / "stopped", name, "--resume")
    assert weights(tmp_path / "stopped") == weights(whole)


def test_synthetic_lesions_need_no_label_but_the_lungs(train, tmp_path):
    run = train(
        tmp_path / "run", "--data.configuration=task2-structseg-lung",
        "--generalization.synthetic_lesions=true", "--generalization.name=gin",
        recipe="task2-infection",
    )  # fmt: skip
    predictor = open_runs([run], device="cpu")
    assert predictor.classes == 2
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["config"]["data"]["labels"] == ["lesion"]
    assert manifest["data"]["train"]["configuration"] == "task2-structseg-lung"
    assert "dice_lesion" in (run / "validation.csv").read_text()


def test_the_first_weights_know_no_covid_either(train, tmp_path):
    first = train(tmp_path / "first")
    manifest = json.loads((first / "manifest.json").read_text())
    own = train(tmp_path / "own", f"--train.start={first}")
    assert json.loads((own / "manifest.json").read_text())["start"]["run"] == str(first)
    # As if it had learnt the four scans of Task 1's first fold, itself or where it started from.
    manifest["data"]["train"] |= {"configuration": "task1-lung-fold0", "part": "train"}
    (first / "manifest.json").write_text(json.dumps(manifest))
    later = train(tmp_path / "later", f"--train.start={own}")
    for start in (later, own):
        said = json.loads((start / "manifest.json").read_text())
        said["start"]["learnt"][-1]["data"] = [manifest["data"]["train"]]
        (start / "manifest.json").write_text(json.dumps(said))
    for start in (first, own, later):
        with pytest.raises(SplitError, match=r"scans with COVID-19: train of task1-lung-fold0"):
            train(tmp_path / "next", f"--train.start={start}")
    # Phantoms that a recipe draws are no patients.
    manifest["config"]["phantoms"] = {}
    (first / "manifest.json").write_text(json.dumps(manifest))
    train(tmp_path / "next", f"--train.start={first}")
    (first / "manifest.json").unlink()
    with pytest.raises(SplitError, match="first: does not say what it learnt from"):
        train(tmp_path / "last", f"--train.start={first}")


def test_first_weights_may_be_gone_once_they_are_learnt_on(train, tmp_path):
    first = train(tmp_path / "first")
    own = train(tmp_path / "own", f"--train.start={first}")
    shutil.rmtree(first)
    before = weights(own)
    train(own, f"--train.start={first}", "--resume")
    assert weights(own) == before
    # What they had learnt from is still known, however often they are learnt on.
    later = train(tmp_path / "later", f"--train.start={own}")
    shutil.rmtree(own)
    last = train(tmp_path / "last", f"--train.start={later}")
    learnt = json.loads((last / "manifest.json").read_text())["start"]["learnt"]
    assert [Path(run["run"]) for run in learnt] == [later, own, first]
    assert {run["data"][0]["configuration"] for run in learnt} == {"task2-structseg-lung"}
    # A manifest from before that was kept there names the folder alone.
    said = json.loads((later / "manifest.json").read_text())
    del said["start"]["learnt"]
    (later / "manifest.json").write_text(json.dumps(said))
    with pytest.raises(SplitError, match="own: does not say what it learnt from"):
        train(tmp_path / "next", f"--train.start={later}")


def test_a_run_that_adapts_predicts_so(train, tmp_path):
    run = train(tmp_path / "run", "--network.norm=batch", "--generalization.adaptation=batch-norm")
    predictor = open_generalising_run(run, device="cpu")
    assert isinstance(predictor, AdaptedPredictor)
    volume = Volume(np.random.default_rng(0).integers(-1000, 100, (40, 40, 6)), np.eye(4))
    first = predictor.predict(volume)
    assert first.shape == volume.shape
    np.testing.assert_array_equal(predictor.predict(volume).data, first.data)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--data.part=test_covid"], SplitError, "20 training cases .* COVID-19, of covid-ct-seg"),
        (["--data.configuration=task2-nsclc-lung"], ConfigError, "NSCLC.*covidseg build"),
        (["--sources.more=[task2-msd-tumour]"], ConfigError, "is made of MSD"),
        (["--sources.more=[task2-structseg-target]"], ConfigError, "labels lesion"),
        (
            ["--data.configuration=task2-structseg-target",
             "--generalization.synthetic_lesions=true"],
            ConfigError, "painted into lungs, but the sources label lesion",
        ),
        (
            ["--generalization.synthetic_lesions=true", "--generalization.lesions_in_lungs=true"],
            ConfigError, "both true",
        ),
        (["--generalization.adaptation=batch-norm"], ConfigError, "norm batch"),
        (["--generalization.name=gan"], ConfigError, "gan"),
        (["--generalization.lesions.involved=[0,0.4]"], ConfigError, r"involved is \[0.*above 0"),
        (["--generalization.lesions.glass=[0.5,0.2]"], ConfigError, "lesser number first"),
        (["--generalization.mixstyle.alpha=0"], ConfigError, "mixstyle.alpha is 0"),
        (["--generalization.gin.layers=0"], ConfigError, "gin.layers is 0"),
        (["--generalization.batch_norm.prior=-0.5"], ConfigError, "prior is -0.5"),
        (["--generalization.slaug.percentile=70"], ConfigError, "0 to 50"),
        (["--generalization.bigaug.p=2"], ConfigError, "a share"),
        (["--generalization.gin.layer=3"], ConfigError, "layers"),
    ],
)  # fmt: skip
def test_a_users_mistake_is_named(train, tmp_path, words, error, message):
    with pytest.raises(error, match=message):
        train(tmp_path / "run", *words)
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_sources_of_very_different_spacing_are_planned(train, tmp_path, monkeypatch):
    """A second source whose slices are five times as thick: the median rules, nothing breaks."""
    import dataclasses

    from covidseg.generalization import sources
    from covidseg.imaging.nifti import read_nifti, write_nifti

    read_part, folder = sources.read_part, tmp_path / "thick"
    folder.mkdir()

    def thick(hub, configuration, name):
        part = read_part(hub, configuration, name)
        if name != "train":
            return part
        rows = []
        for row in part.rows[:3]:
            files = {}
            for which in ("image", "label"):
                volume = read_nifti(getattr(row.case, which))
                far = Volume(volume.data[:, :, ::5], volume.affine @ np.diag([1, 1, 5, 1]))
                files[which] = folder / f"{row.case.case_id}-{which}.nii.gz"
                write_nifti(files[which], far)
            case = dataclasses.replace(
                row.case, **files, content=None, case_id=f"thick-{row.case.case_id}", source="nsclc"
            )
            rows.append(dataclasses.replace(row, case=case))
        return dataclasses.replace(part, rows=[*part.rows[3:5], *rows])

    monkeypatch.setattr(sources, "read_part", thick)
    run = train(tmp_path / "run", "--patch.by_source=true", "--generalization.name=gin")
    assert json.loads((run / "manifest.json").read_text())["status"] == "complete"
