"""Paired comparisons of methods as a table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from covidseg.scoring.tables import EMPTY, Row, Table
from covidseg.scoring.tables_notes import METRIC_TITLES, PARTS, label_title
from covidseg.scoring.tables_summary import Bootstrap


def comparison_tables(
    comparisons: pd.DataFrame, bootstrap: Bootstrap, *, phantom: bool
) -> list[Table]:
    """One table a task of what `covidseg.scoring.statistics_paired.compare_methods` found.

    ``bootstrap`` is what the comparisons were made with. DSC and NSD differ in percentage points,
    NAVE as a fraction; p-values are two-sided, and the adjustment and its family are named.
    """
    return [
        _table(str(task), frame, bootstrap, phantom) for task, frame in comparisons.groupby("task")
    ]


def _table(task: str, frame: pd.DataFrame, bootstrap: Bootstrap, phantom: bool) -> Table:
    header = [
        *(("", name) for name in ("Part", "Label", "Metric", "Method", "minus")),
        ("Mean difference", "estimate"),
        ("Mean difference", f"{100 * bootstrap.confidence:g} % interval"),
        ("Size", "pairs"),
        ("Size", "patients"),
        ("Signed-rank test", "W+"),
        ("Signed-rank test", "p"),
        ("Signed-rank test", "p adjusted"),
    ]
    rows = []
    for row in frame.to_dict("records"):
        scale = 1.0 if row["metric"] == "nave" else 100.0
        digits = 3 if row["metric"] == "nave" else 1
        excluded = f" ({row['n_excluded']} excluded)" if row["n_excluded"] else ""
        interval = f"[{scale * row['ci_low']:+.{digits}f}, {scale * row['ci_high']:+.{digits}f}]"
        cells = (
            PARTS.get(row["part"], row["part"]),
            label_title(row["label"]),
            METRIC_TITLES[row["metric"]],
            row["method"],
            row["other"],
            _number(scale * row["mean_difference"], f"+.{digits}f"),
            EMPTY if np.isnan(row["ci_low"]) else interval,
            f"{row['n']}{excluded}",
            f"{row['n_patients']}",
            _number(row["w_plus"], "g"),
            p_value(row["p"]),
            p_value(row["p_adjusted"]),
        )
        rows.append(Row(cells))
    ways = sorted(frame["test"].unique())
    notes = (
        "Mean difference: over cases, then folds; DSC and NSD in percentage points, NAVE as a "
        f"fraction. Intervals: bootstrap over patients, {bootstrap.n_resamples} resamples, seed "
        f"{bootstrap.seed}; they are not adjusted for the number of comparisons.",
        f"p: {'; '.join(ways)} (mean difference of each patient). Adjusted: "
        f"{frame['correction'].iloc[0]}.",
    )
    return Table(
        title=f"Paired comparisons of {task}",
        header=tuple(header),
        rows=tuple(rows),
        notes=notes,
        numbers=frame,
        phantom=phantom,
        text_columns=5,
    )


def _number(value: float, spec: str) -> str:
    return EMPTY if np.isnan(value) else format(value, spec)


def p_value(p: float) -> str:
    """Three decimals, small ones as a bound: ``0.042``, ``<0.001``."""
    if np.isnan(p):
        return EMPTY
    return "<0.001" if p < 0.001 else f"{p:.3f}"
