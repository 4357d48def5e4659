"""Per-case listing: every value that a mean was taken of, and every one that was not."""

from __future__ import annotations

import pandas as pd

from covidseg.scoring.policy import METRICS
from covidseg.scoring.tables import Row, Table
from covidseg.scoring.tables_notes import METRIC_TITLES, PARTS, label_title
from covidseg.scoring.tables_values import case_values, is_phantom, nsd_tolerance_mm

_PLACE = ["part", "dataset", "fold", "case_id", "patient_id", "label"]


def case_tables(scores: pd.DataFrame) -> list[Table]:
    """One table a task: a line a case, fold and label, the metrics of every method beside it.

    Fractions with four decimals. A value that is not there is shown by its reason: ``missing`` (no
    prediction that could be scored) or ``undefined`` (by the policy for empty masks). Cases in the
    order of their mean DSC, worst first, since those are the ones to look at.

    Raises
    ------
    ScoringError, ConfigError
        See `covidseg.scoring.tables_values.check_scores`. Missing cases are listed, never refused.
    """
    # The benchmark's own files have no NAVE at all, which is no fault of any case.
    metrics = [metric for metric in METRICS if _has(scores, metric)]
    values = case_values(scores, metrics=metrics, missing="remove")
    phantom = is_phantom(scores)
    return [_table(str(task), frame, metrics, phantom) for task, frame in values.groupby("task")]


def _has(scores: pd.DataFrame, metric: str) -> bool:
    columns = [
        column for column in scores.columns if column == metric or column.startswith(f"{metric}_")
    ]
    return bool(scores[columns].notna().any(axis=None))


def _table(task: str, values: pd.DataFrame, metrics: list[str], phantom: bool) -> Table:
    algorithms = sorted(values["algorithm"].unique())
    text = values.assign(
        text=[
            f"{value:.4f}" if state == "scored" else state
            for value, state in zip(values["value"], values["state"], strict=True)
        ]
    )
    wide = text.pivot(index=_PLACE, columns=["algorithm", "metric"], values="text")
    dsc = values[values["metric"] == "dsc"].groupby(_PLACE)["value"].mean()
    worst_first = pd.DataFrame({"dsc": dsc.reindex(wide.index)}).reset_index()
    order = worst_first.sort_values(["dsc", *_PLACE], na_position="first", kind="stable").index
    columns = [(algorithm, metric) for algorithm in algorithms for metric in metrics]
    wide = wide.reindex(columns=columns).fillna("")
    rows = []
    for place, cells in zip(wide.index[order], wide.to_numpy()[order], strict=True):
        part, dataset, fold, case, patient, label = place
        names = (PARTS.get(part, part), dataset, fold, case, patient, label_title(label))
        rows.append(Row((*names, *map(str, cells))))
    header = [("", name) for name in ("Part", "Dataset", "Fold", "Case", "Patient", "Label")]
    header += [(algorithm, METRIC_TITLES[metric]) for algorithm, metric in columns]
    tolerances = ", ".join(
        f"{label_title(label).lower()} {nsd_tolerance_mm(task, label):g} mm"
        for label in sorted(values["label"].unique())
    )
    return Table(
        title=f"Cases of {task}",
        header=tuple(header),
        rows=tuple(rows),
        notes=(f"Fractions, worst mean DSC first. NSD at: {tolerances}.",),
        numbers=values,
        phantom=phantom,
        text_columns=6,
    )
