"""Trainings side by side: each in its own process, and none left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from covidseg.core.errors import ConfigError, StorageError, TrainingError
from covidseg.trainers import side_by_side
from covidseg.trainers.side_by_side import Job, places, run_side_by_side, unfinished

TRAINS = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.mkdir(); "
LOGS = "(p / 'log.csv').write_text('step,loss\\n1,0.5\\n4,0.4\\n')"


def job(name, run, code, steps=4):
    return Job(name, ["-c", TRAINS + code, str(run)], [(run, steps)])


def test_all_jobs_are_done(tmp_path):
    jobs = [job(f"fold{n}", tmp_path / f"fold{n}", LOGS) for n in range(3)]
    run_side_by_side(jobs, tmp_path / "logs")
    assert [one.done() for one in jobs] == [4, 4, 4]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "fold0.log", "fold1.log", "fold2.log",
    ]  # fmt: skip


def test_a_training_to_its_end_is_finished(tmp_path):
    jobs = [job(name, tmp_path / name, LOGS) for name in ("complete", "running", "absent")]
    for name in ("complete", "running"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"status": name}))
    assert [one.name for one in unfinished(jobs)] == ["running", "absent"]


def test_a_job_whose_results_are_missing_is_not_finished(tmp_path):
    run = tmp_path / "fold0"
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({"status": "complete"}))
    (run / "log.csv").write_text("step,loss\n4,0.4\n")
    one = Job("fold0", [], [(run, 4)], [run / "scores-test.csv"])
    assert unfinished([one]) == [one]
    assert one.now() == "fold0 (predicting)"
    (run / "scores-test.csv").touch()
    assert unfinished([one]) == []


def test_half_a_line_of_the_log_is_not_counted(tmp_path):
    one = job("fold0", tmp_path, LOGS, steps=9)
    (tmp_path / "log.csv").write_text("step,loss\n3,0.5\n4,0.4\n\n")
    assert one.done() == 4
    (tmp_path / "log.csv").write_text("step,loss\n")
    assert one.done() == 0
    (tmp_path / "log.csv").unlink()
    assert one.done() == 0


def test_a_failure_stops_the_others_and_names_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(side_by_side, "places", lambda jobs: [{}, {}])
    told = "import signal, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(print('told'))); "
    waits = job("waits", tmp_path / "waits", told + "time.sleep(60)")
    fails = job("fails", tmp_path / "fails", "import time; time.sleep(3); sys.exit('no such fold')")
    began = time.monotonic()
    with pytest.raises(TrainingError, match="fails failed with exit code 1: no such fold"):
        run_side_by_side([waits, fails], tmp_path / "logs")
    assert time.monotonic() - began < 30
    assert (tmp_path / "logs" / "waits.log").read_text() == "told\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_driver_leaves_no_training_behind(tmp_path, number):
    code = f"""
        from pathlib import Path
        from covidseg.trainers.side_by_side import Job, run_side_by_side
        sleeps = ["-c", "import os, time, pathlib; pathlib.Path({str(tmp_path / "pid")!r})"
                  ".write_text(str(os.getpid())); time.sleep(60)"]
        run_side_by_side([Job("sleeps", sleeps, [(Path("nowhere"), 1)])], Path({str(tmp_path)!r}))
    """
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.DEVNULL
    )
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(number)
    driver.wait(30)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_script_that_is_ended_says_how_to_go_on(number):
    code = """
        import time
        from covidseg.trainers.options import run_main
        run_main(lambda: (print("begun", flush=True), time.sleep(60)))
    """
    script = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert script.stdout.readline() == "begun\n"
    script.send_signal(number)
    assert "with --resume" in script.communicate(timeout=30)[1]
    assert script.returncode == 130


def test_logs_that_cannot_be_written_are_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        run_side_by_side([job("any", tmp_path / "any", "")], tmp_path / "file" / "logs")


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(side_by_side.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert places(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert places(100) == [{"OMP_NUM_THREADS": "1"}] * 8


def test_each_gpu_gets_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(side_by_side.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert places(6) == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert places(1) == [{"CUDA_VISIBLE_DEVICES": "0"}]


def test_several_share_a_gpu_where_they_are_told_to(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(side_by_side.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("COVIDSEG_TRAININGS_PER_GPU", "2")
    # Every GPU gets one before any gets a second.
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places(3)] == ["3", "5", "3"]
    monkeypatch.setenv("COVIDSEG_TRAININGS_PER_GPU", "some")
    with pytest.raises(ConfigError, match="COVIDSEG_TRAININGS_PER_GPU is 'some'"):
        places(3)


def test_it_is_not_for_a_launcher_of_several_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="plain python"):
        places(2)


def test_a_training_asked_for_twice_is_one(capsys):
    from covidseg.trainers.options import Once, recipe_parser

    parser = recipe_parser("")
    parser.add_argument("--folds", nargs="+", type=int, action=Once)
    assert parser.parse_args(["--folds", "1", "0", "1"]).folds == [1, 0]
