"""Predicting and scoring the parts of a split with trained runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel

from covidseg.core.errors import CovidsegError
from covidseg.core.progress import progress_bar
from covidseg.engine.cache import content_of, read_image
from covidseg.engine.runs import weights_digest
from covidseg.engine.task_data import Part
from covidseg.generalization.batch_norm import AdaptedPredictor
from covidseg.imaging.nifti import write_nifti
from covidseg.inference.ensemble import Ensemble
from covidseg.inference.files import fault_of
from covidseg.inference.predictor import Predictor
from covidseg.scoring.case import scored_labels
from covidseg.scoring.folder import score_folder

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator


def predict_part(
    predictor: Predictor | Ensemble | AdaptedPredictor,
    part: Part,
    folder: Path,
    *,
    runs: Sequence[Path],
    rank: int = 0,
    processes: int = 1,
) -> list[str]:
    """Segment this process' share of a part's cases into ``folder``.

    What these ``runs``' weights made there of the same scans is kept, and only that: the header of
    a label map says of what it was made, and one of other weights is removed, also where the scan
    cannot be segmented now. Returns the cases that could not be, with the reason; the others are
    done.
    """
    faults = []
    weights = [weights_digest(run) for run in runs]
    # Also where no case can be segmented: the scorer says which are missing.
    folder.mkdir(parents=True, exist_ok=True)
    mine = part.cases[rank::processes]
    bar = progress_bar(
        mine, desc=f"predicting {part.name}", unit="scan", disable=rank > 0, leave=False
    )
    for case in bar:
        target = folder / f"{case.case_id}.nii.gz"
        made_of = json.dumps([weights, content_of(case)])
        description = f"covidseg {hashlib.sha256(made_of.encode()).hexdigest()[:32]}"
        if _description(target) == description:
            continue
        target.unlink(missing_ok=True)
        try:
            with fault_of(case.image):
                found = predictor.predict(read_image(case), case.intensity)
            write_nifti(target, found, description=description)
        except CovidsegError as fault:
            faults.append(f"{case.case_id}: {fault}")
    return faults


def _description(path: Path) -> str | None:
    """What the header of a NIfTI file says of it; None where there is no such file."""
    try:
        header = nibabel.Nifti1Image.from_filename(path).header
    except (OSError, nibabel.filebasedimages.ImageFileError):
        return None
    return bytes(header["descrip"]).rstrip(b"\0").decode("ascii", "replace")


def scored_part(
    part: Part,
    folder: Path,
    path: Path,
    *,
    algorithm: str,
    fold: int | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """The scores in ``path`` of a part's label maps in ``folder``, made anew where one of these is
    newer or the file is not of the part's cases. ``fold`` is written into that column.
    """
    from covidseg.scoring.scores import read_scores, write_scores

    label_maps = [folder / f"{case.case_id}.nii.gz" for case in part.cases]
    # The folder's own time tells of a label map that was removed.
    made = max(one.stat().st_mtime_ns for one in (folder, *label_maps) if one.exists())
    if not path.exists() or path.stat().st_mtime_ns < made or not _is_of_part(path, part):
        found = score_part(part, folder, algorithm=algorithm, workers=workers)
        write_scores(found if fold is None else found.assign(fold=fold), path)
    return read_scores(path)


def _is_of_part(path: Path, part: Part) -> bool:
    """Whether a score file has a row for each of the part's cases and labels, and no other."""
    from covidseg.scoring.scores import read_scores

    try:
        found = read_scores(path)
    except CovidsegError:
        return False
    labels = scored_labels(part.targets, _meanings(part))
    rows = sorted(zip(found["case_id"], found["label"], strict=True))
    return rows == sorted((case.case_id, label) for case in part.cases for label in labels)


def _meanings(part: Part) -> dict[int, str]:
    """What the values of the part's annotations mean."""
    return {
        value: part.targets[target]
        for case in part.cases
        for value, target in case.values.items()
        if target
    }


def score_part(
    part: Part, folder: Path, *, algorithm: str, workers: int | None = None
) -> pd.DataFrame:
    """Per-case scores of the label maps in ``folder`` against the part's annotations.

    All of the part's cases have rows, and no other case whose label map may lie there. Annotations
    are linked beside the predictions, in ``<folder>-references``, so that ``covidseg score`` gives
    the same from the shell.
    """
    references = folder.with_name(folder.name + "-references")
    _link_annotations(part, references)
    return score_folder(
        folder,
        references,
        task=part.configuration,
        labels=part.targets,
        reference_labels=_meanings(part),
        ignore_other_labels=True,
        algorithm=algorithm,
        part=part.name,
        phantom=part.phantom,
        workers=workers,
        progress=False,
        cases=[case.case_id for case in part.cases],
        may_be_empty=True,
    )


def _link_annotations(part: Part, references: Path) -> None:
    """Link the part's annotations in ``references``, and unlink any other linked there before."""
    references.mkdir(parents=True, exist_ok=True)
    labels = {
        f"{case.case_id}.nii.gz": os.path.abspath(case.label)
        for case in part.cases
        if case.label is not None
    }
    # Another repository may have been predicted here before, or the part have had other cases.
    for link in references.glob("*.nii.gz"):
        if _is_ours(link, labels) and os.readlink(link) != labels.get(link.name):
            link.unlink()
    for name, label in labels.items():
        link = references / name
        if not link.is_symlink():
            link.symlink_to(label)


def _is_ours(path: Path, labels: Mapping[str, str]) -> bool:
    """Whether a reference was linked here: under a case's name, or to a file's whole path."""
    return path.is_symlink() and (path.name in labels or os.path.isabs(os.readlink(path)))


def measure(
    predictor: Predictor | Ensemble | AdaptedPredictor,
    part: Part,
    predictions: Path,
    scores: Path,
    accelerator: Accelerator,
    *,
    runs: Sequence[Path],
    algorithm: str,
    workers: int | None = None,
) -> pd.DataFrame | None:
    """Predict a part by all processes and score it once; its scores, on the main process.

    What ``runs`` predicted already is kept, and a score file of it that is no older. ``workers``
    score.
    """
    for fault in predict_part(
        predictor,
        part,
        predictions,
        runs=runs,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    ):
        print(f"not segmented: {fault}")
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return None
    return scored_part(part, predictions, scores, algorithm=algorithm, workers=workers)


def extremes(scores: pd.DataFrame, label: str) -> Sequence[str]:
    """The cases with the best, the median and the worst DSC of a label, in that order."""
    ranked = scores[(scores["label"] == label) & scores["dsc"].notna()].sort_values(
        ["dsc", "case_id"], ascending=False
    )
    cases = ranked["case_id"].tolist()
    return [cases[0], cases[len(cases) // 2], cases[-1]] if cases else []
