"""Writing a folder of phantoms: every dataset, in its own raw layout, resumable."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from covidseg.core.errors import ConfigError, CovidsegError, StorageError
from covidseg.core.parallel import map_cases
from covidseg.registry.phantom.layouts import LAYOUTS, Job, write_text
from covidseg.registry.phantom.marker import MARKER
from covidseg.registry.phantom.scan import SIZES

VERSION = 2
"""Counts changes to what is drawn: phantoms of different versions are different data."""


@dataclass
class Written:
    """What a run did: drawings made and kept, and the faults by case."""

    drawn: int = 0
    kept: int = 0
    faults: dict[str, CovidsegError] = field(default_factory=dict)


def write_phantoms(
    out: str | os.PathLike[str],
    size: str = "small",
    *,
    datasets: Sequence[str] | None = None,
    seed: int = 0,
    unlabelled: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> Written:
    """Draw phantoms of the datasets named (all, if None) below ``out``.

    Each case is a function of ``(seed, dataset, case ID, size)`` alone. Cases that stand whole
    from an earlier run of the same seed, size and version are kept, so an interrupted run is
    resumed by calling it again. Without ``unlabelled``, scans that have no annotation are left to
    a later call.

    Raises
    ------
    ConfigError
        An unknown dataset or size, or ``out`` holds phantoms of another seed, size or version.
    StorageError
        A dataset's folder holds files that are not phantoms, or the disk refuses.
    """
    out = Path(out)
    if size not in SIZES:
        raise ConfigError(f"size {size!r} is not known", expected="one of " + ", ".join(SIZES))
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative", expected="0 or more")
    names = list(dict.fromkeys(datasets or LAYOUTS))
    if unknown := [name for name in names if name not in LAYOUTS]:
        raise ConfigError(
            f"dataset {unknown[0]!r} is not known", expected="one of " + ", ".join(LAYOUTS)
        )
    origin = {"phantom": True, "seed": seed, "size": size, "version": VERSION}
    _claim(out, origin, names)
    jobs, written = [], Written()
    for name in names:
        for job in LAYOUTS[name].jobs(seed, size):
            if not (unlabelled or job.labelled):
                continue
            folder = out / LAYOUTS[name].folder
            if all((folder / file).exists() for file in job.outputs):
                written.kept += 1
            else:
                jobs.append(job)
    with _one_thread_each():
        for job, result in map_cases(
            partial(_draw, out), jobs, workers=workers, description=f"phantoms, {size}",
            progress=progress,
        ):  # fmt: skip
            if isinstance(result, StorageError):
                raise result
            if isinstance(result, CovidsegError):
                written.faults[f"{job.dataset}/{job.case}"] = result
            elif isinstance(result, Exception):
                raise result
            else:
                written.drawn += 1
    for name in names:
        layout = LAYOUTS[name]
        if layout.extras:
            layout.extras(out / layout.folder, seed, size)
    return written


def _draw(out: Path, job: Job) -> None:
    layout = LAYOUTS[job.dataset]
    layout.write(job, out / layout.folder)


def _claim(out: Path, origin: dict, names: Sequence[str]) -> None:
    """Put markers on the folders, refusing those that hold something else."""
    places = {out: "all", **{out / LAYOUTS[name].folder: name for name in names}}
    for folder in places:
        try:
            entries = list(os.scandir(folder)) if folder.exists() else []
        except OSError as fault:
            raise StorageError(
                f"cannot be read ({fault.strerror})", path=folder, remedy="choose another --out"
            ) from fault
        marker = folder / MARKER
        if marker.exists():
            try:
                found = json.loads(marker.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = {}
            if any(found.get(key) != value for key, value in origin.items()):
                was = ", ".join(f"{key} {found.get(key)}" for key in ("size", "seed", "version"))
                raise ConfigError(
                    f"holds phantoms of {was}",
                    path=folder,
                    expected=", ".join(f"{k} {origin[k]}" for k in ("size", "seed", "version")),
                    remedy="choose another --out, or remove that folder",
                )
        elif entries:
            raise StorageError(
                "holds files that are not phantoms",
                path=folder,
                expected="an empty folder, or phantoms with their " + MARKER,
                remedy="choose another --out, so that phantoms never mix with real data",
            )
    for folder, name in places.items():
        if not (folder / MARKER).exists():
            note = {
                "note": "Procedural phantoms by covidseg: no patient was ever scanned for these."
            }
            content = {**origin, **({} if name == "all" else {"dataset": name}), **note}
            write_text(folder / MARKER, json.dumps(content, indent=1) + "\n")


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep the workers' linear algebra to one thread each: they share the processors already."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
