"""All methods on COVID-SemiSeg: same start, slices, pool and steps; the student's teacher is the
supervised run."""

from __future__ import annotations

import pytest

from covidseg.core.errors import ConfigError
from covidseg.engine.runs import read_run
from covidseg.scoring.scores import read_scores
from covidseg.trainers import compare_semiseg, phantoms, pseudolabel, semiseg

TINY = [
    "--grid.plane_size=[32,32]", "--patch.size=[32,32]", "--patch.batch_size=2",
    "--train.epochs=2", "--train.steps_per_epoch=1", "--train.workers=0",
    "--train.checkpoint_every=1", "--train.log_every=1", "--train.mixed_precision=no",
    "--window.mirror=false",
]  # fmt: skip


def run_here(jobs, logs):
    """Instead of processes, each of which would import torch anew."""
    for job in jobs:
        trainer = phantoms if job.name.startswith("phantoms") else pseudolabel
        assert job.arguments[:2] == ["-m", trainer.__name__]
        trainer.main(job.arguments[2:])
        assert job.done() == job.steps


@pytest.mark.slow
def test_every_method_has_the_same_start_slices_and_steps(tmp_path, capsys, monkeypatch):
    from covidseg.registry.hub import build_hub
    from covidseg.registry.phantom.generate import write_phantoms

    raw, hub, out = tmp_path / "raw", tmp_path / "hub", tmp_path / "runs"
    write_phantoms(raw, "tiny", datasets=["semiseg", "covid-ct-seg"], progress=False, workers=1)
    build_hub(raw, hub, workers=1, progress=False)
    for module in (semiseg, compare_semiseg):
        monkeypatch.setattr(module, "run_side_by_side", run_here)
        monkeypatch.setattr(module, "FOLDS", range(1))
    shared = [*TINY, f"--data.cache={tmp_path / 'cache'}"]
    drawn = ["--phantoms.size=tiny", "--phantoms.seeds=1", f"--phantoms.folder={tmp_path / 'ph'}"]
    words = [
        "--hub", str(hub), "--out", str(out), "--seeds", "3",
        "--methods", "noisy-student",
        *shared, "--unlabelled.cases=4", "--unlabelled.batch_size=2",
        *(word.replace("--", "--start.", 1) for word in (*shared, *drawn)),
    ]  # fmt: skip
    compare_semiseg.main(words)
    said = capsys.readouterr().out
    assert "COVID-SemiSeg of PHANTOMS" in said
    assert "Holm over 1 tests" in said
    assert "validation, noisy-student: " in said
    scores = read_scores(out / "scores.csv")
    assert len(scores) == 2 * 10
    assert set(scores["algorithm"]) == {"supervised", "noisy-student"}
    assert set(scores["fold"].astype(int)) == {3}
    teacher, taught = (out / "seed3" / name / "fold0" for name in ("supervised", "noisy-student"))
    for run in (teacher, taught / "rounds/1/student"):
        assert read_run(run).train.start == str(out / "starts/3")
    assert str(teacher) in (taught / "manifest.json").read_text()
    # Called again, nothing is trained.
    monkeypatch.setattr(compare_semiseg, "learn_phantoms", lambda *asked: None)
    monkeypatch.setattr(compare_semiseg, "run_side_by_side", lambda jobs, logs: None)
    compare_semiseg.main(words)


def test_more_rounds_would_be_more_steps(tmp_path):
    with pytest.raises(ConfigError, match="takes more steps"):
        compare_semiseg.main(["--out", str(tmp_path), "--profile=cpu", "--rounds.count=2"])
