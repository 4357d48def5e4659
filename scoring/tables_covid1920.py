"""COVID-19-20's table: mean, std and median over all, seen and unseen test cases.

After table 2 of Roth et al., *Medical Image Analysis* 82 (2022), for DSC, NSD at 1 mm and NAVE; the
report prints DSC alone. Values are fractions, as there, methods by their mean.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from covidseg.core.errors import ScoringError
from covidseg.scoring.published import published_covid1920, published_sources
from covidseg.scoring.tables import EMPTY, Row, Table, count, fraction
from covidseg.scoring.tables_notes import (
    METRIC_TITLES,
    interval_note,
    label_title,
    numbers_frame,
    policy_note,
)
from covidseg.scoring.tables_summary import DEFAULT_BOOTSTRAP, Bootstrap, summarise_cohorts
from covidseg.scoring.tables_values import Missing, case_values, check_scores, is_phantom

_COHORTS = {"all": "All test cases", "seen": "Seen source", "unseen": "Unseen source"}
_METRICS = ("dsc", "nsd", "nave")


def covid1920_tables(
    scores: pd.DataFrame,
    *,
    published: bool = True,
    missing: Missing = "refuse",
    bootstrap: Bootstrap | None = DEFAULT_BOOTSTRAP,
) -> list[Table]:
    """One table for each of DSC, NSD at 1 mm and NAVE; rows by method, columns by cohort.

    Parameters as in `covidseg.scoring.tables_benchmark.benchmark_tables`. The parts ``test_seen``
    and ``test_unseen`` are the cohorts, and together they are ``all``; scores of other parts
    (``validation``) make columns of their own. The std is the population's (divisor n), which is
    what the report printed.

    Raises
    ------
    ScoringError
        Scores of another task than ``covid1920``; else as in
        `covidseg.scoring.tables_values.case_values`.
    """
    check_scores(scores)
    others = sorted(set(scores["task"]) - {"covid1920"})
    if others:
        raise ScoringError(
            "scores of " + ", ".join(others) + " in a table of COVID-19-20",
            expected="the task covid1920",
            remedy="use the benchmark's style for those",
        )
    phantom = is_phantom(scores)
    policy = str(scores["policy"].iloc[0])
    values = case_values(scores, metrics=_METRICS, missing=missing)
    summary = summarise_cohorts(values, bootstrap)
    theirs = published_covid1920() if published else None
    tables = []
    for label, of_label in summary.groupby("label", sort=True):
        for metric in _METRICS:
            own = of_label[of_label["metric"] == metric]
            beside = (
                theirs[(theirs["metric"] == metric) & (theirs["label"] == label)]
                if theirs is not None
                else None
            )
            if beside is not None and beside.empty:
                beside = None
            tables.append(
                _table(str(label), metric, own, beside, policy, missing, bootstrap, phantom)
            )
    return tables


def _table(label, metric, own, published, policy, missing, bootstrap, phantom) -> Table:
    cohorts = sorted(own["cohort"].unique(), key=lambda name: ([*_COHORTS, name].index(name), name))
    shown = ["mean", *(["interval"] if bootstrap else []), "std", "median", "n"]
    interval = f"{100 * bootstrap.confidence:g} % interval" if bootstrap else ""
    header = [("", "Method")] + [
        (_COHORTS.get(cohort, cohort.capitalize()), interval if name == "interval" else name)
        for cohort in cohorts
        for name in shown
    ]
    rows = _own_rows(own, metric, cohorts, shown, missing)
    if published is not None:
        rows += _published_rows(published, cohorts, shown)
    name = METRIC_TITLES[metric] + (" at 1 mm" if metric == "nsd" else "")
    direction = "lower is better" if metric == "nave" else "higher is better"
    notes = [
        f"{name} as fractions, {direction}; methods in the order of their mean over "
        f"{_COHORTS.get(cohorts[0], cohorts[0]).lower()}. std: population standard deviation over "
        "cases (divisor n), as in the report. n counts the values in the mean.",
        policy_note(policy, missing, own[own["cohort"] == cohorts[0]]),
    ]
    infinite = own.loc[own["n_infinite"] > 0, "algorithm"].unique()
    if len(infinite):
        notes.append(
            "Infinite values (a lesion predicted where the reference has none, or a missing case "
            f"as the worst) make the mean infinite for {', '.join(sorted(infinite))}: read the "
            "median."
        )
    if bootstrap is not None:
        notes.append(interval_note(own, bootstrap))
    if published is not None:
        keys = dict.fromkeys(published["source"])
        where = "; ".join(
            f"{published_sources()[key].title}, {published_sources()[key].url}" for key in keys
        )
        notes.append(f"Published rows: {where}.")
        if phantom:
            notes.append(
                "The published rows are of patients, the others of phantoms: not to be compared."
            )
    return Table(
        title=f"COVID-19-20: {name} of {label_title(label).lower()}",
        header=tuple(header),
        rows=tuple(rows),
        notes=tuple(notes),
        numbers=_numbers(own, published, policy, missing, bootstrap),
        phantom=phantom,
        text_columns=1,
    )


def _own_rows(own, metric, cohorts, shown, missing) -> list[Row]:
    first = own[own["cohort"] == cohorts[0]]
    sign = 1.0 if metric == "nave" else -1.0
    means = {
        algorithm: (np.isnan(mean), sign * mean, algorithm)
        for algorithm, mean in first[["algorithm", "mean"]].itertuples(index=False)
    }
    last = (True, np.inf)
    order = sorted(own["algorithm"].unique(), key=lambda name: means.get(name, (*last, name)))
    found = own.set_index(["algorithm", "cohort"]).to_dict("index")
    rows = []
    for number, algorithm in enumerate(order):
        cells = [algorithm]
        for cohort in cohorts:
            values = found.get((algorithm, cohort))
            cells += [_cell(values, name, missing) for name in shown]
        rows.append(Row(tuple(cells), new_block=number == 0))
    return rows


def _cell(values: dict | None, name: str, missing: Missing) -> str:
    if values is None:
        return EMPTY
    if name == "n":
        return count(values["n"], values["n_missing"], values["n_undefined"], missing=missing)
    if name == "interval":
        if np.isnan(values["ci_low"]):
            return EMPTY
        return f"[{values['ci_low']:.3f}, {values['ci_high']:.3f}]"
    return fraction(values[name])


def _published_rows(published, cohorts, shown) -> list[Row]:
    cohort = published["part"].str.removeprefix("test_")
    found = published.assign(cohort=cohort).set_index(["method", "cohort"]).to_dict("index")
    rows = []
    for number, method in enumerate(published["method"].unique()):
        cells = [f"{method} (published)"]
        # The observers' agreement is of training cases: a row of its own, not of a test cohort.
        only = found.get((method, "training"))
        for position, name_of_cohort in enumerate(cohorts):
            values = only if only and position == 0 else found.get((method, name_of_cohort))
            cells += [
                ""
                if name in ("n", "interval")
                else EMPTY
                if values is None
                else fraction(values[name])
                for name in shown
            ]
        rows.append(Row(tuple(cells), new_block=number == 0))
    return rows


_NUMBERS = [
    "origin",
    "task",
    "method",
    "cohort",
    "label",
    "metric",
    "tolerance_mm",
    "mean",
    "std",
    "median",
    "ci_low",
    "ci_high",
    "ci_method",
    "confidence",
    "n",
    "n_missing",
    "n_undefined",
    "n_infinite",
    "n_patients",
    "policy",
    "missing",
    "remark",
]


def _numbers(own, published, policy, missing, bootstrap) -> pd.DataFrame:
    frame = own.rename(columns={"algorithm": "method"}).assign(
        origin="own", policy=policy, missing=missing
    )
    frames = [frame.assign(confidence=bootstrap.confidence) if bootstrap else frame]
    if published is not None:
        theirs = published.rename(columns={"source": "origin", "part": "cohort"})
        frames.append(theirs.assign(cohort=theirs["cohort"].str.removeprefix("test_")))
    return numbers_frame(frames, _NUMBERS)
