"""``covidseg check``: verify every file of every dataset found under a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Hang the subcommand into the console command."""
    app.command("check")(check)


def check(
    root: Annotated[
        Path, typer.Argument(help="Folder below which your downloads lie, in any layout.")
    ],
    datasets: Annotated[
        list[str] | None,
        typer.Option(
            "--datasets",
            "-d",
            help="Only this dataset; give it several times, or several names with commas between. "
            "Everything that is found without it.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", min=1, help="Processes; one a processor without it."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", "-r", help="Also write everything that was found as JSON here."),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Verify every file of every dataset found under ROOT.

    Finds the datasets in whatever layout they were downloaded or extracted, reads every file whole,
    and says what is wrong: damaged files, image and mask on other grids, label values a dataset
    does not have, intensities on another scale, NaN, empty masks, left and right exchanged, one
    scan under two names, cases missing from or not in the published lists.

    Errors make data unusable or misleading; warnings are worth a look (a download that is not whole
    is one); notes are good to know. Nothing is changed.

    \b
    Exit status: 0 no errors; 1 errors found; 2 could not run (nothing found, for example).

    \b
    Example:
      covidseg check ~/data --report check.json
      covidseg check ~/data --datasets nsclc,msd
    """
    from covidseg.registry.check import check_root, write_report
    from covidseg.registry.show import console
    from covidseg.registry.show_check import check_summary

    names = [name for given in datasets or [] for name in given.split(",") if name]
    found = check_root(root, datasets=names or None, workers=workers, progress=progress)
    # First what took an hour to find, then what may not be writable.
    console().print(check_summary(found), soft_wrap=False)
    if report is not None:
        write_report(found, report)
    if not found.ok:
        raise typer.Exit(1)
