"""``covidseg score``: score a folder of predictions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from covidseg.core.errors import ConfigError

_HELP = """Score a folder of predictions: DSC, NSD (DeepMind's surface Dice) and NAVE of all labels.

Cases are matched by name, without .nii.gz, .nii or .png and without _seg, _mask, _ct, _pred,
_label or _gt behind it; a scan of the Kaggle mirror's goes by its mask's name. Prediction and
reference must lie on one grid; nothing is resampled. A case that cannot be scored stays in the
table with a status and a message, and the exit status is 1.

The task says what the values mean and at which tolerance NSD is taken: 1 mm for lungs, 3 mm for
infections, 1 mm in COVID-19-20. With a configuration (task1-union-fold0) the published cases of
the part are scored, and a prediction that is not there is listed as missing.

Interrupt and repeat the command: cases that were scored already are not scored again.

Examples:

  covidseg score predictions/ labels/ --task task1-union --out scores.csv

  covidseg score predictions/ labels/ --labels 1=left_lung,2=right_lung --out scores.csv

  covidseg score pictures/ GT/ --labels 1=infection --tolerance infection=3
      --picture-spacing 0.7 --out scores.csv
"""


class Policy(StrEnum):
    """Names of `covidseg.scoring.policy.POLICIES`."""

    undefined = "undefined"
    agreement = "agreement"
    reference_only = "reference-only"
    surface_distance = "surface-distance"


def score(
    predictions: Annotated[Path, typer.Argument(metavar="PRED_DIR", show_default=False)],
    references: Annotated[Path, typer.Argument(metavar="REF_DIR", show_default=False)],
    out: Annotated[Path, typer.Option(help="CSV file to write.", show_default=False)],
    task: Annotated[
        str | None,
        typer.Option(
            help="Subtask (task1-union, covid1920) or configuration (task1-union-fold0).",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Values and names to score instead of the task's: 1=left_lung,2=right_lung.",
            show_default=False,
        ),
    ] = None,
    reference_labels: Annotated[
        str | None,
        typer.Option(
            help="Values and names in the references where they differ: 1=infection.",
            show_default=False,
        ),
    ] = None,
    ignore_other_labels: Annotated[
        bool,
        typer.Option("--ignore-other-labels", help="Accept values that are not among the labels."),
    ] = False,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            help="Tolerances of NSD in mm by label, infection=3 or infection=1,3; once a label.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Policy,
        typer.Option(
            help="Value of a metric where a mask is empty. Both empty: no value (undefined, "
            "surface-distance) or perfect (agreement); reference empty: worst, or no value "
            "(reference-only). See docs/scoring.md."
        ),
    ] = Policy.undefined,
    picture_spacing: Annotated[
        float, typer.Option(help="Pixel size in mm of PNG pictures, which do not know theirs.")
    ] = 1.0,
    algorithm: Annotated[
        str | None,
        typer.Option(help="Name of the method. [default: name of PRED_DIR]", show_default=False),
    ] = None,
    part: Annotated[str, typer.Option(help="Part of the split: test, test_mosmed, ...")] = "test",
    dataset: Annotated[
        str | None, typer.Option(help="Dataset of the cases. [default: the part's]")
    ] = None,
    phantom: Annotated[
        bool, typer.Option("--phantom", help="Say in the table that the cases are phantoms.")
    ] = False,
    benchmark_csv: Annotated[
        Path | None,
        typer.Option(
            help="Write the form of the benchmark's own evaluation as well "
            "(Name, LesionDSC, LesionNSD-3mm, ...).",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. [default: all processors]")
    ] = None,
) -> None:
    """Score a folder of predictions."""
    from covidseg.registry.phantom.marker import phantom_marker
    from covidseg.scoring.folder import expected_cases, score_folder, unexpected_cases
    from covidseg.scoring.scores import write_benchmark_csv, write_scores
    from covidseg.scoring.summary import failed_cases, summary_text

    for place in (out, benchmark_csv):
        if place is not None and place.is_dir():
            raise ConfigError(
                "is a folder",
                path=place,
                expected="a file's name",
                remedy=f"give {place}/scores.csv",
            )
    if benchmark_csv is not None and benchmark_csv.resolve() == out.resolve():
        raise ConfigError(
            "is given for both --out and --benchmark-csv", path=out, expected="two files"
        )
    # What lies below a phantoms' marker is phantoms, whether it is said or not.
    phantom = phantom or phantom_marker(references) is not None
    journal = out.with_name(out.name + ".partial")
    scores = score_folder(
        predictions,
        references,
        task=task,
        labels=_labels(labels, "--labels"),
        reference_labels=_labels(reference_labels, "--reference-labels"),
        tolerances_mm=_tolerances(tolerance or []) or None,
        policy=policy.value,
        ignore_other_labels=ignore_other_labels,
        picture_spacing_mm=(picture_spacing, picture_spacing),
        algorithm=algorithm,
        part=part,
        dataset=dataset,
        phantom=phantom,
        workers=workers,
        journal=journal,
    )
    write_scores(scores, out)
    journal.unlink(missing_ok=True)
    typer.echo(summary_text(scores))
    typer.echo(f"{scores['case_id'].nunique()} cases, empty-mask policy {policy.value}: {out}")
    expected = expected_cases(task, part)
    others = unexpected_cases(predictions, expected) if expected is not None else []
    if others:
        typer.echo(
            f"{len(others)} predictions are not of this part and were left out: {_few(others)}"
        )
    failed = failed_cases(scores)
    if len(failed):
        typer.echo(f"{len(failed)} cases have no scores:", err=True)
        for row in failed.to_dict("records"):
            typer.echo(f"  {row['case_id']}: {row['status']}. {row['message']}", err=True)
    if benchmark_csv is not None:
        # Last, since not all scores fit that form: nothing that was found goes unsaid.
        write_benchmark_csv(scores, benchmark_csv)
    if len(failed):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Hang the subcommand into the command line."""
    app.command("score", help=_HELP)(score)


def _labels(text: str | None, option: str) -> dict[int, str] | None:
    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(value.strip().isdecimal() and name.strip() for value, _, name in pairs):
        raise ConfigError(f"{option} {text!r} cannot be read", expected="1=left_lung,2=right_lung")
    labels = {int(value): name.strip() for value, _, name in pairs}
    if len(labels) < len(pairs):
        raise ConfigError(f"{option} {text!r} has a value twice", expected="each value once")
    return labels


def _tolerances(texts: list[str]) -> dict[str, list[float]]:
    tolerances: dict[str, list[float]] = {}
    for text in texts:
        label, _, numbers = text.partition("=")
        try:
            given = [float(number) for number in numbers.split(",")]
        except ValueError:
            raise ConfigError(
                f"--tolerance {text!r} cannot be read", expected="infection=3, or infection=1,3"
            ) from None
        tolerances.setdefault(label.strip(), []).extend(given)
    return tolerances


def _few(names: list[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
