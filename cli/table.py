"""``covidseg table``: scores as the benchmark and the challenge print them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_HELP = """Print scores as the benchmark and the challenge print them.

SCORES are CSV files of per-case scores as `covidseg score` writes them, or the benchmark's own
(LesionDSC, LesionNSD-3mm, ...). Rows of several files are put together; a method is what the column
algorithm says. One table is printed for each subtask.

--style benchmark: fold by fold, average, mean±std in percent. --style covid1920: mean, std and
median over all, seen and unseen test cases, for DSC, NSD at 1 mm and NAVE. Intervals are drawn by
bootstrap over patients. Where a published split has a patient on both sides, a patient-clean
average stands beneath the official one. Phantoms are named in every table.

Examples:

covidseg table scores/fold*.csv

covidseg table mine.csv theirs.csv --compare --out table.tex --plots figures/
"""


class Style(StrEnum):
    """Whose tables."""

    benchmark = "benchmark"
    covid1920 = "covid1920"


class Format(StrEnum):
    """File format."""

    md = "md"
    csv = "csv"
    tex = "tex"


class Missing(StrEnum):
    """What a case without a score does."""

    refuse = "refuse"
    worst = "worst"
    remove = "remove"


def table(
    scores: Annotated[list[Path], typer.Argument(metavar="SCORES...", show_default=False)],
    style: Annotated[Style, typer.Option(help="Whose tables.")] = Style.benchmark,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Markdown, CSV (unrounded, a row a number), or LaTeX with booktabs. By default "
            "what the name of OUT ends in, else Markdown.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write; without it the tables are printed.")
    ] = None,
    published: Annotated[
        bool, typer.Option(help="Set the published rows beneath your own.")
    ] = True,
    missing: Annotated[
        Missing,
        typer.Option(
            help="A case that could not be scored, or that one method lacks: refuse to make a "
            "table, count it as the worst (DSC and NSD 0), or remove it from the mean and say so."
        ),
    ] = Missing.refuse,
    per_case: Annotated[
        bool, typer.Option("--per-case", help="List every case as well, worst first.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Compare all pairs of methods as well: mean difference, signed-rank test on "
            "patients, Holm over all comparisons.",
        ),
    ] = False,
    plots: Annotated[
        Path | None,
        typer.Option(
            help="Folder for figures (PNG and SVG): box plots, strips of cases, lines between "
            "methods, forest plot of the intervals."
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Coverage of the intervals.")
    ] = 0.95,
    resamples: Annotated[
        int, typer.Option(min=100, help="Bootstrap resamples of the intervals.")
    ] = 9999,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resamples.")] = 0,
) -> None:
    from covidseg.scoring.scores import read_scores
    from covidseg.scoring.tables import format_of, render_tables, write_tables
    from covidseg.scoring.tables_report import report_figures, report_tables
    from covidseg.scoring.tables_summary import Bootstrap

    chosen = form.value if form is not None else format_of(out) or "md"
    frame = read_scores(scores)
    bootstrap = Bootstrap(confidence=confidence, n_resamples=resamples, seed=seed)
    tables = report_tables(
        frame,
        style=style.value,
        published=published,
        missing=missing.value,
        bootstrap=bootstrap,
        per_case=per_case,
        compare=compare,
    )
    if out is None:
        typer.echo(render_tables(tables, chosen), nl=False)
    else:
        write_tables(tables, out, chosen)
        typer.echo(f"wrote {out}", err=True)
    if plots is not None:
        for path in report_figures(frame, plots, missing=missing.value, bootstrap=bootstrap):
            typer.echo(f"wrote {path}", err=True)


def add_to(app: typer.Typer) -> None:
    """Hang the subcommand into the command line."""
    app.command("table", help=_HELP)(table)
