"""Several trainings at once on one machine, each in a process of its own.

Small networks leave most of a machine idle: two trainings side by side with one core each get
farther together than one training with two, and each GPU can have its own, or several where
`COVIDSEG_TRAININGS_PER_GPU` says how many.
"""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from covidseg.core.errors import ConfigError, TrainingError
from covidseg.core.files import storage_error
from covidseg.core.progress import progress_bar
from covidseg.engine import manifest
from covidseg.engine.monitor import LOG

PATIENCE_SECONDS = 60
PER_GPU = "COVIDSEG_TRAININGS_PER_GPU"


@dataclass(frozen=True)
class Job:
    """One process to be: ``python <arguments>``.

    Parameters
    ----------
    name
        Of the job, in messages and in its log's file name.
    arguments
        After the interpreter: ``("-m", "covidseg.trainers.supervised", ...)``. The job does
        nothing when it is called again after it was done, and goes on when it was stopped.
    runs
        Folders of the runs that it trains, whose logs say how far it is, and their steps.
    results
        Files that it leaves behind when the last run is complete.
    """

    name: str
    arguments: Sequence[str]
    runs: Sequence[tuple[Path, int]]
    results: Sequence[Path] = ()

    @property
    def steps(self) -> int:
        """Steps of all its runs."""
        return sum(steps for _, steps in self.runs)

    def done(self) -> int:
        """Steps that its runs have logged."""
        return sum(min(_last_step(run / LOG), steps) for run, steps in self.runs)

    def now(self) -> str:
        """Its name, and that its training is over where it is."""
        predicts = bool(self.results) and self.done() == self.steps
        return f"{self.name} (predicting)" if predicts else self.name


def _last_step(log: Path) -> int:
    if not log.is_file():
        return 0
    rows = list(csv.DictReader(log.read_text().splitlines()))
    try:
        return int(rows[-1]["step"]) if rows else 0
    except (TypeError, ValueError):  # a line that is being written
        return int(rows[-2]["step"]) if len(rows) > 1 else 0


def is_alone() -> bool:
    """Whether no launcher has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", 1)) == 1


def places(jobs: int) -> list[dict[str, str]]:
    """Environments of as many jobs as go at once: one a GPU, or as many as the variable
    `COVIDSEG_TRAININGS_PER_GPU` says; without a GPU the processor's cores shared out.

    Raises
    ------
    ConfigError
        This process is one of several that a launcher started, or the variable is no number.
    """
    if not is_alone():
        raise ConfigError(
            "was started as one of several processes, but starts its trainings itself",
            expected="one process, which puts a training on each GPU, or on each core",
            remedy="start it with plain python; for one training over several GPUs, launch "
            "trainers/supervised.py",
        )
    gpus = torch.cuda.device_count()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        each = _trainings_per_gpu()
        return [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(each) for gpu in visible.split(",")][
            :jobs
        ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = max(1, min(jobs, cores or 1))
    return [{"OMP_NUM_THREADS": str((cores or 1) // count)} for _ in range(count)]


def _trainings_per_gpu() -> int:
    given = os.environ.get(PER_GPU, "1")
    if not given.isdigit() or not int(given):
        raise ConfigError(
            f"the environment's {PER_GPU} is {given!r}",
            expected="how many trainings share a GPU, 1 or more",
        )
    return int(given)


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose last run is not complete, or of whose results one is missing."""
    return [
        job
        for job in jobs
        if not manifest.is_complete(job.runs[-1][0])
        or not all(result.exists() for result in job.results)
    ]


def run_side_by_side(jobs: Sequence[Job], logs: Path) -> None:
    """Run all jobs, as many at once as there are places; return when all are done.

    What they print goes to ``<logs>/<name>.log``. Where one fails or this process is interrupted,
    the others are stopped where they can go on.

    Raises
    ------
    TrainingError
        A job failed.
    """
    if not jobs:
        return
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise storage_error(fault, logs) from fault
    free = places(len(jobs))
    waiting = list(jobs)
    running: dict[str, tuple[subprocess.Popen, Job, dict[str, str]]] = {}
    with _bar(jobs) as bar, _stopped_in_the_end(running):
        while waiting or running:
            while waiting and free:
                job, place = waiting.pop(0), free.pop(0)
                running[job.name] = _start(job, place, logs), job, place
            time.sleep(0.5)
            for name, (process, job, place) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                free.append(place)
                if process.returncode:
                    raise _failure(job, process.returncode, logs)
            bar.n = sum(job.done() for job in jobs)
            bar.set_description(", ".join(job.now() for _, job, _ in running.values()), False)
            bar.update(0)


def _bar(jobs: Sequence[Job]):
    return progress_bar(
        total=sum(job.steps for job in jobs), initial=sum(job.done() for job in jobs), unit="step"
    )


def _start(job: Job, place: dict[str, str], logs: Path) -> subprocess.Popen:
    with open(logs / f"{job.name}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, *job.arguments],
            env={**os.environ, **place},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches this process alone, which then stops its jobs once, and waits.
            start_new_session=True,
        )


@contextlib.contextmanager
def _stopped_in_the_end(running: dict[str, tuple[subprocess.Popen, Job, dict[str, str]]]):
    # A batch system ends a job by SIGTERM: its trainings must not be left behind.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        for process, _, _ in running.values():
            process.send_signal(signal.SIGINT)
        for process, _, _ in running.values():
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _failure(job: Job, code: int, logs: Path) -> TrainingError:
    path = logs / f"{job.name}.log"
    return TrainingError(
        f"{job.name} failed with exit code {code}: {_last_line(path)}",
        path=path,
        remedy="read the log; the same command goes on where it was",
    )


def _last_line(path: Path) -> str:
    lines = [line for line in _lines(path) if line.strip()]
    return lines[-1].strip().rstrip(".") if lines else "it said nothing"


def _lines(path: Path) -> Iterator[str]:
    # A progress bar rewrites its line with carriage returns.
    yield from path.read_text(errors="replace").replace("\r", "\n").splitlines()
