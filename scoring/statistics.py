"""Confidence intervals of mean scores by the patient-clustered bootstrap.

Two scans of one patient, or one scan scored in four of five folds, are not independent values: an
interval that takes them as such is too narrow. Here whole patients are drawn with replacement, and
every value of a drawn patient comes along (the cluster bootstrap of Davison & Hinkley, *Bootstrap
Methods and their Application*, 1997, section 3.8). Nothing is stratified.

The statistic is the one that the tables print: the mean over folds of the mean over a fold's
cases. A patient enters it only through the sum and the number of its values in each fold, so all
resamples together are two matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

from covidseg.core.errors import ScoringError

IntervalMethod = Literal["bca", "percentile"]

# Resamples are drawn in blocks of at most so many patient indices (8 bytes each).
_BLOCK_INDICES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean score with its bootstrap interval.

    ``method`` says how the interval came about: ``BCa``, ``percentile``, or why there is none or
    none of the kind asked for: ``one patient``, ``no spread``, ``infinite values``,
    ``percentile (BCa undefined)``. ``low`` and ``high`` are NaN where there is no interval.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    method: str
    n_values: int
    n_patients: int
    n_resamples: int
    seed: int


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    patients: Sequence[object] | np.ndarray,
    folds: Sequence[object] | np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
    method: IntervalMethod = "bca",
) -> Interval:
    """Mean of fold means, with an interval from resampling whole patients.

    Parameters
    ----------
    values
        Scores, or differences of scores, one a case and fold; shape (n,), finite or infinite.
    patients
        The patient of each value; values of one patient are drawn together.
    folds
        The fold of each value; where None, all values are of one fold and the statistic is their
        plain mean. A resample that happens to hold no value of a fold averages over the others.
    confidence
        Coverage aimed at, in (0, 1).
    n_resamples, seed
        Number of bootstrap samples and the seed that they are drawn from
        (`numpy.random.default_rng`); the same seed gives the same interval.
    method
        ``bca``, bias-corrected and accelerated (Efron 1987), or ``percentile``. DSC is skewed to
        the left and patients are few, which is where the plain percentile interval is shifted. BCa
        has no value where every resample lies on one side of the estimate: then the percentile
        interval is given and ``Interval.method`` says so.

    Raises
    ------
    ScoringError
        No value, a NaN (decide before the call what an undefined score does to the mean), or
        lengths that differ.

    Notes
    -----
    With one value a patient and one fold this is `scipy.stats.bootstrap` of the mean, and draws
    the same resamples from the same seed.
    """
    if not 0 < confidence < 1:
        raise ScoringError(f"confidence {confidence} is impossible", expected="between 0 and 1")
    if n_resamples < 1:
        raise ScoringError(f"{n_resamples} resamples are impossible", expected="at least one")
    sums, counts = _per_patient(values, patients, folds)
    n_patients = len(sums)
    with np.errstate(invalid="ignore"):
        estimate = float(_mean_of_fold_means(sums.sum(0), counts.sum(0)))

    def interval(low: float, high: float, how: str) -> Interval:
        return Interval(
            estimate=estimate,
            low=float(low),
            high=float(high),
            confidence=confidence,
            method=how,
            n_values=int(counts.sum()),
            n_patients=n_patients,
            n_resamples=n_resamples,
            seed=seed,
        )

    if not np.isfinite(sums).all():
        return interval(np.nan, np.nan, "infinite values")
    if n_patients == 1:
        return interval(np.nan, np.nan, "one patient")
    rng = np.random.default_rng(seed)
    resampled = np.concatenate(
        [
            _mean_of_fold_means(weights @ sums, weights @ counts)
            for weights in _multiplicities(rng, n_resamples, n_patients)
        ]
    )
    # A resample may equal the estimate up to the order of additions; that is equality.
    near = 1e-12 * max(1.0, abs(estimate))
    if np.ptp(resampled) <= near:
        return interval(estimate, estimate, "no spread")
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "percentile":
        low, high = np.quantile(resampled, tails)
        return interval(low, high, "percentile")
    corrected = _bca_tails(tails, resampled, estimate, near, sums, counts)
    if corrected is None:
        low, high = np.quantile(resampled, tails)
        return interval(low, high, "percentile (BCa undefined)")
    low, high = np.quantile(resampled, corrected)
    return interval(low, high, "BCa")


def _per_patient(values, patients, folds) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each patient in each fold, both (patients, folds)."""
    values = np.asarray(values, dtype=np.float64)
    folds = np.zeros(len(values), dtype=int) if folds is None else np.asarray(folds)
    patients = np.asarray(patients)
    if values.ndim != 1 or not len(values) == len(patients) == len(folds):
        raise ScoringError(
            f"{values.shape} values, {len(patients)} patients and {len(folds)} folds do not match",
            expected="one patient and one fold for each value",
        )
    if not len(values):
        raise ScoringError("there is no value to take a mean of")
    if np.isnan(values).any():
        raise ScoringError(
            f"{int(np.isnan(values).sum())} of {len(values)} values are NaN",
            remedy="leave undefined scores out and count them, or give them a value",
        )
    names, patient = np.unique(patients, return_inverse=True)
    fold_names, fold = np.unique(folds, return_inverse=True)
    sums = np.zeros((len(names), len(fold_names)))
    counts = np.zeros_like(sums)
    # Infinities of both signs add up to NaN, which is what is said of them later.
    with np.errstate(invalid="ignore"):
        np.add.at(sums, (patient, fold), values)
    np.add.at(counts, (patient, fold), 1.0)
    return sums, counts


def _mean_of_fold_means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over the last axis (folds) of sums / counts, without the folds that count nothing."""
    present = counts > 0
    means = np.where(present, sums / np.where(present, counts, 1.0), 0.0)
    return means.sum(-1) / np.maximum(present.sum(-1), 1)


def _multiplicities(
    rng: np.random.Generator, n_resamples: int, n_patients: int
) -> Iterator[np.ndarray]:
    """How often each patient is in each resample, as blocks of (resamples, patients)."""
    block = max(1, _BLOCK_INDICES // n_patients)
    for start in range(0, n_resamples, block):
        rows = min(block, n_resamples - start)
        drawn = rng.integers(0, n_patients, (rows, n_patients))
        drawn += np.arange(rows)[:, None] * n_patients
        counts = np.bincount(drawn.ravel(), minlength=rows * n_patients)
        yield counts.reshape(rows, n_patients).astype(np.float64)


def _bca_tails(tails, resampled, estimate, near, sums, counts) -> np.ndarray | None:
    """The quantiles that BCa reads in place of ``tails``; None where it has no value.

    Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, equations 14.10 to 14.15, with
    ties between resamples and estimate counted by half and the jackknife over patients.
    """
    below = np.count_nonzero(resampled < estimate - near)
    not_above = np.count_nonzero(resampled <= estimate + near)
    bias = ndtri((below + not_above) / (2 * len(resampled)))
    left_out = _mean_of_fold_means(sums.sum(0) - sums, counts.sum(0) - counts)
    deviation = left_out.mean() - left_out
    spread = (deviation**2).sum()
    if not np.isfinite(bias) or spread <= near**2:
        return None
    acceleration = (deviation**3).sum() / (6 * spread**1.5)
    shifted = bias + ndtri(tails)
    scale = 1 - acceleration * shifted
    if (scale <= 0).any():
        return None
    return ndtr(bias + shifted / scale)
