"""The supervised trainer as its user calls it: from a recipe to a run, and every wrong turn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from covidseg.core.errors import ConfigError, LabelError, LayoutError
from covidseg.engine.checkpoint import last_checkpoint
from covidseg.engine.runs import open_run, read_run, weights_digest
from covidseg.engine.segmentation import training_part
from covidseg.engine.task_data import read_part
from covidseg.trainers.supervised import main

SCRIPT = Path(__file__).resolve().parents[2] / "trainers" / "supervised.py"


def test_a_run_says_what_it_was_made_of(run, hub):
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["phantom"] is True
    data = manifest["data"]["train"]
    part = read_part(hub, "task1-lung-fold0", "train")
    assert data["configuration"] == "task1-lung-fold0"
    assert data["sha256"] == part.sha256
    assert sorted(data["cases"]) == sorted(case.case_id for case in part.cases)
    assert len(data["cases"]) == 4
    recipe = read_run(run)
    assert recipe.data.labels == ("left_lung", "right_lung")
    assert recipe.network.classes == 3
    assert recipe.grid.low < recipe.grid.mean < recipe.grid.high
    assert recipe.grid.spacing_mm[0] is None


def test_the_same_call_gives_the_same_weights(run, options, tmp_path):
    main(["--recipe", "task1-lung-2d", "--out", str(tmp_path / "again"), *options])
    files = [last_checkpoint(folder) / "model.safetensors" for folder in (run, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_finished_run_is_not_overwritten(run, options):
    with pytest.raises(ConfigError, match=r"holds a run already.*--resume"):
        main(["--recipe", "task1-lung-2d", "--out", str(run), *options])


def test_resume_with_another_network_is_refused(run, options):
    with pytest.raises(ConfigError, match="another configuration"):
        main(
            ["--recipe", "task1-lung-2d", "--out", str(run), "--resume", *options,
             "--network.features=[4,6]"]
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("--data.fold=7", ConfigError, "task1-lung-fold7.*task1-lung-fold"),
        ("--data.configuration=task2-nsclc-lung", ConfigError, "was not found or is incomplete"),
        ("--data.cases=[coronacases_099]", ConfigError, "no case 'coronacases_099'.*some of"),
        ("--data.part=holdout", ConfigError, "no part 'holdout'.*train"),
        ("--data.hub=/nowhere/hub", LayoutError, "covidseg build"),
        ("--optim.momentun=0.9", ConfigError, "momentum"),
        ("--patch.size=[31,31]", ConfigError, "cannot be halved"),
        ("--patch.size=[16,16,16]", ConfigError, "2 numbers"),
        ("--grid.lung_and_tissue=[32,208]", ConfigError, "grid.intensity is"),
        ("--train.processes=2", ConfigError, "train.processes is 2"),
    ],
)
def test_a_users_mistake_is_named(options, tmp_path, change, error, message):
    arguments = ["--recipe", "task1-lung-2d", "--out", str(tmp_path / "run"), *options]
    name = change.split("=")[0]
    arguments = [word for word in arguments if not word.startswith(name + "=")]
    if name == "--data.configuration":
        arguments.append("--data.fold=null")
    with pytest.raises(error, match=message):
        main([*arguments, change])


def test_a_patch_larger_than_every_scan_is_padded(options, tmp_path):
    main(
        ["--recipe", "task1-infection-2d", "--out", str(tmp_path / "run"), *options,
         "--patch.size=[64,64]", "--train.steps_per_epoch=2"]
    )  # fmt: skip
    predictor = open_run(tmp_path / "run", device="cpu")
    assert predictor.sliding.window == (1, 64, 64)


def test_no_foreground_in_the_fold_is_an_error(hub, options, monkeypatch):
    import dataclasses

    from covidseg.trainers import supervised

    def empty(data):
        part = training_part(data)
        rows = [
            dataclasses.replace(row, case=dataclasses.replace(row.case, values={9: 1}))
            for row in part.rows
        ]
        return dataclasses.replace(part, rows=rows)

    monkeypatch.setattr(supervised, "training_part", empty)
    with pytest.raises(LabelError, match="no training case has a foreground voxel"):
        main(["--recipe", "task1-lung-2d", "--out", "/nowhere/run", *options])


@pytest.mark.slow
def test_two_processes_train_the_same_recipe_from_the_script(run, options, tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(SCRIPT), "--recipe", "task1-lung-2d", "--out", str(tmp_path / "two"), *options,
    ]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [
        np.genfromtxt(folder / "log.csv", delimiter=",", names=True)["loss"]
        for folder in (run, tmp_path / "two")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.slow
def test_a_mistake_ends_the_script_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--recipe", "task1-lung-5d", "--out", str(tmp_path)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "task1-lung-3d" in done.stderr


@pytest.mark.slow
def test_a_run_goes_on_from_the_first_weights_it_had_alone(run, options, tmp_path):
    def call(out, *words):
        main(["--recipe", "task1-lung-2d", "--out", str(out), "--resume", *options, *words])
        return (out / "manifest.json").read_text()

    start = shutil.copytree(run, tmp_path / "start", symlinks=True)
    out = tmp_path / "run"
    before = call(out, f"--train.start={start}")
    with pytest.raises(ConfigError, match=r"began from the weights of .*names random weights"):
        call(out)
    other = shutil.copytree(run, tmp_path / "other", symlinks=True)
    manifest = json.loads((other / "manifest.json").read_text())
    # The same run in another place is the same weights.
    assert call(out, f"--train.start={other}") == before
    (other / "manifest.json").write_text(json.dumps({**manifest, "finished": "later"}))
    with pytest.raises(ConfigError, match=r"names the weights of .*other \(later\)"):
        call(out, f"--train.start={other}")
    # Where they are gone, what was learnt since goes on and predicts.
    shutil.rmtree(start)
    for spelt in (start, f"{tmp_path}/other/../start/", os.path.relpath(start)):
        assert call(out, f"--train.start={spelt}") == before
    with pytest.raises(ConfigError, match=r"train\.start now names the weights of"):
        call(out, "--train.start=/elsewhere")
    with pytest.raises(ConfigError, match="began from random weights"):
        call(run, f"--train.start={other}")


def test_a_run_predicts_as_its_recipe_says_now(run, options, tmp_path):
    own = shutil.copytree(run, tmp_path / "run", symlinks=True)
    before = weights_digest(own)
    words = ["--recipe", "task1-lung-2d", "--out", str(own), "--resume", *options]
    main([*words, "--train.log_every=2"])
    assert weights_digest(own) == before
    main([*words, "--window.mirror=true", "--window.logit_adjustment=0.85", "--window.overlap=0.6"])
    assert weights_digest(own) != before
    predictor = open_run(own, device="cpu")
    assert predictor.mirror_axes
    assert predictor.logit_adjustment == 0.85
    assert predictor.sliding.overlap == 0.6
    assert read_run(own).train.log_every == 3  # what was done is not said otherwise


def test_the_weights_an_encoder_began_with_may_be_gone(hub, options, tmp_path):
    weights = tmp_path / "encoder.pth"
    torch.save(smp_encoder().state_dict(), weights)
    words = [
        "--recipe", "task1-lung-2d", "--out", str(tmp_path / "run"), *options,
        "--network.family=smp", "--network.encoder=resnet18", "--network.features=null",
        "--network.deep_supervision=false",
        f"--network.encoder_weights={weights}",
    ]  # fmt: skip
    main(words)
    weights.unlink()
    main([*words, "--resume"])
    assert open_run(tmp_path / "run", device="cpu").networks


def smp_encoder():
    import segmentation_models_pytorch as smp

    return smp.encoders.get_encoder("resnet18", in_channels=1, weights=None)
