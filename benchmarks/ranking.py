"""How long a ranking of 98 algorithms in 6 tasks with 1,000 bootstrap samples takes.

    python benchmarks/ranking.py [--algorithms 98] [--cases 23] [--tasks 6] [--bootstraps 1000]
                                 [--workers 2] [--json ranking.json]

Beside it stands the obvious way: a loop of ``scipy.stats.wilcoxon`` over the ordered pairs, timed
on one bootstrap sample of one task and multiplied ("extrapolated"): the whole would take hours.
Both compute the same p-values, which is checked. Scores are random numbers of the size and ties of
real ones; no data is needed.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from scipy import stats

from covidseg.core.parallel import default_workers
from covidseg.scoring.bootstrap_ranking import bootstrap_ranking, draw_weights
from covidseg.scoring.ranking import Challenge, Task, rank_challenge, task_tests


def challenge(algorithms: int, cases: int, tasks: int) -> Challenge:
    rng = np.random.default_rng(0)
    names = tuple(f"team {k:03}" for k in range(algorithms))
    made = []
    for task in range(tasks):
        skill = np.linspace(0.68, 0.2, algorithms)[:, None]
        values = skill + rng.normal(0, 0.15, cases) + rng.normal(0, 0.12, (algorithms, cases))
        values = np.clip(values, 0, 1).round(3)
        case_names = tuple(f"case {k:03}" for k in range(cases))
        made.append(Task(f"task {task}", names, case_names, values, values < 0, 0.0))
    return Challenge(tuple(made))


def loop_over_scipy(values: np.ndarray) -> np.ndarray:
    """P-values of all ordered pairs, one call each; shape (algorithms, algorithms)."""
    count = len(values)
    p = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(count):
            if i == j:
                continue
            if (values[i] == values[j]).all():
                p[i, j] = 1
                continue
            p[i, j] = stats.wilcoxon(
                values[i],
                values[j],
                zero_method="wilcox",
                correction=True,
                alternative="greater",
                method="approx",
            ).pvalue
    return p


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--algorithms", type=int, default=98)
    parser.add_argument("--cases", type=int, default=23)
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--bootstraps", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=min(2, default_workers()))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    made = challenge(options.algorithms, options.cases, options.tasks)
    result: dict = {
        "machine": {
            "processor": processor(),
            "processors": default_workers(),
            "workers": options.workers,
            "python": platform.python_version(),
            "numpy": metadata.version("numpy"),
            "scipy": metadata.version("scipy"),
        },
        "algorithms": options.algorithms,
        "cases": options.cases,
        "tasks": options.tasks,
        "bootstraps": options.bootstraps,
        "seconds": {},
    }
    print(f"{processor()}, {options.workers} workers")
    for adjust in ("none", "holm"):
        start = time.perf_counter()
        ranking = rank_challenge(made, adjust=adjust)
        result["seconds"][f"full ranking, {adjust}"] = time.perf_counter() - start
        for mode in ("unique", "multiplicity"):
            start = time.perf_counter()
            bootstrap_ranking(
                ranking,
                samples=options.bootstraps,
                mode=mode,
                workers=options.workers,
                progress=False,
            )
            result["seconds"][f"bootstrap, {adjust}, {mode}"] = time.perf_counter() - start
    result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    task = made.tasks[0]
    weights = draw_weights(0, 0, task.name, options.cases, "unique")
    drawn = task.values[:, weights > 0]
    start = time.perf_counter()
    expected = loop_over_scipy(drawn)
    one = time.perf_counter() - start
    tests = task_tests(task, "worst")
    difference = np.nanmax(np.abs(tests.matrix(tests.p_values(weights[None])[0]) - expected))
    if difference > 1e-9:
        raise SystemExit(f"p-values differ by {difference}")
    result["largest_difference_from_scipy"] = float(difference)
    result["scipy_loop_seconds_for_one_sample_of_one_task"] = one
    result["scipy_loop_extrapolated_hours"] = one * options.tasks * options.bootstraps / 3600
    ours = result["seconds"]["bootstrap, none, unique"]
    result["times_faster_than_extrapolated"] = one * options.tasks * options.bootstraps / ours

    for name, seconds in result["seconds"].items():
        print(f"{seconds:8.2f} s   {name}")
    print(f"{result['peak_memory_mb']:8.0f} MB  peak of the process")
    print(
        f"{one:8.2f} s   loop over scipy.stats.wilcoxon, one sample of one task; extrapolated to "
        f"all of them: {result['scipy_loop_extrapolated_hours']:.1f} h on one processor, "
        f"{result['times_faster_than_extrapolated']:.0f} times as long; p-values differ by at most "
        f"{difference:.1e}"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
