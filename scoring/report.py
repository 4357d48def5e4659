"""The report of a ranking: one HTML file that needs nothing else, figures, CSV and JSON."""

from __future__ import annotations

import base64
import io
import json
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from covidseg.core.files import atomic_file, sha256_of_file
from covidseg.core.progress import progress_bar
from covidseg.scoring.bootstrap_ranking import Bootstraps, rank_quantiles
from covidseg.scoring.ranking import Ranking, expected_distinct

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PACKAGES = ("covidseg", "numpy", "scipy", "pandas", "matplotlib")


@dataclass(frozen=True)
class RankingFigure:
    """A figure of the report: its file name without ending, its caption, and how to draw it."""

    name: str
    caption: str
    section: str
    draw: Callable[[], Figure]


def write_ranking_report(
    ranking: Ranking,
    bootstraps: Bootstraps,
    out: str | PathLike[str],
    *,
    sources: Iterable[str | PathLike[str]] = (),
    progress: bool = True,
) -> Path:
    """Write the report of ``ranking`` into folder ``out`` and return the path of its HTML file.

    Files: ``report.html`` (self-contained), ``figures/*.png`` and ``*.svg``, ``ranking.csv`` (a row
    an algorithm), ``tasks.csv`` (a row an algorithm and task), ``tests.csv`` (a row an ordered
    pair and task), ``bootstrap.csv`` (a row a sample and task) and ``ranking.json`` (settings,
    versions, sources with their SHA-256, ranks, warnings). The same input gives the same bytes.

    Raises
    ------
    StorageError
        The folder cannot be written to.
    """
    out = Path(out)
    tables = {
        "ranking.csv": ranking_table(ranking, bootstraps),
        "tasks.csv": task_table(ranking, bootstraps),
        "tests.csv": tests_table(ranking),
        "bootstrap.csv": bootstrap_table(bootstraps),
    }
    for name, table in tables.items():
        table = table.assign(phantom=str(ranking.challenge.phantom).lower())
        with atomic_file(out / name) as path:
            table.to_csv(path, index=False, lineterminator="\n")
    figures = ranking_figures(ranking, bootstraps)
    before = _figures_before(out)
    names = [figure.name for figure in figures]
    summary = {**_summary(ranking, bootstraps, sources), "figures": names}
    with atomic_file(out / "ranking.json") as path:
        path.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for name in before.difference(names):
        for ending in ("png", "svg"):
            (out / "figures" / f"{name}.{ending}").unlink(missing_ok=True)
    drawn = []
    for figure in progress_bar(
        figures, desc="figures", unit="figure", disable=not progress, dynamic_ncols=True
    ):
        drawn.append((figure, _save_figure(figure, out / "figures")))
    with atomic_file(out / "report.html") as path:
        path.write_text(_html(ranking, bootstraps, summary, drawn), encoding="utf-8")
    return out / "report.html"


