"""From a frame of per-case scores to checked values: what the tables and comparisons rest on.

This is where it is decided what a case without a value does to a mean. There are two kinds:

* *missing*: the case has no prediction that could be scored (no file, unreadable, another grid, no
  row at all where other rows of the table have one). One parameter, ``missing``, says what then:
  ``refuse`` (an error that names the cases), ``worst`` (DSC and NSD 0, NAVE infinite) or ``remove``
  (left out of the mean, and counted);
* *undefined*: prediction and reference are there, but the metric has no value for them (both masks
  empty). Whether a metric has a value there is the scorer's policy for empty masks; an undefined
  value is in no mean, and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from covidseg.core.errors import ConfigError, ScoringError
from covidseg.scoring.policy import EMPTY_STATUSES, METRICS, OK
from covidseg.scoring.scores import nsd_column
from covidseg.splits.tasks import target_labels

Missing = Literal["refuse", "worst", "remove"]
MISSING: tuple[Missing, ...] = ("refuse", "worst", "remove")

WORST = {"dsc": 0.0, "nsd": 0.0, "nave": np.inf}

#: What identifies a row of scores; two rows with all of these equal are one case twice.
KEYS = ["task", "algorithm", "fold", "part", "dataset", "case_id", "label"]
REQUIRED = [*KEYS, "patient_id", "dsc", "status", "policy", "phantom"]

CLEAN_SUFFIX = "-clean"

# Statuses under which the metrics were computed, or are undefined by definition.
_SCORED = {OK, *EMPTY_STATUSES}
_LUNGS = {"left_lung", "right_lung"}
_LISTED = 5


def nsd_tolerance_mm(task: str, label: str) -> float:
    """The tolerance at which ``task`` takes the NSD of ``label``, in mm.

    Ma et al. 2021: 1 mm for lungs and 3 mm for infections, from the variation between two
    radiologists. COVID-19-20: 1 mm.
    """
    return 1.0 if label in _LUNGS or task.startswith("covid1920") else 3.0


def base_task(task: str) -> str:
    """The subtask without the suffix of its patient-clean variant."""
    return task.removesuffix(CLEAN_SUFFIX)


def is_phantom(scores: pd.DataFrame) -> bool:
    """Whether all scores are of procedural phantoms; an error where only some are."""
    flags = scores["phantom"].astype(str).str.lower()
    unknown = sorted(set(flags) - {"true", "false"})
    if unknown:
        raise ScoringError(f"column phantom holds {unknown[0]!r}", expected="true or false")
    if flags.nunique() > 1:
        raise ScoringError(
            "scores of phantoms and of patients are mixed",
            expected="one kind in a table",
            remedy="make a table of each",
        )
    return bool((flags == "true").all())


def check_scores(scores: pd.DataFrame) -> None:
    """Raise unless ``scores`` can stand in one table.

    Raises
    ------
    ScoringError
        No row; columns missing; a case twice; more than one empty-mask policy; phantoms mixed with
        patients; a case that belongs to two patients; a fold that is not a number.
    ConfigError
        An unknown task.
    """
    absent = [column for column in REQUIRED if column not in scores.columns]
    if absent:
        raise ScoringError(
            "scores lack the columns " + ", ".join(absent),
            expected="one row a case and label, as `covidseg score` writes them",
            remedy="read the file with covidseg.scoring.scores.read_scores",
        )
    if scores.empty:
        raise ScoringError("there are no scores", remedy="check what the scorer wrote")
    if (scores["task"].astype(str) == "").any():
        raise ScoringError(
            "the scores name no task",
            expected="a task in every row: it says which NSD counts and what is published",
            remedy="score again with --task (task1-union, task2-nsclc-lung, covid1920, ...), or "
            "fill in the column task",
        )
    for task in scores["task"].unique():
        target_labels(str(task))
    fold_names(scores["fold"])
    twice = scores[scores.duplicated(KEYS, keep="first")]
    if len(twice):
        raise ScoringError(
            "a case is there twice: " + _listed(_where(row) for row in twice.to_dict("records")),
            remedy="drop the repeated rows, or give each method a name of its own "
            "(`covidseg score --algorithm NAME`)",
        )
    policies = sorted(scores["policy"].astype(str).unique())
    if len(policies) > 1:
        raise ScoringError(
            "empty masks were scored by different policies: " + ", ".join(policies),
            expected="one policy in a table",
            remedy="score again with one --policy",
        )
    cases = [f"{row.dataset}/{row.case_id}" for row in scores.itertuples()]
    patients = scores.groupby(cases)["patient_id"].nunique()
    torn = [key for key, number in patients.items() if number > 1]
    if torn:
        raise ScoringError(
            f"case {torn[0]} belongs to several patients",
            expected="one patient_id a case in all files",
        )
    is_phantom(scores)


def case_values(
    scores: pd.DataFrame, *, metrics: Sequence[str] = METRICS, missing: Missing = "refuse"
) -> pd.DataFrame:
    """One row a value: scores checked, completed and told apart.

    Parameters
    ----------
    scores
        Per-case scores, one row a case and label (`covidseg.scoring.scores.read_scores`).
    metrics
        Any of ``dsc``, ``nsd`` and ``nave``. NSD is read at the tolerance of the task and label
        (`nsd_tolerance_mm`) and must have been scored there.
    missing
        What a missing case does, see the module's text. Of an algorithm that has scores of a part,
        every case and label is expected that any algorithm has there; a part that it has no score
        of at all is simply not in its rows.

    Returns
    -------
    pandas.DataFrame
        Columns ``task, algorithm, fold, part, dataset, case_id, patient_id, label, metric, value,
        state``, sorted, without the order of the input. ``fold`` is text (``""`` where there is
        none); ``value`` is NaN where it enters no mean; ``state`` is ``scored``, ``undefined`` or
        ``missing``.

    Raises
    ------
    ScoringError, ConfigError
        See `check_scores`; also a metric that was not scored, and missing cases under ``refuse``.
    """
    if missing not in MISSING:
        raise ConfigError(f"missing policy {missing!r} is not known", expected=", ".join(MISSING))
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        raise ConfigError(f"metric {unknown[0]!r} is not known", expected=", ".join(METRICS))
    check_scores(scores)
    frame = _completed(scores)
    failed = ~frame["status"].isin(_SCORED)
    if missing == "refuse" and failed.any():
        bad = frame[failed].drop_duplicates(["algorithm", "fold", "part", "case_id"])
        raise ScoringError(
            f"{len(bad)} missing: "
            + _listed(f"{_where(row)} ({row['status']})" for row in bad.to_dict("records")),
            expected="a score of every case by every method",
            remedy="score those cases, or say what a missing case counts as: --missing worst "
            "(DSC and NSD 0) or --missing remove (left out, and counted)",
        )
    unfair = failed & (frame["status"] == "missing_reference")
    if missing == "worst" and unfair.any():
        raise ScoringError(
            "cases have no reference: "
            + _listed(
                _where(row)
                for row in frame[unfair]
                .drop_duplicates(["algorithm", "fold", "part", "case_id"])
                .to_dict("records")
            ),
            expected="a reference for every case that is to count as the worst",
            remedy="score again with the references, or use --missing remove",
        )
    pieces = []
    for metric in metrics:
        piece = frame[[*KEYS, "patient_id"]].copy()
        value = _values(frame, metric, failed)
        piece["metric"] = metric
        piece["value"] = value.where(~failed, WORST[metric] if missing == "worst" else np.nan)
        piece["state"] = np.select([failed, value.isna()], ["missing", "undefined"], "scored")
        pieces.append(piece)
    values = pd.concat(pieces, ignore_index=True)
    return values.sort_values([*KEYS, "metric"], kind="stable", ignore_index=True)


def _values(frame: pd.DataFrame, metric: str, failed: pd.Series) -> pd.Series:
    """The values of a metric; an error where one was not computed, which is not undefined."""
    if metric == "nsd":
        columns = [
            nsd_column(nsd_tolerance_mm(task, label))
            for task, label in zip(frame["task"], frame["label"], strict=True)
        ]
    else:
        columns = [metric] * len(frame)
    value = pd.Series(np.nan, index=frame.index, dtype=np.float64)
    for column in sorted(set(columns)):
        rows = np.array([name == column for name in columns])
        if column in frame.columns:
            value[rows] = frame.loc[rows, column].astype(np.float64)
        absent = rows & value.isna().to_numpy() & (frame["status"] == OK).to_numpy()
        if absent.any():
            row = frame[absent].iloc[0].to_dict()
            raise ScoringError(
                f"{column} of {row['label']} was not scored: {_where(row)}",
                expected=f"a value in column {column} wherever the status is ok",
                remedy="score again at the task's tolerances, or leave the metric out",
            )
    negative = value < 0
    if (negative & ~failed).any():
        row = frame[negative & ~failed].iloc[0].to_dict()
        raise ScoringError(f"{metric} is negative: {_where(row)}", expected="0 or more")
    return value


def _completed(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with a row for every case that another algorithm or label has, status ``no_row``."""
    frame = scores.copy()
    frame["fold"] = fold_names(frame["fold"])
    for column in ("task", "algorithm", "part", "dataset", "case_id", "label", "status"):
        frame[column] = frame[column].astype(object).where(frame[column].notna(), "").map(str)
    patient = frame["patient_id"].astype(object)
    frame["patient_id"] = patient.where(patient.notna() & (patient != ""), frame["case_id"]).map(
        str
    )
    group = ["task", "part", "dataset"]
    cases = frame[[*group, "fold", "case_id", "patient_id"]].drop_duplicates()
    labels = frame[[*group, "label"]].drop_duplicates()
    algorithms = frame[[*group, "algorithm"]].drop_duplicates()
    expected = cases.merge(labels, on=group).merge(algorithms, on=group)
    return expected.merge(frame, on=[*KEYS, "patient_id"], how="left").fillna({"status": "no_row"})


def fold_names(folds: pd.Series) -> pd.Series:
    """Folds as text (``0``, ``1``, ...), ``""`` where there is none."""
    numbers = pd.to_numeric(
        folds.astype(object).where(folds.notna() & (folds != ""), None), "coerce"
    )
    wrong = numbers.isna() & folds.notna() & (folds.astype(str) != "")
    if wrong.any():
        raise ScoringError(
            f"fold {folds[wrong].iloc[0]!r} is not a number", expected="0, 1, ... or nothing"
        )
    names = ["" if np.isnan(fold) else str(int(fold)) for fold in numbers.to_numpy(np.float64)]
    return pd.Series(names, index=folds.index, dtype=object)


def _where(row: dict) -> str:
    fold = f" fold {row['fold']}" if str(row["fold"]) not in ("", "nan", "<NA>") else ""
    return f"{row['algorithm']!r} {row['task']}{fold} {row['part']}: {row['case_id']}"


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return "; ".join(items[:_LISTED]) + more
