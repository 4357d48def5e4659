"""What the drivers of Tasks 1 to 3 leave behind: scores, tables, figures and pictures of cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from covidseg.engine.task_data import Part
from covidseg.trainers.evaluation import extremes

if TYPE_CHECKING:
    import pandas as pd

    from covidseg.scoring.tables import Table


def write_report(
    scores: pd.DataFrame, out: Path, name: str, *, compare: bool, repetition: str = "Fold"
) -> Sequence[Table]:
    """Write ``scores.csv``, ``<name>.md``, ``.csv``, ``.tex`` and figures; return the tables.

    ``compare`` adds paired comparisons where there are several algorithms; the column ``fold``
    counts what ``repetition`` says. A case that is missing counts as the worst there is.
    """
    from covidseg.scoring.scores import write_scores
    from covidseg.scoring.tables import write_tables
    from covidseg.scoring.tables_report import report_figures, report_tables

    write_scores(scores, out / "scores.csv")
    several = scores["algorithm"].nunique() > 1
    tables = report_tables(
        scores, missing="worst", compare=compare and several, repetition=repetition
    )
    for form in ("md", "csv", "tex"):
        write_tables(tables, out / f"{name}.{form}", form)
    report_figures(scores, out / "figures", missing="worst")
    return tables


def draw_extremes(part: Part, predictions: Path, scores: pd.DataFrame, stem: Path) -> None:
    """Draw the best, the median and the worst case of a part, by its last label's DSC.

    A picture that is newer than all predictions is kept. Nothing is drawn where no case is scored.
    """
    from covidseg.engine.cache import read_training_case
    from covidseg.imaging.nifti import read_nifti
    from covidseg.registry.read import to_hu
    from covidseg.trainers.overlays import Shown, draw_overlays

    drawn = stem.with_name(stem.name + ".png")
    made = max((path.stat().st_mtime for path in predictions.glob("*.nii.gz")), default=0.0)
    if drawn.exists() and drawn.stat().st_mtime > made:
        return
    labels = [part.targets[value] for value in sorted(part.targets)]
    of_part = scores[(scores["part"] == part.name) & (scores["label"] == labels[-1])]
    dsc = of_part.set_index("case_id")["dsc"]
    cases = {case.case_id: case for case in part.cases}
    shown = []
    chosen = extremes(of_part, labels[-1])
    for place, case_id in zip(("best", "median", "worst"), chosen, strict=False):
        image, annotation = read_training_case(cases[case_id])
        assert annotation is not None
        of = f"{labels[-1].replace('_', ' ')} " if len(labels) > 1 else ""
        title = f"{place}: {case_id}, {of}DSC {dsc[case_id]:.3f}"
        prediction = read_nifti(predictions / f"{case_id}.nii.gz")
        shown.append(Shown(title, to_hu(image, cases[case_id].intensity), annotation, prediction))
    if shown:
        draw_overlays(shown, labels, stem, phantom=part.phantom)
