"""``covidseg download``: fetch what is openly downloadable, say how to get the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Hang the subcommand into the console command."""
    app.command("download")(download)


def download(
    name: Annotated[
        str, typer.Argument(help="Dataset, as `covidseg datasets` lists them.", metavar="NAME")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to download to; made where it is missing.")
    ] = Path("data/raw"),
    extract: Annotated[
        bool,
        typer.Option(help="Unpack archives, each into a folder of its own name beside it."),
    ] = True,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Download what is openly published of a dataset; print the steps for what is not.

    A download that breaks off goes on where it stopped when the command is called again. Checksums
    are compared with the published ones before a file gets its name, and files that stand verified
    are not fetched again. Where registration or a client is needed, the steps are printed.

    \b
    Example:
      covidseg download covid-ct-seg --out data/raw
      covidseg download mosmed          (prints how to get it)
    """
    from covidseg.registry.datasets import dataset
    from covidseg.registry.download import download_dataset
    from covidseg.registry.show import console, download_notes

    entry = dataset(name)
    printer = console()
    if entry.downloads:
        done = download_dataset(entry.key, out, unpack=extract, progress=progress)
        for path in done.fetched:
            printer.print(f"{path}: downloaded and verified", markup=False, soft_wrap=True)
        for path in done.kept:
            printer.print(f"{path}: is there already, verified", markup=False, soft_wrap=True)
        for path in done.extracted:
            printer.print(f"{path}: unpacked", markup=False, soft_wrap=True)
        for path in done.already_extracted:
            printer.print(
                f"{path}: is there already, not unpacked again", markup=False, soft_wrap=True
            )
    printer.print(download_notes(entry, out))
