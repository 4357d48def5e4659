"""The k-shot driver: each point learns from its support alone and is tested on its draw's scans."""

from __future__ import annotations

import json

import pytest

from covidseg.core.errors import ConfigError
from covidseg.fewshot.kshot import draw
from covidseg.scoring.scores import read_scores
from covidseg.trainers import kshot, side_by_side, supervised


@pytest.mark.parametrize(
    ("word", "remedy"),
    [("--data.cases=[a]", "--draws and --shots"), ("--data.fold=1", "Give --draws")],
)
def test_which_scans_are_learnt_from_is_the_curves(word, remedy, tmp_path):
    with pytest.raises(ConfigError, match=remedy):
        kshot.main([word, "--out", str(tmp_path / "out")])


@pytest.mark.slow
def test_a_run_of_another_recipe_is_refused_before_anything_is_trained(
    hub, options, tmp_path, nothing_begins
):
    words = [word for word in options if "data.hub" not in word]
    overrides = (*words, "--train.steps_per_epoch=1")
    curve = kshot.Curve(
        recipe="task1-infection-2d", profile=None, overrides=overrides, hub=hub, out=tmp_path
    )
    supervised.main(curve.words(kshot.Point(2, 1)))

    def call(*more):
        kshot.main([
            "--shots", "2", "1", "--draws", "2", "--hub", str(hub), "--out", str(tmp_path),
            *overrides, *more,
        ])  # fmt: skip

    with pytest.raises(nothing_begins, match="draw2-2-shot"):
        call()
    with pytest.raises(ConfigError, match=r"another configuration: optim.lr"):
        call("--optim.lr=0.1")


@pytest.mark.slow
def test_points_of_two_draws_from_training_to_the_table(
    hub, options, tmp_path, capsys, monkeypatch
):
    started = []

    def run_here(jobs, logs):
        for job in jobs:
            assert job.arguments[:2] == ["-m", "covidseg.trainers.kshot"]
            kshot.main(job.arguments[2:])
            assert job.done() == job.steps
            assert not side_by_side.unfinished([job])
        started.append(len(jobs))

    monkeypatch.setattr(kshot, "run_side_by_side", run_here)
    arguments = [
        "--shots", "2", "--draws", "0", "2", "--hub", str(hub), "--out", str(tmp_path),
        *[word for word in options if "data.hub" not in word], "--train.steps_per_epoch=2",
        "--train.checkpoint_every=2", "--train.log_every=1",
    ]  # fmt: skip
    kshot.main(arguments)
    table = capsys.readouterr().out
    assert "PHANTOM DATA" in table
    assert "8 test scans of 8 patients in 2 draws" in table
    out = tmp_path / "task1-infection-2d"
    for number in (0, 2):
        run = out / f"draw{number}" / "2-shot"
        learnt = json.loads((run / "manifest.json").read_text())["data"]["train"]["cases"]
        assert list(learnt) == [case.case_id for case in draw(number).support(2)]
        predicted = {path.name for path in (run / "predictions" / "test").iterdir()}
        assert predicted == {f"{case.case_id}.nii.gz" for case in draw(number).test}
    scores = read_scores(out / "scores.csv")
    assert scores.groupby("algorithm")["case_id"].nunique().to_dict() == {"2-shot": 8}
    for ending in ("md", "csv", "png", "svg"):
        assert (out / f"kshot.{ending}").stat().st_size > 300

    kshot.main(arguments)
    assert started == [2, 0]