def _figures_before(out: Path) -> set[str]:
    """Names of the figures of the report that ``out`` holds already."""
    try:
        named = json.loads((out / "ranking.json").read_text(encoding="utf-8"))["figures"]
        return {name for name in named if isinstance(name, str) and Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def ranking_table(ranking: Ranking, bootstraps: Bootstraps) -> pd.DataFrame:
    """Consensus ranks, best first: a row an algorithm."""
    order = ranking.order
    low, median, high = rank_quantiles(bootstraps.consensus)
    columns = {
        "rank": ranking.consensus,
        "algorithm": np.array(ranking.challenge.algorithms, dtype=object),
        "mean_rank": ranking.mean_ranks,
        "bootstrap_median": median,
        "bootstrap_2.5%": low,
        "bootstrap_97.5%": high,
        "bootstrap_share_first": (bootstraps.consensus == 1).mean(axis=0),
    }
    for result in ranking.tasks:
        columns[f"rank {result.task.name}"] = result.ranks
    return pd.DataFrame({name: values[order] for name, values in columns.items()})


def task_table(ranking: Ranking, bootstraps: Bootstraps) -> pd.DataFrame:
    """Ranks within each task: a row an algorithm and task, best first.

    Mean and median are over the cases that have a value: the count of the others stands beside.
    """
    parts = []
    for result, ranks in zip(ranking.tasks, bootstraps.ranks, strict=True):
        task = result.task
        low, median, high = rank_quantiles(ranks)
        known = [row[~np.isnan(row)] for row in np.where(task.missing, np.nan, task.values)]
        part = pd.DataFrame(
            {
                "task": task.name,
                "rank": result.ranks,
                "algorithm": task.algorithms,
                "significant_wins": result.wins,
                "share_of_wins": result.share_of_wins,
                "bootstrap_median": median,
                "bootstrap_2.5%": low,
                "bootstrap_97.5%": high,
                "mean": [row.mean() if len(row) else np.nan for row in known],
                "median": [np.median(row) if len(row) else np.nan for row in known],
                "cases": [len(row) for row in known],
                "missing": task.missing.sum(axis=1),
                "undefined": task.undefined.sum(axis=1),
            }
        )
        parts.append(part.iloc[np.lexsort((ranking.consensus, result.ranks))])
    return pd.concat(parts, ignore_index=True)


def tests_table(ranking: Ranking) -> pd.DataFrame:
    """Every test: task, "algorithm is better than against", p-values and decision."""
    parts = []
    for result in ranking.tasks:
        names = np.array(result.task.algorithms, dtype=object)
        one, other = np.nonzero(~np.eye(len(names), dtype=bool))
        parts.append(
            pd.DataFrame(
                {
                    "task": result.task.name,
                    "algorithm": names[one],
                    "against": names[other],
                    "p": result.p_values[one, other],
                    "p_adjusted": result.p_adjusted[one, other],
                    "significant": result.significant[one, other],
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def bootstrap_table(bootstraps: Bootstraps) -> pd.DataFrame:
    """Ranks in every bootstrap sample: a row a sample and task, a column an algorithm."""
    names = bootstraps.ranking.challenge.algorithms
    rows = [
        *(
            (result.task.name, ranks, tau)
            for result, ranks, tau in zip(
                bootstraps.ranking.tasks, bootstraps.ranks, bootstraps.tau, strict=True
            )
        ),
        ("consensus", bootstraps.consensus, bootstraps.tau_consensus),
    ]
    parts = []
    for task, ranks, tau in rows:
        part = pd.DataFrame(ranks, columns=[f"rank {name}" for name in names])
        part.insert(0, "kendall_tau_b", tau)
        part.insert(0, "sample", np.arange(len(ranks)))
        part.insert(0, "task", task)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def ranking_figures(ranking: Ranking, bootstraps: Bootstraps) -> list[RankingFigure]:
    """All figures of the report, not yet drawn."""
    from covidseg.scoring import ranking_plots as plots

    figures = [
        RankingFigure(
            "blob-consensus",
            "Consensus rank in the bootstrap samples: the area of a blob is the share of samples, "
            "the cross the median, the line the 2.5 to 97.5 % quantiles.",
            "consensus",
            partial(plots.blob_plot, ranking, bootstraps, None),
        ),
        RankingFigure(
            "tasks",
            "Ranks in every task and in the consensus. Equal ranks are drawn slightly apart.",
            "consensus",
            partial(plots.tasks_plot, ranking),
        ),
        RankingFigure(
            "tau",
            "Agreement of the bootstrap rankings with the ranking on all cases: violin, and box "
            "from quartile to quartile with whiskers at 2.5 and 97.5 %.",
            "consensus",
            partial(plots.tau_plot, ranking, bootstraps),
        ),
        RankingFigure(
            "methods",
            "Ranks by five ranking methods: lines that cross show ranks that the choice of the "
            "method decides. Equal ranks are drawn slightly apart.",
            "methods",
            partial(plots.methods_plot, ranking),
        ),
    ]
    slugs = _slugs([result.task.name for result in ranking.tasks])
    for task, (result, slug) in enumerate(zip(ranking.tasks, slugs, strict=True)):
        name = result.task.name
        figures += [
            RankingFigure(
                f"blob-{slug}",
                f"Ranks in the bootstrap samples of {name}: blob area is the share of samples, "
                "cross the median, line the 2.5 to 97.5 % quantiles.",
                slug,
                partial(plots.blob_plot, ranking, bootstraps, task),
            ),
            RankingFigure(
                f"podium-{slug}",
                f"{name} of every case by the place its algorithm took on it (lines join the "
                "values of one case; slots at a place follow the rank), and how often each "
                "place was taken. Ties of a case are broken at random.",
                slug,
                partial(plots.podium_plot, ranking, task, bootstraps.seed),
            ),
            RankingFigure(
                f"significance-{slug}",
                f"Significant differences in {name}, in the order of the ranking: full colours "
                "after Holm's adjustment over all pairs, pale ones without adjustment only.",
                slug,
                partial(plots.significance_map, ranking, task),
            ),
        ]
    return figures


def _slugs(names: Sequence[str]) -> list[str]:
    """File names of tasks, all different."""
    taken: set[str] = {"consensus", "methods", "computed", "sources"}
    slugs = []
    for name in names:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "task"
        slug, number = plain, 2
        while slug in taken:
            slug, number = f"{plain}-{number}", number + 1
        taken.add(slug)
        slugs.append(slug)
    return slugs


def _save_figure(figure: RankingFigure, folder: Path) -> str:
    """Write PNG and SVG; the SVG comes back as a data address for the HTML."""
    from matplotlib import rc_context

    drawing = figure.draw()
    with atomic_file(folder / f"{figure.name}.png") as path:
        drawing.savefig(path, dpi=150)
    buffer = io.BytesIO()
    # Without a salt and with a date, the same figure would have other bytes every time.
    with rc_context({"svg.hashsalt": figure.name}):
        drawing.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    with atomic_file(folder / f"{figure.name}.svg") as path:
        path.write_bytes(buffer.getvalue())
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def report_warnings(ranking: Ranking, bootstraps: Bootstraps) -> list[str]:
    """What a reader of ranks and of their stability must know, a sentence or two each."""
    sentences = ranking.warnings()
    for result in ranking.tasks:
        if len(result.task.cases) == 1:
            sentences.append(
                f"{result.task.name} has one case: its bootstrap samples are all the same."
            )
    flat = [
        f"{result.task.name} {share:.0%}"
        for result, share in zip(ranking.tasks, bootstraps.without_winner(), strict=True)
        if share >= 0.05 and result.significant.any()
    ]
    if flat:
        sentence = (
            "Bootstrap samples in which no pair differs significantly, so that all algorithms "
            f"share rank 1: {', '.join(flat)}."
        )
        if bootstraps.mode == "unique":
            cases = max(len(result.task.cases) for result in ranking.tasks)
            sentence += (
                f" A sample holds each drawn case once, on average {expected_distinct(cases):.1f} "
                f"of {cases}, and has less power than the full data."
            )
        sentences.append(sentence)
    missing = {
        result.task.name: int(result.task.missing.sum())
        for result in ranking.tasks
        if result.task.missing.any()
    }
    if missing:
        counted = "count as the worst" if ranking.missing == "worst" else "are left out"
        sentences.append(
            f"Missing cases {counted}: "
            + ", ".join(f"{count} in {name}" for name, count in missing.items())
            + "."
        )
    return [*sentences, *ranking.challenge.notes]


def methods_text(ranking: Ranking, bootstraps: Bootstraps) -> list[str]:
    """Exactly what was computed, a paragraph each."""
    count = len(ranking.challenge.algorithms)
    tests = count * (count - 1)
    if ranking.adjust == "holm":
        adjust = (
            f"adjusted by Holm's step-down method over all {tests:,} ordered pairs of the task; a "
            f"test is significant if its adjusted p-value is at most {ranking.alpha:g}"
        )
    else:
        adjust = (
            f"not adjusted for the {tests:,} tests of a task; a test is significant if its p-value "
            f"is at most {ranking.alpha:g}"
        )
    if ranking.missing == "worst":
        worst = {
            result.task.name: "0" if result.task.worst == 0 else "less than any value"
            for result in ranking.tasks
        }
        missing = "A case that an algorithm lacks counts as the worst: " + ", ".join(
            f"{value} in {name}" for name, value in worst.items()
        )
    else:
        missing = "A case that an algorithm lacks is left out of that algorithm's comparisons"
    if bootstraps.mode == "unique":
        mode = (
            "A case drawn more than once counts once, since challengeR's test-then-rank matches "
            "cases by name (mode “unique”)"
        )
    else:
        mode = "A case counts as often as it was drawn (mode “multiplicity”)"
    return [
        "Tests. In every task each ordered pair of algorithms is compared by the one-sided "
        "Wilcoxon signed-rank test on the paired per-case values (higher is better; NAVE enters as "
        "its negative): zero differences are dropped, equal absolute differences get average "
        "ranks, and the p-value is the normal approximation with continuity and tie correction, "
        "never the exact test. It equals R's wilcox.test(paired = TRUE, exact = FALSE, alternative "
        f"= “greater”). P-values are {adjust}.",
        "Ranks. An algorithm's rank in a task is by its number of significant wins; ties share the "
        "lowest rank. The consensus is by the mean over tasks of the average-tie ranks (each task "
        "counts the same), ties again sharing the lowest rank.",
        missing
        + ". A value that is undefined (no such metric on an empty mask) is left out of the "
        "comparisons it belongs to. Means and medians in the tables are over the cases that have a "
        "value.",
        f"Stability. The ranking was repeated on {bootstraps.samples:,} bootstrap samples of each "
        f"task's cases, drawn with replacement anew for every task. {mode}. Intervals are the 2.5 "
        "and 97.5 % quantiles (type 7) of the ranks. Agreement with the full ranking is Kendall's "
        "tau-b, without a value where one of the two rankings is constant.",
        "After challengeR: Wiesenfarth et al., Methods and open-source toolkit for analyzing and "
        "visualizing challenge results, Scientific Reports 11, 2369 (2021). The intervals say how "
        "the ranks vary with the choice of cases, not whether two algorithms differ.",
    ]


def _summary(ranking: Ranking, bootstraps: Bootstraps, sources) -> dict:
    challenge = ranking.challenge
    return {
        "phantom": challenge.phantom,
        "settings": {
            "adjust": ranking.adjust,
            "alpha": ranking.alpha,
            "missing": ranking.missing,
            "bootstraps": bootstraps.samples,
            "bootstrap_mode": bootstraps.mode,
            "seed": bootstraps.seed,
        },
        "warnings": report_warnings(ranking, bootstraps),
        "consensus": [
            {
                "rank": int(ranking.consensus[k]),
                "algorithm": challenge.algorithms[k],
                "mean_rank": float(ranking.mean_ranks[k]),
            }
            for k in ranking.order
        ],
        "tasks": [
            {
                "name": result.task.name,
                "cases": list(result.task.cases),
                "ranks": dict(zip(challenge.algorithms, result.ranks.tolist(), strict=True)),
                "smallest_reachable_adjusted_p": result.smallest_reachable,
                "median_tau_b": None if np.isnan(tau).all() else float(np.nanmedian(tau)),
            }
            for result, tau in zip(ranking.tasks, bootstraps.tau, strict=True)
        ],
        "sources": [{"file": Path(path).name, "sha256": sha256_of_file(path)} for path in sources],
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES}


def _html(ranking, bootstraps, summary, drawn: list[tuple[RankingFigure, str]]) -> str:
    from covidseg.scoring.report_html import Page

    challenge = ranking.challenge
    page = Page(f"Ranking of {len(challenge.algorithms)} algorithms")
    if challenge.phantom:
        page.alert(
            "Phantom data: these scores were made on procedural phantoms and are no result of "
            "any real scan."
        )
    for sentence in summary["warnings"]:
        page.note(sentence)
    settings = summary["settings"]
    page.settings(
        {
            "Tasks": ", ".join(result.task.name for result in ranking.tasks),
            "Adjustment for multiple tests": settings["adjust"],
            "Significance level": f"{settings['alpha']:g}",
            "Missing cases": settings["missing"],
            "Bootstrap samples": f"{settings['bootstraps']:,} ({settings['bootstrap_mode']})",
            "Seed": str(settings["seed"]),
        }
    )
    page.section("consensus", "Consensus")
    page.table(_readable(ranking_table(ranking, bootstraps)))
    _add_figures(page, drawn, "consensus")
    tasks = task_table(ranking, bootstraps)
    for result, slug in zip(
        ranking.tasks, _slugs([result.task.name for result in ranking.tasks]), strict=True
    ):
        page.section(slug, result.task.name)
        page.table(_readable(tasks[tasks["task"] == result.task.name].drop(columns="task")))
        _add_figures(page, drawn, slug)
    page.section("methods", "How much the method decides")
    _add_figures(page, drawn, "methods")
    page.section("computed", "What was computed")
    for paragraph in methods_text(ranking, bootstraps):
        page.paragraph(paragraph)
    page.section("sources", "Sources and versions")
    if summary["sources"]:
        page.table(pd.DataFrame(summary["sources"]))
    page.paragraph(", ".join(f"{name} {value}" for name, value in summary["versions"].items()))
    return page.text()


def _add_figures(page, drawn, section: str) -> None:
    for figure, address in drawn:
        if figure.section == section:
            page.figure(address, figure.caption)


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as text: whole ones whole, others to the digits that mean something."""
    shown = table.copy()
    for column in shown.columns:
        if not pd.api.types.is_float_dtype(shown[column]):
            continue
        digits = 1 if column.startswith("bootstrap_") and "share" not in column else 3
        shown[column] = [_number(value, digits) for value in shown[column]]
    return shown.rename(
        columns=lambda name: name.replace("_", " ") if "rank " not in name else name
    )


def _number(value: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}"
    return (text.removesuffix(".0") if digits == 1 else text).replace("-", "−")
