"""The Task 1 driver from a repository to the table, and that it does nothing twice."""

from __future__ import annotations

import hashlib
import os

import pandas as pd
import pytest

from covidseg.core.errors import ConfigError
from covidseg.imaging.nifti import read_header, read_nifti, write_nifti
from covidseg.scoring.scores import read_scores
from covidseg.trainers import supervised
from covidseg.trainers.task1 import main


@pytest.mark.slow
def test_a_fold_from_training_to_the_table(hub, options, tmp_path, capsys):
    arguments = [
        "--subtasks", "infection", "--dimensions", "2d", "--folds", "0", "--hub", str(hub),
        "--out", str(tmp_path), *[word for word in options if "data.hub" not in word],
    ]  # fmt: skip
    main(arguments)
    table = capsys.readouterr().out
    assert "PHANTOM DATA" in table
    assert "3D U-Net (published)" in table
    assert "67.3±22.3" in table  # the published average stands beside
    scores = read_scores(tmp_path / "scores.csv")
    counts = scores.groupby("part")["case_id"].nunique()
    assert counts.to_dict() == {"test": 16, "test_mosmed": 50}
    assert scores["phantom"].all()
    assert set(scores["status"]) <= {"ok", "prediction_empty"}
    # 10_85902_1 and 10_85902_3 are two scans of one patient: intervals must know.
    assert scores["patient_id"].nunique() < scores["case_id"].nunique()
    for name in ("task1.md", "task1.csv", "task1.tex"):
        assert (tmp_path / name).stat().st_size > 500
    overlays = list((tmp_path / "figures").glob("*overlays.png"))
    assert len(overlays) == 1
    fold = tmp_path / "task1-infection-2d" / "fold0"
    predicted = sorted((fold / "predictions" / "test").glob("*.nii.gz"))
    assert len(predicted) == 16
    reference = fold / "predictions" / "test-references" / predicted[0].name
    assert read_header(predicted[0]).shape == read_header(reference).shape

    # One prediction is lost, one is of other weights: both are made again and scored, no other.
    kept = {path: os.stat(path).st_mtime_ns for path in predicted[2:]}
    first = hashlib.sha256(predicted[1].read_bytes()).hexdigest()
    predicted[0].unlink()
    write_nifti(predicted[1], empty_like(predicted[1]), description="covidseg another")
    main(arguments)
    assert predicted[0].exists()
    assert hashlib.sha256(predicted[1].read_bytes()).hexdigest() == first
    assert {path: os.stat(path).st_mtime_ns for path in kept} == kept
    pd.testing.assert_frame_equal(read_scores(tmp_path / "scores.csv"), scores)
    # A finished fold is no answer to another question.
    with pytest.raises(ConfigError, match=r"another configuration: .*dice_weight"):
        main([*arguments, "--loss.dice_weight=3"])


@pytest.mark.slow
def test_a_run_of_another_recipe_is_refused_before_anything_is_trained(
    hub, options, tmp_path, nothing_begins
):
    words = [word for word in options if "data.hub" not in word]
    run = tmp_path / "task1-infection-2d" / "fold0"
    supervised.main([
        "--recipe", "task1-infection-2d", "--data.fold=0", "--out", str(run), *options,
        "--train.steps_per_epoch=1",
    ])  # fmt: skip

    def call(*more):
        main([
            "--subtasks", "infection", "--dimensions", "2d", "--folds", "1", "0", "--hub", str(hub),
            "--out", str(tmp_path), *words, "--train.steps_per_epoch=1", *more,
        ])  # fmt: skip

    with pytest.raises(nothing_begins, match="fold1"):
        call()
    with pytest.raises(ConfigError, match=r"another configuration: .*dice_weight"):
        call("--loss.dice_weight=3")
    # As is one whose first weights were others.
    with pytest.raises(ConfigError, match="began from random weights"):
        call(f"--train.start={run}")


def empty_like(path):
    volume = read_nifti(path)
    return volume.with_data(volume.data * 0)
