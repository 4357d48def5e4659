"""Other usual ranking methods, to show how far a ranking depends on the method.

After challengeR's comparison of methods: aggregate then rank (mean or median over cases) and rank
then aggregate (rank every case, then mean or median of the ranks).
"""

from __future__ import annotations

import math

import numpy as np

from covidseg.scoring.ranking import Ranking, lowest_ranks

METHODS = (
    "test then rank",
    "mean then rank",
    "median then rank",
    "rank then mean",
    "rank then median",
)


def ranks_by_method(ranking: Ranking, task: int) -> dict[str, np.ndarray]:
    """Ranks (algorithms,) of one task by each of ``METHODS``, ties sharing the lowest rank.

    Missing cases are treated as in ``ranking``. Where they are removed, means and medians are over
    the cases that an algorithm has; in ranks of a case a missing one comes last, as in challengeR.
    """
    result = ranking.tasks[task]
    values = result.task.completed(ranking.missing)
    case_ranks = ranks_of_cases(values)
    with np.errstate(invalid="ignore"):
        return {
            "test then rank": result.ranks,
            "mean then rank": lowest_ranks(np.array([_mean(row) for row in values])),
            "median then rank": lowest_ranks(np.nanmedian(values, axis=1)),
            "rank then mean": lowest_ranks(-case_ranks.sum(axis=1)),
            "rank then median": lowest_ranks(-np.median(case_ranks, axis=1)),
        }


def ranks_of_cases(values: np.ndarray) -> np.ndarray:
    """Rank of every algorithm on every case, shape of ``values``; NaN comes after all others."""
    with np.errstate(invalid="ignore"):
        better = np.nan_to_num(values, nan=-np.inf, neginf=-np.finfo(float).max)
    return lowest_ranks(better.T).T


def _mean(row: np.ndarray) -> float:
    """Mean of what is there, summed exactly so that equal algorithms tie whatever their order."""
    row = row[~np.isnan(row)]
    if np.isinf(row).any():
        return -np.inf
    return math.fsum(row) / len(row)
