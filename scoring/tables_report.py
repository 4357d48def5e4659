"""Everything `covidseg table` shows of a frame of scores: tables and figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from covidseg.core.errors import ConfigError
from covidseg.scoring.plots import box_plot, case_strips, forest_plot, paired_lines, save_figure
from covidseg.scoring.statistics_paired import compare_methods
from covidseg.scoring.tables import Table
from covidseg.scoring.tables_benchmark import benchmark_tables
from covidseg.scoring.tables_cases import case_tables
from covidseg.scoring.tables_comparison import comparison_tables
from covidseg.scoring.tables_covid1920 import covid1920_tables
from covidseg.scoring.tables_summary import DEFAULT_BOOTSTRAP, Bootstrap, summarise_folds
from covidseg.scoring.tables_values import Missing, case_values, check_scores, is_phantom

Style = Literal["benchmark", "covid1920"]
STYLES: tuple[Style, ...] = ("benchmark", "covid1920")


def report_tables(
    scores: pd.DataFrame,
    *,
    style: Style = "benchmark",
    published: bool = True,
    missing: Missing = "refuse",
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    per_case: bool = False,
    compare: bool = False,
    repetition: str = "Fold",
) -> list[Table]:
    """The tables of a style, then paired comparisons and the listing of cases if asked for.

    Raises
    ------
    ConfigError, ScoringError
        An unknown style; else as the functions that make the tables.
    """
    if style not in STYLES:
        raise ConfigError(f"style {style!r} is not known", expected=" or ".join(STYLES))
    if style == "benchmark":
        tables = benchmark_tables(
            scores,
            published=published,
            missing=missing,
            bootstrap=bootstrap,
            repetition=repetition,
        )
    else:
        tables = covid1920_tables(scores, published=published, missing=missing, bootstrap=bootstrap)
    if compare:
        comparisons = compare_methods(
            scores,
            metrics=("dsc", "nsd") if style == "benchmark" else ("dsc", "nsd", "nave"),
            missing=missing,
            confidence=bootstrap.confidence,
            n_resamples=bootstrap.n_resamples,
            seed=bootstrap.seed,
        )
        tables += comparison_tables(comparisons, bootstrap, phantom=is_phantom(scores))
    if per_case:
        tables += case_tables(scores)
    return tables


def report_figures(
    scores: pd.DataFrame,
    folder: Path,
    *,
    missing: Missing = "refuse",
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> list[Path]:
    """Write the figures of every task and metric into ``folder``; their paths.

    Names are ``<task>_<metric>_<box|cases|lines|intervals>.png`` and ``.svg``. Metrics that were
    not scored have no figures; lines between methods need two methods.
    """
    check_scores(scores)
    phantom = is_phantom(scores)
    written: list[Path] = []
    for task, of_task in scores.groupby("task", sort=True):
        metrics = ["dsc", "nsd"] + (["nave"] if of_task["nave"].notna().any() else [])
        values = case_values(of_task, metrics=metrics, missing=missing)
        summary = summarise_folds(values, bootstrap)
        name = re.sub(r"[^\w.-]", "_", str(task))
        for metric in metrics:
            figures = {
                "box": box_plot(values, metric, phantom=phantom),
                "cases": case_strips(values, metric, phantom=phantom),
                "intervals": forest_plot(
                    summary, metric, confidence=bootstrap.confidence, phantom=phantom
                ),
            }
            if values["algorithm"].nunique() > 1:
                figures["lines"] = paired_lines(values, metric, phantom=phantom)
            for kind, figure in figures.items():
                written += save_figure(figure, folder / f"{name}_{metric}_{kind}")
    return written
