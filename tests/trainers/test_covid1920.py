"""COVID-19-20's drivers on a handful of phantoms: from a repository to the tables."""

from __future__ import annotations

import csv
import dataclasses
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from covidseg.core.errors import ConfigError
from covidseg.engine.task_data import read_part
from covidseg.pseudolabel.rounds import train_student
from covidseg.scoring.scores import read_scores
from covidseg.splits.canonical import canonical_cases
from covidseg.trainers import compare_semi
from covidseg.trainers.covid1920 import main as covid1920
from covidseg.trainers.submission import submitted_name, write_submission

LENIENT = [
    "--rounds.filter.foreground=0.51", "--rounds.filter.background=0.51",
    "--rounds.filter.max_entropy=1", "--rounds.filter.min_agreement=0",
    "--rounds.filter.keep_empty=true", "--rounds.fine_tune_epochs=1", "--train.epochs=2",
    "--train.steps_per_epoch=2", "--train.mixed_precision=no", "--grid.spacing_mm=[30,12,12]",
]  # fmt: skip


@pytest.fixture(scope="module")
def small_hub(tmp_path_factory) -> Path:
    """Ten training scans, the validation scans without labels, six tests, a pool."""
    from covidseg.registry.hub import build_hub
    from covidseg.registry.phantom import rosters
    from covidseg.registry.phantom.layouts import covid1920_jobs, covid1920_write

    raw = tmp_path_factory.mktemp("raw")
    (raw / "PHANTOM.json").write_text("{}")
    names = rosters.covid1920_names()
    wanted = {
        "train": set(names["train"][:10]),
        "validation": set(canonical_cases("covid1920")[:3]),
        "test_seen": set(names["test_seen"][:3]),
        "test_unseen": set(names["test_unseen"][:3]),
        "pool": {*names["pool"][:3], *rosters.covid1920_contaminated()},
    }
    for job in covid1920_jobs(0, "tiny"):
        if job.case in wanted[job.part]:
            covid1920_write(job, raw)
    for path in raw.rglob("Validation/*_seg.nii.gz"):
        path.unlink()
    hub = tmp_path_factory.mktemp("hub") / "hub"
    build_hub(raw, hub, workers=1, progress=False, partial=True)
    return hub


def words(small_hub, options, out):
    chosen = [word for word in options if not word.startswith(("--data.hub", "--train.steps"))]
    return [*chosen, *LENIENT, "--hub", str(small_hub), "--out", str(out), "--profile", "demo"]


@pytest.mark.slow
def test_from_the_folds_to_the_challenges_tables(small_hub, options, tmp_path, capsys, monkeypatch):
    starts = []

    def noted(*arguments, start=None):
        starts.append(start)
        return train_student(*arguments, start=start)

    monkeypatch.setattr("covidseg.trainers.covid1920.train_student", noted)
    arguments = [*words(small_hub, options, tmp_path), "--folds", "0", "3"]
    covid1920(arguments)
    # The demo has no time for students from random weights.
    assert starts == [tmp_path / "supervised" / fold for fold in ("fold0", "fold3")]
    printed = capsys.readouterr().out
    for text in (
        "PHANTOM DATA", "(published)", "between observers", "NSD at 1 mm", "NAVE", "Unseen source",
        "noisy student, round 1", "folds of the training part", "Paired comparisons",
    ):  # fmt: skip
        assert text in printed
    scores = read_scores(tmp_path / "scores.csv")
    counts = scores.groupby(["algorithm", "part"])["case_id"].nunique()
    assert counts["supervised"].to_dict() == {"test_seen": 3, "test_unseen": 3, "validation": 4}
    # Nothing that an evaluation part shows was learnt from; what was refused is listed.
    with open(tmp_path / "pool.csv", newline="") as file:
        states = {row["case_id"]: row["state"] for row in csv.DictReader(file)}
    assert sorted(states.values()) == ["refused"] * 3 + ["taken"] * 5
    # The challenge's validation scans have no labels here: archives to submit.
    for folder in ("supervised", "round1"):
        with zipfile.ZipFile(tmp_path / folder / "submission" / "validation.zip") as archive:
            assert archive.namelist() == ["004.nii.gz", "026.nii.gz", "033.nii.gz"]
    written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")}
    covid1920(arguments)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")} == written
    # With other folds it says so before the ensemble's predictions are these folds'.
    with pytest.raises(ConfigError, match=r"of the folds 0 3; .*--folds 0 3"):
        covid1920([*arguments[:-2], "0"])
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")} == written


