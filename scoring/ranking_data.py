"""From CSV files of per-case scores to the tasks of a challenge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from covidseg.core.errors import ScoringError
from covidseg.scoring.policy import EMPTY_STATUSES, OK, POLICIES
from covidseg.scoring.ranking import Challenge, Task
from covidseg.scoring.scores import nsd_column, nsd_tolerances, read_scores, read_text_csv
from covidseg.scoring.tables_values import nsd_tolerance_mm

# Column of a plain file: the names it goes by.
_PLAIN = {
    "task": ("task",),
    "algorithm": ("algorithm", "alg"),
    "case": ("case", "case_id"),
    "value": ("value",),
}
# Statuses under which an empty metric is one without a value, and no algorithm is to blame.
_NOT_MISSING = {OK, *EMPTY_STATUSES, "missing_reference"}


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
        Other columns, ``metrics`` for plain files alone, a case twice, empty-mask policies or
        phantoms and patients mixed, fewer than two algorithms, a NAVE that is not negative in a
        plain file; a task that one algorithm has alone, or an algorithm that shares no case of a
        task with any other.
    UnreadableFileError
        A file is absent or no CSV.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise ScoringError("no file of scores", remedy="name at least one CSV file")
    notes: list[str] = []
    plain, scores = [], []
    for path in files:
        table = read_text_csv(path)
        if _is_plain(list(table.columns), path):
            plain.append(_read_plain(table, path).assign(file=str(path)))
        else:
            scores.append(_read_scores(path, notes).assign(file=str(path)))
    if metrics and not scores:
        raise ScoringError(
            "metrics are named for files that have no columns of metrics",
            path=files[0],
            remedy="leave the metrics out, and the rows of tasks that are not to be ranked by",
        )
    if scores:
        plain.append(_long(pd.concat(scores, ignore_index=True), metrics))
    rows = pd.concat(plain, ignore_index=True)
    if rows.empty:
        raise ScoringError("no row of scores in " + ", ".join(path.name for path in files))
    _refuse_mixed_policies(rows)
    _refuse_twice(rows)
    if rows["phantom"].nunique() > 1:
        raise ScoringError(
            "scores of phantoms and of patients are mixed",
            expected="one kind in a ranking",
            remedy="rank each for itself",
        )
    algorithms = tuple(sorted(rows["algorithm"].unique()))
    rows["name"] = _task_names(rows)
    _refuse_two_scales(rows)
    if rows["fold"].nunique() > 1:
        notes.append(
            "Cases were scored in several folds: a case's value is the mean over an algorithm's "
            "folds, and a case that is missing in one of them is missing."
        )
    notes += _meet(rows, algorithms)
    tasks = tuple(
        _task(str(name), part, algorithms) for name, part in rows.groupby("name", sort=False)
    )
    for task in tasks:
        undefined = int(task.undefined.sum())
        if undefined:
            notes.append(
                f"{task.name}: {undefined} of {task.values.size} values are undefined (no such "
                "metric on an empty mask, or no reference) and left out of the comparisons they "
                "belong to."
            )
    return Challenge(tasks, phantom=bool(rows["phantom"].iloc[0]), notes=tuple(notes))


def _meet(rows: pd.DataFrame, algorithms: Sequence[str]) -> list[str]:
    """Refuse what cannot be compared: names of tasks or cases that do not meet are a mistake, and
    would make each algorithm the best of its own. A note for each task that some algorithms lack.
    """
    notes = []
    for name, part in rows.groupby("name", sort=False):
        cases = part.groupby("algorithm")["case"].agg(set)
        if len(algorithms) > 1 and len(cases) == 1:
            raise ScoringError(
                f"only {cases.index[0]} has scores of the task {name!r}",
                expected="every task from two algorithms or more; tasks found: "
                + ", ".join(map(repr, rows["name"].unique())),
                remedy="give the same task one name in all files, or leave its rows out",
            )
        for algorithm, own in cases.items():
            others = set().union(*cases.drop(algorithm))
            if others and not own & others:
                raise ScoringError(
                    f"{algorithm} has no case of the task {name!r} in common with the others: "
                    f"{min(own)} against {min(others)}",
                    remedy="give the same case one name in all files",
                )
        lacking = sorted(set(algorithms) - set(cases.index))
        if lacking:
            notes.append(f"{name}: no scores at all of {', '.join(lacking)}.")
    return notes


def _refuse_two_scales(rows: pd.DataFrame) -> None:
    """Raise ScoringError where one algorithm's overlaps are in percent and another's are not."""
    for name, part in rows[rows["name"].map(_is_overlap)].groupby("name", sort=False):
        greatest = part.groupby("algorithm")["value"].max()
        percent, shares = greatest[greatest > 1.001], greatest[(greatest > 0) & (greatest <= 1.001)]
        if len(percent) and len(shares):
            raise ScoringError(
                f"{name} goes up to {percent.iloc[0]:g} for {percent.index[0]} and to "
                f"{shares.iloc[0]:g} for {shares.index[0]}",
                expected="one scale for all algorithms",
                remedy="divide percentages by 100",
            )


def _is_overlap(task: str) -> bool:
    return re.search(r"(?<![a-z])(?:dsc|dice|nsd)(?![a-z])", task.lower()) is not None


def _is_plain(columns: Sequence[str], path: Path) -> bool:
    header = set(columns)
    if all(header & set(names) for names in _PLAIN.values()):
        return True
    if not {"case_id", "label", "dsc"} <= header and "Name" not in header:
        raise ScoringError(
            f"has the columns {', '.join(columns)}",
            path=path,
            expected="what `covidseg score` writes, or task, algorithm, case, value",
            remedy="write one row a value: task, algorithm, case and a value where higher is "
            "better (errors as their negative)",
        )
    return False


def _read_plain(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    found = {
        column: next(name for name in names if name in table) for column, names in _PLAIN.items()
    }
    text = table[found["value"]]
    absent = text.str.lower().isin(["", "na", "nan"])
    value = pd.to_numeric(text.mask(absent), errors="coerce")
    bad = (value.isna() & ~absent) | (value == np.inf)
    for column in ("task", "algorithm", "case"):
        bad |= table[found[column]] == ""
    if bad.any():
        line = int(np.flatnonzero(bad)[0])
        raise ScoringError(
            f"line {line + 2} is {','.join(table.iloc[line])}",
            path=path,
            expected="a task, an algorithm, a case and a number (or nothing, if missing)",
        )
    task = table[found["task"]]
    wrong_way = task.str.lower().str.contains(r"(?<![a-z])nave(?![a-z])") & (value > 0)
    if wrong_way.any():
        raise ScoringError(
            f"NAVE above 0 in task {task[wrong_way].iloc[0]}",
            path=path,
            expected="its negative, since higher values are taken to be better",
            remedy="multiply NAVE by -1",
        )
    phantom = table["phantom"].str.lower() == "true" if "phantom" in table else False
    return pd.DataFrame(
        {
            "task": task,
            "label": "",
            "part": "",
            "metric": "",
            "algorithm": table[found["algorithm"]],
            "case": table[found["case"]],
            "fold": "",
            "value": value.astype(float),
            "missing": absent,
            "policy": "",
            "phantom": phantom,
        }
    )


def _read_scores(path: Path, notes: list[str]) -> pd.DataFrame:
    scores = read_scores(path)
    if scores.empty:
        raise ScoringError("has no row", path=path, expected="a row for every case and label")
    unnamed = scores["algorithm"] == ""
    if unnamed.any():
        scores["algorithm"] = scores["algorithm"].mask(unnamed, path.stem)
        notes.append(f"{path.name} names no algorithm: called {path.stem!r} after the file.")
    return scores


def _long(scores: pd.DataFrame, metrics: Sequence[str] | None) -> pd.DataFrame:
    """The scorer's table, a row a case and label, as a row a value."""
    parts = []
    # Task by task, since "the" NSD of a lung has another tolerance than that of an infection.
    for (task, label), rows in scores.groupby(["task", "label"], sort=False):
        for metric in dict.fromkeys(metrics or _usual_metrics(rows, str(task), str(label))):
            known = _metric_columns(scores)
            if metric not in known:
                raise ScoringError(
                    f"there is no metric {metric}",
                    expected="one of the files' columns " + ", ".join(known),
                )
            value = rows[metric]
            parts.append(
                pd.DataFrame(
                    {
                        "task": task,
                        "label": label,
                        "part": rows["part"],
                        "metric": metric,
                        "algorithm": rows["algorithm"],
                        "case": rows["dataset"] + "/" + rows["case_id"],
                        "fold": rows["fold"].astype("string").fillna("").astype(object),
                        "value": -value if metric == "nave" else value,
                        "missing": value.isna() & ~rows["status"].isin(_NOT_MISSING),
                        "policy": rows["policy"],
                        "phantom": rows["phantom"],
                        "file": rows["file"],
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def _metric_columns(scores: pd.DataFrame) -> list[str]:
    return ["dsc", *(nsd_column(tolerance) for tolerance in nsd_tolerances(scores.columns)), "nave"]


def _usual_metrics(scores: pd.DataFrame, task: str, label: str) -> list[str]:
    """DSC, the NSD at the benchmark's tolerance or the only one there is, and NAVE."""
    tolerances = [
        name
        for name in _metric_columns(scores)
        if name.startswith("nsd_") and scores[name].notna().any()
    ]
    benchmark = nsd_column(nsd_tolerance_mm(task, label))
    if benchmark in tolerances:
        tolerances = [benchmark]
    if len(tolerances) > 1:
        raise ScoringError(
            f"{label} has NSD at several tolerances ({', '.join(tolerances)}) and none is the "
            f"benchmark's ({benchmark})",
            remedy="name the metrics to rank by, such as --metric dsc --metric " + tolerances[0],
        )
    return ["dsc", *tolerances, *(["nave"] if scores["nave"].notna().any() else [])]


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
    row = pd.Index(algorithms).get_indexer(pd.Index(rows["algorithm"]))
    values = np.full((len(algorithms), len(every)), np.nan)
    missing = np.ones(values.shape, dtype=bool)
    values[row, at] = rows["value"]
    missing[row, at] = rows["missing"]
    cases = pd.Index(sorted(set(every.get_level_values("case"))))
    column = cases.get_indexer(every.get_level_values("case"))
    values[missing] = np.nan
    of_algorithm = np.zeros(values.shape, dtype=bool)
    of_algorithm[row, at] = True
    file, _ = pd.factorize(rows["file"])
    of_file = np.zeros((file.max() + 1, len(every)), dtype=bool)
    of_file[file, at] = True
    expected = _expected(every.get_level_values("fold").to_numpy(), of_algorithm)
    for algorithm, one in {*zip(row, file, strict=True)}:
        expected[algorithm] |= of_file[one]
    values, missing = _mean_over_folds(values, missing, expected, column)
    return Task(name, algorithms, _short(cases), values, missing, worst)


def _expected(fold: np.ndarray, has: np.ndarray) -> np.ndarray:
    """Which columns (a fold and case each) an algorithm of another file should have, by those that
    each ``has``, both (algorithms, columns) bool: what all algorithms have together that have rows
    of exactly the same folds. What one counts as folds can be seeds to another, and no fold to a
    third.
    """
    folds = [frozenset(fold[of_one]) for of_one in has]
    return np.array([has[[f == mine for f in folds]].any(0) for mine in folds])


def _mean_over_folds(values, missing, expected, column) -> tuple[np.ndarray, np.ndarray]:
    """One value a case; a case that is missing in one of the folds that an algorithm should have it
    in, or that it has in none, is missing.
    """
    count = np.zeros((len(values), column.max(initial=-1) + 1), dtype=int)
    total = np.zeros(count.shape)
    absent = np.zeros(count.shape, dtype=int)
    np.add.at(count.T, column, expected.T)
    np.add.at(total.T, column, np.where(expected, values, 0.0).T)
    np.add.at(absent.T, column, (missing & expected).T)
    # Dividing by one changes no bit, so unfolded values pass as they are.
    return total / np.where(count, count, np.nan), (absent > 0) | (count == 0)


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
    return 0.0 if _is_overlap(name) and not (values < 0).any() else -np.inf


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
    """Policies may differ in name, as long as they give a metric the same values."""
    for metric in rows["metric"].unique():
        names = sorted(set(rows.loc[rows["metric"] == metric, "policy"]) - {""})
        kind = metric.split("_")[0]
        values = {
            str(sorted(getattr(POLICIES[name], kind).items())) if name in POLICIES else name
            for name in names
        }
        if len(values) > 1:
            raise ScoringError(
                f"{metric_name(metric)} was scored under different empty-mask policies "
                f"({', '.join(names)})",
                expected="one policy for all algorithms",
                remedy="score all of them again under one policy",
            )
