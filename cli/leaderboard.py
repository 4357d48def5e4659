"""``covidseg leaderboard``: every run's scores, a table a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_HELP = """Print where every method stands: a table a task, ordered by DSC.

RUNS are folders that the drivers wrote to (runs/task1, or runs for all of them), or CSV files of
per-case scores. Published averages stand beneath; phantoms and patients have tables of their own.

Example: covidseg leaderboard runs
"""


def leaderboard(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="File to write: .md, .csv or .tex; else it is printed.")
    ] = None,
) -> None:
    from covidseg.core.errors import ConfigError
    from covidseg.scoring.leaderboard import find_scores, leaderboard_tables, read_runs
    from covidseg.scoring.tables import format_of, render_tables, write_tables

    form = format_of(out)
    if out is not None and form is None:
        raise ConfigError(f"ends in {out.suffix!r}", path=out, expected=".md, .csv or .tex")
    tables = leaderboard_tables(read_runs(find_scores(runs)))
    if out is None or form is None:
        typer.echo(render_tables(tables, "md"), nl=False)
    else:
        write_tables(tables, out, form)
        typer.echo(f"wrote {out}", err=True)


def add_to(app: typer.Typer) -> None:
    """Hang the subcommand into the command line."""
    app.command("leaderboard", help=_HELP)(leaderboard)
