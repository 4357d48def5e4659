"""Published results, as their authors printed them, for the tables to set beside one's own.

`published.json` keeps every number digit for digit as text (``0.8488±0.08242``), so that it can be
compared with its source by eye; this module turns it into numbers. Where a printed number cannot
be right (a misprint, an average that its own folds contradict) it stands as printed, and a remark
says what is wrong with it.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pandas as pd

_PRINTED = re.compile(
    r"(?P<mean>\d+(?:\.\d+)?)±(?P<std>\d+(?:\.\d+)?)(?: \((?P<median>\d+(?:\.\d+)?)\))?"
)

COLUMNS = [
    "source",
    "method",
    "task",
    "part",
    "fold",
    "label",
    "metric",
    "mean",
    "std",
    "median",
    "printed",
    "remark",
]


@dataclass(frozen=True)
class Source:
    """Where published numbers were read."""

    key: str
    title: str
    url: str


@functools.cache
def _content() -> dict[str, Any]:
    text = files("covidseg.scoring").joinpath("published.json").read_text(encoding="utf-8")
    return json.loads(text)


def published_sources() -> dict[str, Source]:
    """Every source of published numbers by its key, with title and address."""
    return {key: Source(key, **entry) for key, entry in _content()["sources"].items()}


def published_benchmark(task: str | None = None) -> pd.DataFrame:
    """The COVID-19-CT-Seg benchmark's published U-Net results, one number pair a row.

    Parameters
    ----------
    task
        A subtask (``task1-union``, ``task3-msd-tumour``); all of them where None.

    Returns
    -------
    pandas.DataFrame
        Columns ``source, method, task, part, fold, label, metric, mean, std, median, printed,
        remark``. ``fold`` is the fold's number or ``average``; ``mean`` and ``std`` are fractions
        in [0, 1] whatever the source printed; ``median`` is NaN (the benchmark printed none);
        ``printed`` is the source's own text. Empty where nothing was published for ``task``.
    """
    rows = [
        row
        for table in _content()["benchmark"]
        if task is None or table["task"] == task
        for row in _rows_of(table)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def published_covid1920() -> pd.DataFrame:
    """COVID-19-20's ten finalists and the agreement between observers, in the same columns.

    ``part`` is ``all`` (46 test cases), ``test_seen`` or ``test_unseen`` (23 each); the observers'
    numbers are over 245 training cases, so their ``part`` is ``training``. Fractions, not percent.
    """
    content = _content()["covid1920"]
    rows = []
    for team in content["teams"]:
        for cohort, text in team["dsc"].items():
            part = "all" if cohort == "all" else f"test_{cohort}"
            method = f"{team['team']} (#{team['id']}, rank {team['rank']})"
            rows.append(_row(content["source"], method, "covid1920", part, "dsc", text))
    between = content["interobserver"]
    method = f"between observers ({between['n']} training cases)"
    for metric in ("dsc", "nsd", "nave"):
        text = between[metric]
        rows.append(_row(content["source"], method, "covid1920", "training", metric, text))
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(source, method, task, part, metric, text) -> list[Any]:
    mean, std, median = parse_printed(text)
    return [
        source,
        method,
        task,
        part,
        "average",
        "infection",
        metric,
        mean,
        std,
        median,
        text,
        "",
    ]


def _rows_of(table: dict[str, Any]) -> list[list[Any]]:
    remarks = {
        (remark["row"], remark["column"]): remark["remark"] for remark in table.get("remarks", [])
    }
    rows = []
    for fold, cells in table["rows"].items():
        for column, text in zip(table["columns"], cells, strict=True):
            label, metric = column.split()
            mean, std, median = parse_printed(text, percent=table["unit"] == "percent")
            remark = remarks.get((fold, column)) or remarks.get((fold, "*")) or ""
            rows.append(
                [
                    table["source"],
                    table["method"],
                    table["task"],
                    table["part"],
                    fold,
                    label,
                    metric,
                    mean,
                    std,
                    median,
                    text,
                    remark,
                ]
            )
    return rows


def parse_printed(text: str, *, percent: bool = False) -> tuple[float, float, float]:
    """Mean, std and median (NaN where not printed) of ``mean±std`` or ``mean±std (median)``.

    Percent are divided by 100 in decimal arithmetic, so that 85.8 becomes the float 0.858.
    """
    match = _PRINTED.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not mean±std or mean±std (median)")
    scale = Decimal(100) if percent else Decimal(1)
    mean, std, median = (
        float(Decimal(match[name]) / scale) if match[name] else float("nan")
        for name in ("mean", "std", "median")
    )
    return mean, std, median
