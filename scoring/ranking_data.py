"""From CSV files of per-case scores to the tasks of a challenge."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from covidseg.core.errors import ScoringError, UnreadableFileError
from covidseg.scoring.ranking import Challenge, Task

# Column of a plain file: the names it goes by.
_PLAIN = {
    "task": ("task",),
    "algorithm": ("algorithm", "alg"),
    "case": ("case", "case_id"),
    "value": ("value",),
}
# Statuses under which a prediction was scored, so that an empty metric is one without a value.
_SCORED = {"ok", "both_empty", "prediction_empty", "reference_empty"}
# Nobody can score a case without a reference: no algorithm is to blame.
_NOBODYS_FAULT = {"missing_reference"}
_TRUE = {"true", "1", "yes"}
_BENCHMARK_TOLERANCE = {"left_lung": "nsd_1mm", "right_lung": "nsd_1mm"}


def read_challenge(
    paths: Iterable[str | PathLike[str]], metrics: Sequence[str] | None = None
) -> Challenge:
    """Read the tasks of a challenge from one or many CSV files.

    A file is either what ``covidseg score`` writes (a row a case and label; every metric of every
    label and part becomes a task) or plain: columns ``task, algorithm, case, value`` (``alg`` and
    ``case_id`` will do), one row a value, higher is better.

    Parameters
    ----------
    metrics
        Columns to rank by, such as ``["dsc", "nsd_3mm", "nave"]``; plain files name their own
        tasks and take no part in this. Without it: DSC, the NSD at the benchmark's tolerance and
        NAVE, which enters as its negative.

    Raises
    ------
    ScoringError
        Other columns, a case twice, empty-mask policies mixed, fewer than two algorithms, a NAVE
        that is not negative in a plain file.
    UnreadableFileError
        A file is absent or no CSV.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise ScoringError("no file of scores", remedy="name at least one CSV file")
    tables = [_read_file(path, metrics) for path in paths]
    notes = list(dict.fromkeys(note for _, remarks in tables for note in remarks))
    rows = pd.concat([table for table, _ in tables], ignore_index=True)
    _refuse_mixed_policies(rows)
    _refuse_twice(rows)
    algorithms = tuple(sorted(rows["algorithm"].unique()))
    rows["name"] = _task_names(rows)
    if rows["fold"].nunique() > 1:
        notes.append(
            "Cases were scored in several folds: a case's value is the mean over its folds, "
            "and a case that is missing in one of them is missing."
        )
    tasks = tuple(
        _task(str(name), part, algorithms) for name, part in rows.groupby("name", sort=False)
    )
    for task in tasks:
        undefined = int(task.undefined.sum())
        if undefined:
            notes.append(
                f"{task.name}: {undefined} of {task.values.size} values are undefined (no such "
                "metric on an empty mask) and left out of the comparisons they belong to."
            )
    return Challenge(tasks, phantom=bool(rows["phantom"].any()), notes=tuple(notes))


def _read_file(path: Path, metrics: Sequence[str] | None) -> tuple[pd.DataFrame, list[str]]:
    header = _header(path)
    if all(set(names) & set(header) for names in _PLAIN.values()):
        return _read_plain(path), []
    from covidseg.scoring.scores import read_scores

    if not {"case_id", "dsc"} <= set(header) and not any("DSC" in name for name in header):
        raise ScoringError(
            f"columns {', '.join(header) or 'none'}",
            path=path,
            expected="what `covidseg score` writes, or task, algorithm, case, value",
            remedy="write one row a value: task, algorithm, case and a value where higher is "
            "better (errors as their negative)",
        )
    return _long(read_scores(path), path, metrics)


