"""Paired comparison of methods that were scored on the same cases.

For two methods and one score: the mean difference with its patient-clustered bootstrap interval,
and the Wilcoxon signed-rank test on the differences of the patients' means. The patient is the
unit of the test for the reason that it is the unit of the bootstrap: a patient with two scans, or a
case that four of five folds tested, is one piece of evidence.

p-values are exact: the sign of every difference is flipped, all 2^n ways counted by convolution,
ties by their average ranks. (`covidseg rank` uses the normal approximation, one-sided and per case,
because it has to equal the challenge's own toolkit.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import rankdata

from covidseg.core.errors import ScoringError
from covidseg.scoring.statistics import bootstrap_mean
from covidseg.scoring.tables_values import Missing, case_values
from covidseg.scoring.wilcoxon import holm

# Differences nearer to 0, or to each other, than this are equal: they differ by rounding alone.
_DECIMALS = 12

# Above so many patients the exact distribution takes seconds and equals the normal one.
_EXACT_UP_TO = 300


@dataclass(frozen=True)
class SignedRankTest:
    """Two-sided Wilcoxon signed-rank test.

    ``w_plus`` is the rank sum of the positive differences among the ``n_nonzero`` that are not
    zero. ``method`` is ``exact``, ``normal approximation`` or ``all differences zero`` (p = 1).
    """

    w_plus: float
    n_nonzero: int
    p: float
    method: str


def signed_rank_test(differences: Sequence[float] | np.ndarray) -> SignedRankTest:
    """Two-sided Wilcoxon signed-rank test of paired differences, zeros dropped, ties averaged.

    Exact up to 300 differences that are not zero: the distribution of W+ over all sign flips,
    given the ranks with their ties (Hollander, Wolfe & Chicken, *Nonparametric Statistical
    Methods*, 2014, section 3.1); p is twice the smaller tail, at most 1. Beyond that, the normal
    approximation with continuity and tie corrections. Infinite differences are the largest.

    Raises
    ------
    ScoringError
        A difference is NaN, or there is none.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if not len(differences):
        raise ScoringError("there is no pair to test")
    if np.isnan(differences).any():
        raise ScoringError("a difference is NaN", remedy="leave such pairs out and count them")
    rounded = np.round(differences, _DECIMALS)
    nonzero = rounded[rounded != 0]
    n = len(nonzero)
    if n == 0:
        return SignedRankTest(0.0, 0, 1.0, "all differences zero")
    ranks = rankdata(np.abs(nonzero))
    w_plus = float(ranks[nonzero > 0].sum())
    if n <= _EXACT_UP_TO:
        p = _exact_p(np.rint(2 * ranks).astype(int), round(2 * w_plus))
        return SignedRankTest(w_plus, n, p, "exact")
    _, ties = np.unique(ranks, return_counts=True)
    variance = n * (n + 1) * (2 * n + 1) / 24 - float((ties**3 - ties).sum()) / 48
    distance = max(0.0, abs(w_plus - n * (n + 1) / 4) - 0.5)
    p = min(1.0, 2 * float(ndtr(-distance / np.sqrt(variance))))
    return SignedRankTest(w_plus, n, p, "normal approximation")


def _exact_p(doubled_ranks: np.ndarray, doubled_w: int) -> float:
    """Twice the smaller tail of W+ when every rank counts or not with probability one half."""
    share = np.zeros(doubled_ranks.sum() + 1)
    share[0] = 1.0
    for rank in doubled_ranks:
        share[rank:] = (share[rank:] + share[: len(share) - rank]) / 2
        share[:rank] /= 2
    return float(min(1.0, 2 * min(share[: doubled_w + 1].sum(), share[doubled_w:].sum())))


