"""``covidseg phantom``: draw procedural chest CTs of every dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Hang the subcommand into the console command."""
    app.command("phantom")(phantom)


def phantom(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write to; made where it is missing.")
    ] = Path("data/phantom"),
    size: Annotated[
        str,
        typer.Option(
            "--size",
            "-s",
            help="tiny: 40x40x16 voxels, for tests. small: 112x112x40, for the demonstration. "
            "full: 512x512x116, for measuring speed.",
        ),
    ] = "small",
    datasets: Annotated[
        list[str] | None,
        typer.Option(
            "--datasets",
            "-d",
            help="Only this dataset; give it several times, or several names with commas between. "
            "All of them without it.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other patients.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", min=1, help="Processes; one a processor without it."),
    ] = None,
) -> None:
    """Draw procedural chest CTs of every dataset, in its own raw layout, under its real IDs.

    They stand in for the real data wherever those are not at hand: every other command takes them
    as it takes the downloads, and marks what comes of them as phantom results. A case depends on
    the seed and its name alone, so anybody gets the same ones (between kinds of processor a
    voxel may differ by 1 HU). Cases that are there already are kept: an interrupted run goes on
    when it is called again.

    \b
    Example:
      covidseg phantom --out data/phantom --size tiny
      covidseg check data/phantom
      covidseg build data/phantom --out data/hub
    """
    from covidseg.registry.phantom.generate import write_phantoms

    names = [name for given in datasets or [] for name in given.split(",") if name]
    written = write_phantoms(out, size, datasets=names or None, seed=seed, workers=workers)
    typer.echo(f"{out}: {written.drawn} drawn, {written.kept} kept.")
    for case, fault in written.faults.items():
        typer.echo(f"{case}: {fault}", err=True)
    if written.faults:
        raise typer.Exit(1)
