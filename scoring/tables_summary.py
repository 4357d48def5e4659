"""Means, spreads, intervals and counts of checked per-case values.

Two conventions, both worked out from the published numbers themselves (`docs/tables.md`):

* the benchmark: a fold's mean and *sample* standard deviation (divisor n - 1) over its cases; the
  average's standard deviation is over all (fold, case) pairs together, again n - 1;
* COVID-19-20: mean, *population* standard deviation (divisor n) and median over the cases of a
  cohort.

The average over folds is the mean of the fold means. Where all folds hold equally many values it
equals the mean over all pairs, which is what the benchmark printed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from covidseg.scoring.statistics import IntervalMethod, bootstrap_mean

AVERAGE = "average"
GROUP = ["task", "part", "dataset", "label", "metric", "algorithm"]


@dataclass(frozen=True)
class Bootstrap:
    """How the intervals of a table are drawn; see `covidseg.scoring.statistics.bootstrap_mean`."""

    confidence: float = 0.95
    n_resamples: int = 9999
    seed: int = 0
    method: IntervalMethod = "bca"

    def interval(self, values: pd.DataFrame) -> dict[str, object]:
        """Interval of the mean of fold means; NaN where there is no value."""
        if values.empty:
            return {"ci_low": np.nan, "ci_high": np.nan, "ci_method": "no value"}
        interval = bootstrap_mean(
            values["value"].to_numpy(),
            values["patient_id"].to_numpy(),
            values["fold"].to_numpy(),
            confidence=self.confidence,
            n_resamples=self.n_resamples,
            seed=self.seed,
            method=self.method,
        )
        return {"ci_low": interval.low, "ci_high": interval.high, "ci_method": interval.method}


DEFAULT_BOOTSTRAP = Bootstrap()


def summarise_folds(values: pd.DataFrame, bootstrap: Bootstrap | None = None) -> pd.DataFrame:
    """The benchmark's summary of `covidseg.scoring.tables_values.case_values`.

    Returns
    -------
    pandas.DataFrame
        For each task, part, dataset, label, metric and algorithm a row a fold and a row whose
        ``fold`` is ``average``; columns ``mean, std, median`` (fractions), ``n`` (values in the
        mean), ``n_missing, n_undefined, n_infinite, n_patients``, ``ci_low, ci_high, ci_method``
        (averages only, and only with ``bootstrap``) and ``mean_over_cases``, the average's other
        reading, which differs from ``mean`` where folds hold unequal numbers of values.
    """
    rows = []
    for key, group in values.groupby(GROUP, sort=True):
        names = dict(zip(GROUP, key, strict=True))
        used = group[group["value"].notna()]
        for fold, of_fold in group.groupby("fold", sort=True):
            if fold != "":
                rows.append(names | {"fold": fold} | describe(of_fold, ddof=1))
        average = describe(group, ddof=1)
        average["mean_over_cases"] = average["mean"]
        if len(used):
            average["mean"] = used.groupby("fold")["value"].mean().mean()
        if bootstrap is not None:
            average |= bootstrap.interval(used)
        rows.append(names | {"fold": AVERAGE} | average)
    return pd.DataFrame(rows)


def summarise_cohorts(values: pd.DataFrame, bootstrap: Bootstrap | None = None) -> pd.DataFrame:
    """COVID-19-20's summary: a row for each part and, where seen and unseen are there, for ``all``.

    The columns are those of `summarise_folds`, with ``cohort`` (``all``, ``seen``, ``unseen``, or
    the part's name) in place of the fold. A case that was scored in several folds enters once,
    with the mean of its values.
    """
    once = (
        values.groupby(
            [*GROUP, "case_id", "patient_id"], sort=True, as_index=False, dropna=False
        ).agg(
            value=("value", "mean"),
            state=("state", lambda states: "scored" if "scored" in set(states) else states.iloc[0]),
        )
    ).assign(fold="")
    # A case with one fold failed and the others scored is not whole; the failure shows.
    failed = values[values["state"] == "missing"][[*GROUP, "case_id"]].drop_duplicates()
    once = once.merge(failed.assign(failed=True), on=[*GROUP, "case_id"], how="left")
    once.loc[once["failed"].notna(), "state"] = "missing"
    rows = []
    keys = ["task", "label", "metric", "algorithm"]
    for key, group in once.groupby(keys, sort=True):
        parts = {str(part).removeprefix("test_"): frame for part, frame in group.groupby("part")}
        if {"seen", "unseen"} <= set(parts):
            together = pd.concat([parts["seen"], parts["unseen"]])
            parts = {"all": together, **parts}
        for cohort, frame in parts.items():
            row = dict(zip(keys, key, strict=True)) | {"cohort": cohort} | describe(frame, ddof=0)
            if bootstrap is not None:
                row |= bootstrap.interval(frame[frame["value"].notna()])
            rows.append(row)
    return pd.DataFrame(rows)


def describe(values: pd.DataFrame, *, ddof: int) -> dict[str, object]:
    """Mean, std and median of the values that are there, and counts of all.

    The std is NaN for fewer values than ``ddof`` + 1 and where a value is infinite.
    """
    value = values["value"].dropna().to_numpy()
    states = values["state"]
    finite = bool(np.isfinite(value).all())
    return {
        "mean": float(value.mean()) if len(value) else np.nan,
        "std": float(value.std(ddof=ddof)) if len(value) > ddof and finite else np.nan,
        "median": float(np.median(value)) if len(value) else np.nan,
        "n": len(value),
        "n_missing": int((states == "missing").sum()),
        "n_undefined": int((states == "undefined").sum()),
        "n_infinite": int(np.isinf(value).sum()),
        "n_patients": int(values.loc[values["value"].notna(), "patient_id"].nunique()),
    }