def compare_methods(
    scores: pd.DataFrame,
    *,
    metrics: Sequence[str] = ("dsc", "nsd"),
    against: str | None = None,
    missing: Missing = "refuse",
    confidence: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare all pairs of methods (or all with one) on every part, label and metric.

    Parameters
    ----------
    scores
        Per-case scores of at least two algorithms, as `covidseg.scoring.scores.read_scores` gives
        them.
    metrics
        ``dsc``, ``nsd`` (at the task's tolerance), ``nave``.
    against
        Compare every other algorithm with this one; where None, all pairs.
    missing
        What a case that a method failed on does, as in the tables.
    confidence, n_resamples, seed
        Of the bootstrap intervals, as in `bootstrap_mean`.

    Returns
    -------
    pandas.DataFrame
        A row a comparison: ``task, part, dataset, label, metric, method, other``;
        ``mean_difference`` (method minus other: mean over cases, then folds; fractions) with
        ``ci_low, ci_high, ci_method, confidence``; ``n`` pairs of scores, ``n_excluded`` pairs
        without two values, ``n_patients``; ``w_plus, n_nonzero, p, test`` of the signed-rank test
        on patients' mean differences; ``p_adjusted`` and ``correction``, Holm over all rows. The
        intervals are not adjusted.

    Raises
    ------
    ScoringError
        Fewer than two algorithms, ``against`` is none of them, the cases do not match, or no part
        is scored by two methods.
    """
    values = case_values(scores, metrics=metrics, missing=missing)
    methods = sorted(values["algorithm"].unique())
    if len(methods) < 2:
        raise ScoringError(
            f"nothing to compare: the scores are of {len(methods)} algorithm",
            expected="two or more",
        )
    if against is not None and against not in methods:
        raise ScoringError(
            f"no scores of algorithm {against!r}", expected="one of " + ", ".join(methods)
        )
    rows = []
    keys = ["task", "part", "dataset", "label", "metric"]
    for key, group in values.groupby(keys, sort=True, dropna=False):
        wide = group.pivot(
            index=["fold", "case_id", "patient_id"], columns="algorithm", values="value"
        ).reset_index()
        pairs = (
            itertools.combinations(methods, 2)
            if against is None
            else ((method, against) for method in methods if method != against)
        )
        for method, other in pairs:
            if method in wide and other in wide:
                comparison = _compare(wide, method, other, confidence, n_resamples, seed)
                rows.append(dict(zip(keys, key, strict=True)) | comparison)
    if not rows:
        raise ScoringError(
            "the methods have no part in common: " + ", ".join(methods),
            expected="scores of the same cases",
        )
    table = pd.DataFrame(rows)
    table["p_adjusted"] = holm(table["p"].to_numpy())
    table["correction"] = f"Holm over {int(table['p'].notna().sum())} tests"
    return table


def _compare(wide: pd.DataFrame, method, other, confidence, n_resamples, seed) -> dict[str, object]:
    both = wide[wide[method].notna() & wide[other].notna()]
    result: dict[str, object] = {
        "method": method,
        "other": other,
        "n": len(both),
        "n_excluded": len(wide) - len(both),
        "n_patients": both["patient_id"].nunique(),
    }
    if both.empty:
        nothing = {"ci_method": "no pair", "test": "no pair", "confidence": confidence}
        numbers = ("mean_difference", "ci_low", "ci_high", "w_plus", "n_nonzero", "p")
        return result | dict.fromkeys(numbers, np.nan) | nothing
    first, second = both[method].to_numpy(), both[other].to_numpy()
    # Two infinite volume errors are equal, not undefined.
    difference = np.subtract(first, second, out=np.zeros(len(both)), where=first != second)
    interval = bootstrap_mean(
        difference,
        both["patient_id"].to_numpy(),
        both["fold"].to_numpy(),
        confidence=confidence,
        n_resamples=n_resamples,
        seed=seed,
    )
    # NaN: infinitely worse on one scan of a patient and infinitely better on another.
    with np.errstate(invalid="ignore"):
        by_patient = pd.Series(difference).groupby(both["patient_id"].to_numpy()).mean()
    test = signed_rank_test(by_patient.fillna(0.0).to_numpy())
    return result | {
        "mean_difference": interval.estimate,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "ci_method": interval.method,
        "confidence": confidence,
        "w_plus": test.w_plus,
        "n_nonzero": test.n_nonzero,
        "p": test.p,
        "test": f"Wilcoxon signed-rank, two-sided, {test.method}, on patients",
    }