@pytest.mark.slow
def test_all_methods_are_compared_with_the_supervised_one(
    small_hub, options, tmp_path, capsys, monkeypatch
):
    def run_here(jobs, logs):
        for job in jobs:
            assert job.arguments[:2] == ["-m", "covidseg.trainers.compare_semi"]
            compare_semi.main(job.arguments[2:])
            # As many steps as the noisy student and its teacher together.
            assert job.done() == job.steps == (8 if "supervised-longer" in job.name else 4)

    monkeypatch.setattr(compare_semi, "run_side_by_side", run_here)
    arguments = [
        *words(small_hub, options, tmp_path), "--unlabelled.labelled_cases=3",
        "--train.log_every=1",
        "--seeds", "0", "1", "--methods", "mean-teacher", "noisy-student",
        "supervised-longer",
    ]  # fmt: skip
    compare_semi.main(arguments)
    printed = capsys.readouterr().out
    assert "Holm over" in printed
    assert "test_unseen, noisy-student: " in printed
    scores = read_scores(tmp_path / "scores.csv")
    methods = {"supervised", "supervised-longer", "mean-teacher", "noisy-student"}
    assert len(scores) == 2 * len(methods) * 6
    assert set(scores["algorithm"]) == methods
    cases = [
        {
            method: sorted(
                json.loads((tmp_path / f"seed{seed}" / method / "manifest.json").read_text())[
                    "data"
                ]["labelled"]["cases"]
            )
            for method in methods
        }
        for seed in (0, 1)
    ]
    for by_method in cases:
        assert len({tuple(names) for names in by_method.values()}) == 1
    assert cases[0]["supervised"] != cases[1]["supervised"]
    # Called again with another recipe, it says so before anything is trained.
    monkeypatch.setattr(compare_semi, "run_side_by_side", None)
    for value in ("--method.mean_teacher.weight=0.5", "--rounds.fine_tune_lr=0.5"):
        with pytest.raises(ConfigError, match="was trained with another configuration"):
            compare_semi.main([*arguments, value])


@pytest.mark.parametrize(
    ("word", "finding"),
    [
        ("--method.name=mean-teacher", "method.name is mean-teacher"),
        ("--rounds.teachers=3", "rounds.teachers is 3"),
        ("--unlabelled.labelled_cases=4", "labelled_cases is 4"),
        ("--unlabelled.batch_size=0", "unlabelled.batch_size is 0"),
        ("--data.hub=/elsewhere", "Give --hub"),
        ("--data.fold=1", "Give --folds"),
    ],
)
def test_what_the_protocol_decides_is_not_overridden(small_hub, tmp_path, word, finding):
    with pytest.raises(ConfigError, match=finding):
        covid1920(["--hub", str(small_hub), "--out", str(tmp_path), "--profile", "demo", word])


def test_tests_without_labels_are_said_before_the_first_training(
    small_hub, options, tmp_path, monkeypatch
):
    def without_labels(hub, configuration, name):
        part = read_part(hub, configuration, name)
        rows = [
            dataclasses.replace(row, case=dataclasses.replace(row.case, label=None))
            for row in part.rows
        ]
        return dataclasses.replace(part, rows=rows) if name == "test_unseen" else part

    monkeypatch.setattr(compare_semi, "read_part", without_labels)
    with pytest.raises(ConfigError, match="3 of the 3 scans of test_unseen have no label"):
        compare_semi.main(words(small_hub, options, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_case_that_is_missing_counts_in_the_means_by_seed():
    rows = [
        {
            "task": "covid1920", "algorithm": name, "fold": 0, "part": "test_seen",
            "dataset": "covid1920", "case_id": case, "patient_id": case, "label": "infection",
            "dsc": dsc, "nsd_1mm": dsc, "nave": 0.5, "volume_prediction_ml": 1.0,
            "volume_reference_ml": 1.0, "status": status, "message": "", "policy": "undefined",
            "phantom": True,
        }
        for name, case, dsc, status in (
            ("bcp", "1", 0.8, "ok"), ("bcp", "2", None, "missing_prediction"),
            ("supervised", "1", 0.5, "ok"), ("supervised", "2", 0.4, "ok"),
        )
    ]  # fmt: skip
    said = compare_semi.by_seed(pd.DataFrame(rows))
    assert "test_seen, bcp: 0.400" in said
    assert "test_seen, supervised: 0.450" in said


def test_more_rounds_would_be_more_steps(small_hub, options, tmp_path):
    with pytest.raises(ConfigError, match="takes more steps"):
        compare_semi.main([*words(small_hub, options, tmp_path), "--rounds.count=2"])


@pytest.mark.parametrize(
    ("word", "finding"),
    [
        ("--train.epochs=1", "rounds.fine_tune_epochs is 1"),
        ("--unlabelled.batch_size=6", "method bcp mixes as many labelled as unlabelled patches"),
    ],
)
def test_what_one_method_cannot_do_is_said_before_another_is_trained(
    small_hub, options, tmp_path, monkeypatch, word, finding
):
    monkeypatch.setattr(compare_semi, "run_side_by_side", None)
    with pytest.raises(ConfigError, match=finding):
        compare_semi.main([*words(small_hub, options, tmp_path), word])


def test_names_that_the_challenges_site_takes(tmp_path):
    assert submitted_name("volume-covid19-A-0004", "validation") == "004.nii.gz"
    assert submitted_name("volume-covid19-A-0180_0", "validation") == "180_0.nii.gz"
    assert submitted_name("volume-covid19-A-0004", "test_seen") == "volume-covid19-A-0004.nii.gz"
    (tmp_path / "volume-covid19-A-0004.nii.gz").write_bytes(b"map")
    names = ["volume-covid19-A-0004", "volume-covid19-A-0026"]
    absent = write_submission(tmp_path, names, "validation", tmp_path / "v.zip")
    assert absent == ["volume-covid19-A-0026"]
    with zipfile.ZipFile(tmp_path / "v.zip") as archive:
        assert archive.read("004.nii.gz") == b"map"
