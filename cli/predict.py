"""`covidseg predict`: segment scans with a trained run."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from covidseg.core.errors import ConfigError, CovidsegError, StorageError


class Intensities(StrEnum):
    """Scales that NIfTI values may be on."""

    auto = "auto"
    hu = "hu"
    windowed = "windowed"


def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="NIfTI files, slice pictures, or folders of them or of a DICOM CT series."
        ),
    ],
    run: Annotated[
        list[Path],
        typer.Option(
            help="Folder of a trained run. Several, or a folder of runs such as that of all folds, "
            "make an ensemble."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the label maps: not that of the scans, but one below it will do.",
        ),
    ],
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Average over mirrored inputs: slower, a little better. [default: the recipe's]",
        ),
    ] = None,
    intensity: Annotated[
        Intensities,
        typer.Option(help="Scale of NIfTI values; auto takes [0, 255] for the benchmark's window."),
    ] = Intensities.auto,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: a GPU if there is one]")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows at once. [default: the recipe's]")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict again what is in the folder already.")
    ] = False,
) -> None:
    """Segment scans: a label map for each, on the scan's own grid.

    What the same runs and options made of the same scans is kept, so an interrupted call goes on
    when it is given again (predictions.json in the folder says what was made from what). A scan
    that cannot be segmented is named at the end, and the others are done; with --overwrite the
    label map that other weights or options made of it is removed. A run of Task 3 that
    learnt several datasets' labels predicts those of the COVID-19 scans.

    \b
    Example:
      covidseg predict --run runs/task1-infection-3d/fold0 scans/ --out predictions/
      covidseg predict --run runs/task1-infection-3d scans/ --out predictions/   (all folds)
    """
    from covidseg.core.progress import progress_bar, tell
    from covidseg.engine import manifest
    from covidseg.engine.runs import read_run, runs_in, unfinished, weights_digest
    from covidseg.inference.files import (
        doubt_about_place,
        find_inputs,
        refuse_sources,
        require_writable,
        segment,
    )
    from covidseg.inference.record import Record
    from covidseg.trainers.transfer import TransferRecipe, open_transfer_runs, predicted_labels

    found = find_inputs(inputs)
    if not run:
        raise ConfigError("no run was given", remedy="add --run FOLDER")
    run = runs_in(run)
    if len(run) > 1:
        print(f"ensemble of {len(run)} runs: {', '.join(map(str, run))}")
    refuse_sources(found, out)
    predictor = open_transfer_runs(run, device=device, mirror=mirror, batch_size=batch_size)
    for one in run:
        if doubt := unfinished(one):
            tell(f"warning: {doubt}")
    if all((manifest.read(one) or {}).get("phantom") for one in run):
        tell("note: phantoms alone have been learnt from here, no patient's scan")
    settings = [[weights_digest(one) for one in run], mirror, intensity.value]
    record = Record(out, json.dumps(settings))
    todo = found if overwrite else record.missing(found)
    if todo:
        require_writable(out)
    faults: list[str] = []
    for one in progress_bar(todo, desc="predicting", unit="scan"):
        try:
            if doubt := doubt_about_place(one):
                tell(f"warning: {doubt}")
            segment(predictor, one, out, intensity.value)
            record.note(one)
        except StorageError:  # every other scan would meet it
            raise
        except CovidsegError as fault:
            removed = overwrite and record.drop_other(one)
            faults.append(f"{one.name}: {fault}" + " Its earlier label map is removed." * removed)
    names = predicted_labels(read_run(run[0], TransferRecipe))
    labels = ", ".join(f"{value} {name}" for value, name in enumerate(names, start=1))
    print(
        f"{out}: {len(todo) - len(faults)} segmented, {len(found) - len(todo)} kept. "
        f"Labels: {labels}."
    )
    if faults:
        print(f"{len(faults)} not segmented:")
        print("\n".join(f"  {line}" for line in faults))
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Hang `predict` into the command line."""
    app.command("predict")(predict)
