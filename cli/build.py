"""``covidseg build``: write a Hugging Face dataset repository of the raw downloads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from covidseg.registry.hub import BuildReport

_SHOWN = 10


def add_to(app: typer.Typer) -> None:
    """Hang the subcommand into the console command."""
    app.command("build")(build)


def build(
    root: Annotated[Path, typer.Argument(help="Folder with your downloads, in whatever layout.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the repository; made if missing.")
    ] = Path("data/hub"),
    datasets: Annotated[
        list[str] | None,
        typer.Option(
            "--datasets",
            "-d",
            help="Only this dataset; give it several times, or several with commas between.",
        ),
    ] = None,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy/--link",
            help="Copy volumes, or link those that can stay as they are (hard, else symbolic, "
            "else a copy). DICOM and pictures are converted to NIfTI either way.",
        ),
    ] = False,
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            help="Make a repository that may be pushed: of datasets whose licence forbids passing "
            "them on, only metadata is written.",
        ),
    ] = False,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Make configurations also of splits of which you lack cases. Results on them are "
            "not comparable with published ones.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", min=1, help="Processes; one a processor without it."),
    ] = None,
) -> None:
    """Write a Hugging Face dataset repository of everything found below ROOT.

    Any other project then loads any split with stock `datasets`, without covidseg:

    \b
      from datasets import load_dataset
      train = load_dataset("data/hub", "task1-infection-fold0", split="train")

    There is a configuration for every subtask and fold, with suffix -clean where a patient-clean
    variant differs, and one for each dataset whole. One for which cases are missing is left out,
    and the report says which and why. Every image and mask is read and checked; bad ones, and
    layouts known to be bad, are listed and make the exit status 1, and the rest is built. Run
    again, it goes on where it was interrupted and reads only what has changed.

    Example: covidseg build data/raw --out data/hub
    """
    from covidseg.registry.hub import build_hub

    report = build_hub(
        root,
        out,
        datasets=[name for given in datasets or [] for name in given.split(",") if name] or None,
        placing="copy" if copy else "link",
        publish=publish,
        partial=partial,
        workers=workers,
    )
    _print(report, out)
    if not report.sound:
        raise typer.Exit(1)


def _print(report: BuildReport, out: Path) -> None:
    made = report.configurations
    read = report.cases - report.unchanged
    typer.echo(
        f"{out}: {len(made)} configurations of {report.cases} cases"
        f" ({read} read, {report.unchanged} unchanged)."
    )
    if report.phantom:
        typer.echo("PHANTOMS: drawn, not patients; every row says so.")
    for key, licence in report.withheld.items():
        typer.echo(f"{key}: metadata only, its licence ({licence}) forbids passing it on.")
    if report.kept:
        typer.echo(
            f"Kept of an earlier build, since not found this time: {', '.join(report.kept)}."
            f" No row names these volumes; remove them below {out}/volumes to be rid of them."
        )
    for archive in report.archives:
        typer.echo(f"{archive} is an archive: only what is extracted is built from.")
    if report.left_out:
        from covidseg.registry.hub_card import grouped

        names: dict[str, list[str]] = {}
        for name, reason in grouped(report.left_out).items():
            names.setdefault(reason, []).append(name)
        typer.echo("\nLeft out:")
        for reason, stems in names.items():
            typer.echo(f"  {reason}: {', '.join(stems)}")
    incomplete = {
        note: name
        for name, notes in reversed(report.notes.items())
        for note in notes
        if note.startswith("without ") or " is incomplete" in note
    }
    if incomplete:
        typer.echo("\nIncomplete:")
        for note, name in list(incomplete.items())[:_SHOWN]:
            typer.echo(f"  {name}: {note}")
    if report.warnings:
        typer.echo("\nWorth a look:")
        for line in report.warnings:
            typer.echo(f"  {line}")
    if report.faults:
        typer.echo(f"\n{len(report.faults)} faults:")
        for fault in report.faults[:_SHOWN]:
            typer.echo(f"  {fault}")
        if len(report.faults) > _SHOWN:
            typer.echo(f"  ... all of them in {out}/.covidseg/report.json")
    if made:
        first = "task1-infection-fold0" if "task1-infection-fold0" in made else next(iter(made))
        part = next(iter(made[first]))
        typer.echo(f'\n  load_dataset("{out}", "{first}", split="{part}")')
