"""How much `covidseg check` costs beside reading and decompressing the same files.

    python benchmarks/check.py [--root data/full] [--cases 10] [--workers 2] [--out check.json]

Without ``--root`` full-size phantoms of MosMed and COVID-19-20 are drawn first (not timed). Both
sides use the same reader, the same number of processes and the same order; each file is read once
before, so that neither waits for the disk alone. The best of several rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from covidseg.core.parallel import map_cases
from covidseg.registry.cases import Case
from covidseg.registry.check_case import check_case
from covidseg.registry.find import find_cases
from covidseg.registry.read import read_image, read_stored_mask


def read_only(case: Case) -> int:
    """Read and decode every file of a case, and nothing else; returns the bytes decoded."""
    decoded = read_image(case).data.nbytes
    for mask in case.masks.values():
        if mask.format != "rtstruct":
            decoded += read_stored_mask(mask).data.nbytes
    return decoded


def draw(folder: Path, count: int) -> None:
    """Full-size phantoms of two datasets, ``count`` labelled cases in all."""
    from covidseg.registry.phantom.layouts import LAYOUTS

    for name, cases in (("mosmed", count // 2), ("covid1920", count - count // 2)):
        layout = LAYOUTS[name]
        jobs = [job for job in layout.jobs(0, "full") if len(job.outputs) > 1][:cases]
        for number, job in enumerate(jobs, 1):
            print(f"drawing {name} {number} of {cases}", end="\r", flush=True)
            layout.write(job, folder / layout.folder)
    print()


def timed(function: Callable[[Case], object], case: Case) -> tuple[float, object]:
    """Processor seconds that one case takes in its worker, and the result."""
    start = time.process_time()
    result = function(case)
    return time.process_time() - start, result


def run(function, cases: list[Case], workers: int) -> tuple[float, float, list]:
    """Wall seconds, processor seconds within the workers (without starting them), results."""
    start = time.perf_counter()
    outcomes = list(map_cases(partial(timed, function), cases, workers=workers, progress=False))
    wall = time.perf_counter() - start
    for case, outcome in outcomes:
        if isinstance(outcome, Exception):
            raise RuntimeError(f"{case.image}: {outcome}") from outcome
    return wall, sum(cpu for _, (cpu, _) in outcomes), [result for _, (_, result) in outcomes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of raw data; default: draw phantoms")
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.root
        if root is None:
            root = Path(temporary)
            draw(root, options.cases)
        found = find_cases(root)
        cases = found.cases[: options.cases]
        measure(cases, options, phantom=options.root is None or found.phantom)


def measure(cases: list[Case], options: argparse.Namespace, *, phantom: bool) -> None:
    run(read_only, cases, options.workers)
    rounds = []
    for _ in range(options.rounds):
        wall_read, cpu_read, results = run(read_only, cases, options.workers)
        wall_check, cpu_check, _ = run(check_case, cases, options.workers)
        rounds.append((wall_read, wall_check, cpu_read, cpu_check))
    wall_read, wall_check, cpu_read, cpu_check = map(min, zip(*rounds, strict=True))
    numbers = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()}",
        "python": platform.python_version(),
        "phantom": phantom,
        "cases": len(cases),
        "workers": options.workers,
        "decoded_mb": round(sum(results) / 1e6, 1),
        "wall_seconds": {"read": round(wall_read, 3), "check": round(wall_check, 3)},
        "wall_ratio": round(wall_check / wall_read, 3),
        # Without starting the processes, which costs both sides the same and would hide the rest.
        "processor_seconds": {"read": round(cpu_read, 3), "check": round(cpu_check, 3)},
        "processor_ratio": round(cpu_check / cpu_read, 3),
    }
    print(json.dumps(numbers, indent=1))
    if options.out:
        options.out.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