def _header(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise UnreadableFileError(
            f"cannot be read as CSV ({fault})", path=path, expected="a UTF-8 CSV file"
        ) from fault


def _read_plain(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as fault:
        raise UnreadableFileError(
            f"cannot be read as CSV ({fault})", path=path, expected="a UTF-8 CSV file"
        ) from fault
    table.columns = table.columns.str.strip()
    found = {
        column: next(name for name in names if name in table) for column, names in _PLAIN.items()
    }
    text = table[found["value"]].str.strip()
    absent = text.str.lower().isin(["", "na", "nan"])
    value = pd.to_numeric(text.mask(absent), errors="coerce")
    bad = (value.isna() & ~absent) | (value == np.inf)
    for column in ("task", "algorithm", "case"):
        bad |= table[found[column]].str.strip() == ""
    if bad.any():
        line = int(np.flatnonzero(bad)[0])
        raise ScoringError(
            f"line {line + 2} is {','.join(table.iloc[line])}",
            path=path,
            expected="a task, an algorithm, a case and a number (or nothing, if missing)",
        )
    task = table[found["task"]].str.strip()
    wrong_way = task.str.lower().str.match(r"nave(?![a-z])") & (value > 0)
    if wrong_way.any():
        raise ScoringError(
            f"NAVE above 0 in task {task[wrong_way].iloc[0]}",
            path=path,
            expected="its negative, since higher values are taken to be better",
            remedy="multiply NAVE by -1",
        )
    phantom = table["phantom"].str.lower().isin(_TRUE) if "phantom" in table else False
    return pd.DataFrame(
        {
            "task": task,
            "label": "",
            "part": "",
            "metric": "",
            "algorithm": table[found["algorithm"]].str.strip(),
            "case": table[found["case"]].str.strip(),
            "fold": "",
            "value": value.astype(float),
            "missing": absent,
            "policy": "",
            "phantom": phantom,
        }
    )


def _long(
    scores: pd.DataFrame, path: Path, metrics: Sequence[str] | None
) -> tuple[pd.DataFrame, list[str]]:
    """The scorer's table, a row a case and label, as a row a value."""
    needed = ["algorithm", "case_id", "label"]
    absent = [name for name in needed if name not in scores]
    if absent:
        raise ScoringError(f"no column {', '.join(absent)}", path=path)
    if not len(scores):
        raise ScoringError("no row", path=path, expected="a row for every case and label")
    text = {
        name: _text(scores, name, default)
        for name, default in {
            "task": "",
            "label": "",
            "part": "test",
            "algorithm": "",
            "fold": "",
            "policy": "",
            "status": "ok",
            "phantom": "false",
        }.items()
    }
    notes = []
    unnamed = text["algorithm"] == ""
    if unnamed.any():
        text["algorithm"] = text["algorithm"].mask(unnamed, path.stem)
        notes.append(f"{path.name} names no algorithm: called {path.stem!r} after the file.")
    frame = pd.DataFrame(text)
    frame["case"] = _text(scores, "dataset", "") + "/" + _text(scores, "case_id", "")
    frame["phantom"] = frame["phantom"].str.lower().isin(_TRUE)
    parts = []
    # Task by task, since "the" NSD of a lung has another tolerance than that of an infection.
    for (task, label), rows in frame.groupby(["task", "label"], sort=False):
        for metric in metrics or _usual_metrics(scores.loc[rows.index], str(task), str(label)):
            if metric not in scores:
                raise ScoringError(
                    f"no column {metric}",
                    path=path,
                    expected=" or ".join(_metric_columns(scores)),
                    remedy="name a metric that the file has",
                )
            value = pd.to_numeric(scores.loc[rows.index, metric], errors="raise").astype(float)
            parts.append(
                rows.assign(
                    metric=metric,
                    value=-value if metric == "nave" else value,
                    missing=value.isna() & ~rows["status"].isin(_SCORED | _NOBODYS_FAULT),
                )
            )
    return pd.concat(parts, ignore_index=True).drop(columns="status"), notes


def _text(table: pd.DataFrame, name: str, default: str) -> pd.Series:
    if name not in table:
        return pd.Series(default, index=table.index, dtype=object)
    values = table[name]
    if pd.api.types.is_float_dtype(values):  # a fold column with gaps reads as 0.0, 1.0
        values = values.astype("Int64")
    return values.astype(object).where(values.notna(), default).astype(str).str.strip()


def _metric_columns(scores: pd.DataFrame) -> list[str]:
    return [name for name in scores if re.fullmatch(r"dsc|nave|nsd_.+mm", str(name))]


def _usual_metrics(scores: pd.DataFrame, task: str, label: str) -> list[str]:
    usual = ["dsc"]
    tolerances = [
        name
        for name in _metric_columns(scores)
        if name.startswith("nsd_") and scores[name].notna().any()
    ]
    if task.startswith("covid1920"):
        benchmark = "nsd_1mm"
    else:
        benchmark = _BENCHMARK_TOLERANCE.get(label, "nsd_3mm")
    if benchmark in tolerances:
        usual.append(benchmark)
    elif len(tolerances) == 1:
        usual.append(tolerances[0])
    elif tolerances:
        raise ScoringError(
            f"label {label!r} has NSD at several tolerances ({', '.join(tolerances)}) and none is "
            f"the benchmark's ({benchmark})",
            remedy="name the metrics to rank by, such as --metric dsc --metric " + tolerances[0],
        )
    if "nave" in scores:
        usual.append("nave")
    return usual


def _task_names(rows: pd.DataFrame) -> pd.Series:
    """Metric first, then whatever of task, label and part is needed to tell tasks apart."""
    shown = rows["metric"].map(metric_name)
    for column in ("task", "label", "part"):
        plain = rows["metric"] == ""
        if rows.loc[~plain, column].nunique() > 1:
            shown = shown + " " + rows[column].where(~plain, "")
    return shown.where(rows["metric"] != "", rows["task"]).str.strip()


def metric_name(column: str) -> str:
    """How a metric's column is called in titles: ``nsd_3mm`` is "NSD 3 mm"."""
    tolerance = re.fullmatch(r"nsd_(.+)mm", column)
    return f"NSD {tolerance[1]} mm" if tolerance else column.upper()


def _task(name: str, rows: pd.DataFrame, algorithms: tuple[str, ...]) -> Task:
    worst = _worst(name, rows["value"])
    every = pd.MultiIndex.from_frame(rows[["fold", "case"]].drop_duplicates().sort_values("fold"))
    at = every.get_indexer(pd.MultiIndex.from_frame(rows[["fold", "case"]]))
    row = pd.Index(algorithms).get_indexer(rows["algorithm"])
    values = np.full((len(algorithms), len(every)), np.nan)
    missing = np.ones(values.shape, dtype=bool)
    values[row, at] = rows["value"]
    missing[row, at] = rows["missing"]
    cases = pd.Index(sorted(set(every.get_level_values("case"))))
    column = cases.get_indexer(every.get_level_values("case"))
    values[missing] = np.nan
    values, missing = _mean_over_folds(values, missing, column)
    return Task(name, algorithms, _short(cases), values, missing, worst)


def _mean_over_folds(values, missing, column) -> tuple[np.ndarray, np.ndarray]:
    """One value a case; a case that is missing in one of its folds is missing."""
    count = np.bincount(column)
    total = np.zeros((len(values), len(count)))
    absent = np.zeros(total.shape, dtype=int)
    np.add.at(total.T, column, values.T)
    np.add.at(absent.T, column, missing.T)
    # Dividing by one changes no bit, so unfolded values pass as they are.
    return total / count, absent > 0


def _short(cases: pd.Index) -> tuple[str, ...]:
    """Case names without their dataset where there is but one."""
    datasets = {name.split("/")[0] for name in cases if "/" in name}
    if len(datasets) == 1 and all("/" in name for name in cases):
        return tuple(name.split("/", 1)[1] for name in cases)
    return tuple(cases)


def _worst(name: str, values: pd.Series) -> float:
    """What a missing case counts as: 0 for an overlap; below everything for an error's negative.

    Never 0 for the latter: that would be a perfect NAVE.
    """
    overlap = re.match(r"(dsc|dice|nsd)(?![a-z])", name.lower()) is not None
    return 0.0 if overlap and not (values < 0).any() else -np.inf


def _refuse_twice(rows: pd.DataFrame) -> None:
    key = ["task", "label", "part", "metric", "fold", "algorithm", "case"]
    twice = rows.duplicated(key)
    if twice.any():
        row = rows.loc[twice].iloc[0]
        task = " ".join(row[name] for name in ("metric", "task", "label", "part") if row[name])
        raise ScoringError(
            f"case {row['case'].removeprefix('/')} of algorithm {row['algorithm']} stands twice in "
            f"task {task} ({int(twice.sum())} rows too many)",
            expected="one row for each case, label and fold of an algorithm",
            remedy="remove one, or give two runs of a method two names",
        )


def _refuse_mixed_policies(rows: pd.DataFrame) -> None:
    policies = sorted(set(rows["policy"]) - {""})
    if len(policies) > 1:
        raise ScoringError(
            f"scores under different empty-mask policies ({', '.join(policies)})",
            expected="one policy for all algorithms",
            remedy="score all of them again under one policy",
        )
