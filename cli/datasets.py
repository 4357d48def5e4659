"""``covidseg datasets``: list the datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Hang the subcommand into the console command."""
    app.command("datasets")(datasets)


def datasets(
    root: Annotated[
        Path | None,
        typer.Argument(help="Folder below which your downloads lie: cases found are counted."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON instead.")] = False,
) -> None:
    """List the datasets: cases (found under ROOT), licence, what they serve, how to get them.

    With ROOT, each dataset's cases found there are counted by cohort, beside the number that was
    published. What was not counted is said: folders that cannot be listed, archives (with --json on
    the error output). Next to nothing is opened: `covidseg check` verifies the files.

    \b
    Example:
      covidseg datasets
      covidseg datasets ~/data
      covidseg datasets ~/data --json
    """
    import json

    from covidseg.registry.datasets import DATASETS
    from covidseg.registry.find import find_cases
    from covidseg.registry.listing import listing
    from covidseg.registry.show import console, datasets_table, not_counted

    found = find_cases(root) if root is not None else None
    if as_json:
        typer.echo(json.dumps(listing(found), indent=1, ensure_ascii=False))
    else:
        console().print(datasets_table(list(DATASETS.values()), found))
    if found is not None:
        printer = console(stderr=as_json)
        for line in not_counted(found):
            printer.print(line, style="yellow", markup=False)
