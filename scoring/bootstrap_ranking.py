"""How stable a ranking is: the same ranking on many bootstrap samples of the cases."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from covidseg.core.errors import ConfigError
from covidseg.core.parallel import default_workers
from covidseg.core.progress import progress_bar
from covidseg.scoring.ranking import (
    Ranking,
    doubled_consensus,
    kendall_tau_b,
    lowest_ranks,
    task_tests,
)
from covidseg.scoring.wilcoxon import SignedRankTests, significant_tests

BootstrapMode = Literal["unique", "multiplicity"]

# Samples computed together; 98 algorithms then need about 50 MB a worker.
_BLOCK = 64


@dataclass(frozen=True)
class Bootstraps:
    """Ranks in every bootstrap sample.

    ``ranks`` has shape (tasks, samples, algorithms), ``consensus`` (samples, algorithms), both
    int16; ``tau`` has shape (tasks, samples) and ``tau_consensus`` (samples,): Kendall's tau-b
    against the ranking on all cases, NaN where one of the two is constant.
    """

    ranking: Ranking
    mode: BootstrapMode
    seed: int
    ranks: np.ndarray
    consensus: np.ndarray
    tau: np.ndarray
    tau_consensus: np.ndarray

    @property
    def samples(self) -> int:
        """Number of bootstrap samples."""
        return self.consensus.shape[0]

    def without_winner(self) -> np.ndarray:
        """Share of samples, by task, in which no pair differed: all share rank 1."""
        return (self.ranks == 1).all(axis=2).mean(axis=1)


def draw_weights(seed: int, sample: int, task: str, cases: int, mode: BootstrapMode) -> np.ndarray:
    """How often bootstrap sample number ``sample`` holds each of a task's cases; int64 (cases,).

    ``cases`` cases are drawn with replacement, anew for every task, as challengeR does. In mode
    "unique" a case drawn more than once counts once: challengeR's test-then-rank matches cases by
    their name, so that duplicates collapse and about 63 % of the cases remain. In mode
    "multiplicity" it counts as often as it was drawn, as a bootstrap is defined.

    A function of its arguments alone, so neither the number of samples, nor of workers, nor the
    other tasks change a sample.
    """
    generator = np.random.default_rng([seed, sample, zlib.crc32(task.encode())])
    counts = np.bincount(generator.integers(0, cases, cases), minlength=cases)
    return np.minimum(counts, 1) if mode == "unique" else counts


def bootstrap_ranking(
    ranking: Ranking,
    *,
    samples: int = 1000,
    seed: int = 0,
    mode: BootstrapMode = "unique",
    workers: int | None = None,
    progress: bool = True,
) -> Bootstraps:
    """Repeat ``ranking`` on ``samples`` bootstrap samples of each task's cases.

    The result depends on ``seed`` and not on ``workers``, which are threads. Every sample is
    ranked with the adjustment, level and missing policy of ``ranking``.
    """
    if samples < 1:
        raise ConfigError(f"{samples} bootstrap samples", expected="at least 1")
    if seed < 0:
        raise ConfigError(f"seed is {seed}", expected="a whole number of at least 0")
    if mode not in ("unique", "multiplicity"):
        raise ConfigError(
            f"bootstrap mode {mode!r} is not known", expected="unique or multiplicity"
        )
    algorithms = len(ranking.challenge.algorithms)
    ranks = np.empty((len(ranking.tasks), samples, algorithms), dtype=np.int16)
    workers = max(1, workers or default_workers())

    def fill(row: int, tests: SignedRankTests, start: int) -> int:
        stop = min(start + _BLOCK, samples)
        name = ranking.tasks[row].task.name
        weights = np.stack(
            [draw_weights(seed, k, name, tests.cases, mode) for k in range(start, stop)]
        )
        ranks[row, start:stop] = ranks_of_samples(tests, weights, ranking)
        return stop - start

    def jobs() -> Iterator[tuple[int, SignedRankTests, int]]:
        for row, result in enumerate(ranking.tasks):
            tests = task_tests(result.task, ranking.missing)
            for start in range(0, samples, _BLOCK):
                yield row, tests, start

    total = samples * len(ranking.tasks)
    with progress_bar(
        total=total, desc="bootstrap", unit="ranking", disable=not progress, dynamic_ncols=True
    ) as bar:
        for done in _in_threads(fill, jobs(), workers):
            bar.update(done)
    full = np.stack([result.ranks for result in ranking.tasks])
    consensus = _consensus_of_samples(ranks)
    return Bootstraps(
        ranking=ranking,
        mode=mode,
        seed=seed,
        ranks=ranks,
        consensus=consensus,
        tau=np.stack([kendall_tau_b(one, many) for one, many in zip(full, ranks, strict=True)]),
        tau_consensus=kendall_tau_b(ranking.consensus, consensus),
    )


def ranks_of_samples(tests: SignedRankTests, weights: np.ndarray, ranking: Ranking) -> np.ndarray:
    """Ranks (samples, algorithms) of one task for samples given as weights (samples, cases)."""
    significant = significant_tests(tests.p_values(weights), ranking.alpha, ranking.adjust)
    return lowest_ranks(tests.wins(significant))


def _consensus_of_samples(ranks: np.ndarray) -> np.ndarray:
    consensus = np.empty(ranks.shape[1:], dtype=np.int16)
    for start in range(0, ranks.shape[1], _BLOCK):
        part = slice(start, start + _BLOCK)
        consensus[part] = lowest_ranks(-doubled_consensus(ranks[:, part]))
    return consensus


def _in_threads(function, jobs: Iterator[tuple], workers: int) -> Iterator[int]:
    """Results of ``function(*job)`` as they come, with few jobs in flight."""
    with ThreadPoolExecutor(workers) as pool:
        running: set[Future] = set()
        try:
            while True:
                for job in islice(jobs, 2 * workers - len(running)):
                    running.add(pool.submit(function, *job))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def rank_shares(ranks: np.ndarray) -> np.ndarray:
    """Share of samples at every rank: (samples, algorithms) to (algorithms, ranks), rows sum to 1.

    Column k is rank k + 1; there are as many as algorithms.
    """
    ranks = np.asarray(ranks)
    algorithms = ranks.shape[1]
    flat = np.arange(algorithms) * algorithms + (ranks - 1)
    counts = np.bincount(flat.ravel(), minlength=algorithms**2)
    return counts.reshape(algorithms, algorithms) / len(ranks)


def rank_quantiles(ranks: np.ndarray, probabilities=(0.025, 0.5, 0.975)) -> np.ndarray:
    """Quantiles of each algorithm's ranks, shape (probabilities, algorithms), R's type 7."""
    return np.quantile(ranks, probabilities, axis=0, method="linear")
