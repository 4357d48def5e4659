"""COVID-SemiSeg with its unlabelled slices: students of the folds' own teachers."""

from __future__ import annotations

import pytest

from covidseg.core.errors import ConfigError
from covidseg.engine.runs import read_run
from covidseg.scoring.scores import read_scores
from covidseg.trainers import pseudolabel, semiseg, semiseg_pseudolabel, supervised

TINY = [
    "--grid.plane_size=[32,32]", "--patch.size=[32,32]", "--patch.batch_size=2",
    "--train.epochs=1", "--train.steps_per_epoch=1", "--train.workers=0",
    "--train.checkpoint_every=1", "--train.log_every=1", "--train.mixed_precision=no",
    "--window.mirror=false",
]  # fmt: skip
TRAINERS = {
    "covidseg.trainers.supervised": supervised,
    "covidseg.trainers.pseudolabel": pseudolabel,
}


def run_here(jobs, logs):
    """Instead of processes, each of which would import torch anew."""
    for job in jobs:
        TRAINERS[job.arguments[1]].main(job.arguments[2:])
        assert job.done() == job.steps


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    from covidseg.registry.hub import build_hub
    from covidseg.registry.phantom.generate import write_phantoms

    folder = tmp_path_factory.mktemp("semiseg")
    write_phantoms(
        folder / "raw", "tiny", datasets=["semiseg", "covid-ct-seg"], progress=False, workers=1
    )
    build_hub(folder / "raw", folder / "hub", workers=1, progress=False)
    return folder / "hub"


@pytest.mark.slow
def test_each_fold_has_a_student_of_its_own_teacher(hub, tmp_path, capsys, monkeypatch):
    for module in (semiseg, semiseg_pseudolabel):
        monkeypatch.setattr(module, "run_side_by_side", run_here)
        monkeypatch.setattr(module, "FOLDS", range(1))
    shared = ["--hub", str(hub), "--data.cache", str(tmp_path / "cache"), *TINY]
    teachers, out = tmp_path / "teachers", tmp_path / "students"
    semiseg.main(["--out", str(teachers), "--starts=0", *shared])
    capsys.readouterr()
    # An epoch with the pool, and one on the labelled slices alone.
    words = [word.replace("train.epochs=1", "train.epochs=2") for word in shared]
    words += ["--rounds.fine_tune_epochs=1", "--rounds.fine_tune_batch_size=4"]
    words += ["--teachers", str(teachers)]
    semiseg_pseudolabel.main(["--out", str(out), *words])
    said = capsys.readouterr().out
    assert "Gain over the teachers (PHANTOMS): " in said
    assert "PHANTOMS" in said.split("Students:")[1]
    scores = read_scores(out / "scores.csv")
    assert len(scores) == 10
    # Beside the pool fewer patches than where the manual labels are alone.
    sizes = [read_run(out / run).patch.batch_size for run in ("fold0/rounds/1/student", "fold0")]
    assert sizes == [2, 4]
    # The student of fold 0 was taught by the teacher of fold 0, and the last one by that of all.
    for name in ("fold0", "all"):
        log = (out / name / "manifest.json").read_text()
        assert str(teachers / name) in log
        student = read_run(out / name / "rounds/1/student")
        assert student.train.start == str(teachers / name)


def test_teachers_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"no finished teacher.*make semiseg"):
        semiseg_pseudolabel.main(["--teachers", str(tmp_path), "--out", str(tmp_path / "out")])


def test_gain_is_of_the_same_slices():
    import pandas as pd

    teachers = pd.DataFrame(
        {
            "case_id": [f"s{n}" for n in range(8)],
            "label": "infection",
            "dsc": [0.5] * 8,
            "patient_id": [f"p{min(n, 6)}" for n in range(8)],  # s6 and s7 are one patient's
            "phantom": False,
        }
    )
    students = teachers.iloc[::-1].assign(dsc=[0.6] * 7 + [0.5])
    said = semiseg_pseudolabel.gain(teachers, students)
    assert said.startswith("Gain over the teachers: +0.087 Dice")
    assert "7 of 8 slices better" in said
    assert "over patients p = 0.031" in said  # six that are better, of seven: 2 / 2 ** 6
