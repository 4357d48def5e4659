"""Sources of lesions that are no infections, as lungs to paint infections into.

A scan of a tumour or an effusion has no label of its lungs; `covidseg.imaging.lungs` finds them.
They are written once, as files that one can look at, and become the labels of the scan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from covidseg.core.errors import ConfigError, CovidsegError, LabelError
from covidseg.core.parallel import map_cases
from covidseg.engine.cache import TrainingCase, read_image
from covidseg.imaging.lungs import aerated_lungs
from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.resample import reorient
from covidseg.registry.read import to_hu


def cases_with_lungs(
    cases: Sequence[TrainingCase],
    folder: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[list[TrainingCase], dict[str, CovidsegError]]:
    """The cases with their aerated lungs as label 1, in their order, and those without any.

    Masks that are in ``folder`` already are kept: an interrupted call is taken up by the next.

    Raises
    ------
    ConfigError
        Lungs were found in none of them.
    """
    faults: dict[str, CovidsegError] = {}
    found: dict[str, Path] = {}
    for case, result in map_cases(
        partial(_write_lungs, folder),
        cases,
        already=partial(_written, folder),
        workers=workers,
        description="lungs",
        progress=progress,
    ):
        if isinstance(result, CovidsegError):
            faults[case.case_id] = result
        elif isinstance(result, Exception):
            raise result
        else:
            found[case.case_id] = result
    if not found:
        first = next(iter(faults.values()), "there is no case")
        raise ConfigError(f"lungs to paint lesions into were found in no scan; the first: {first}")
    labelled = [
        # The hash was of the image and its own label.
        dataclasses.replace(case, label=found[case.case_id], values={1: 1}, content=None)
        for case in cases
        if case.case_id in found
    ]
    return labelled, faults


def _place(folder: Path, case: TrainingCase) -> Path:
    return folder / f"{case.source}-{case.case_id}.nii.gz"


def _written(folder: Path, case: TrainingCase) -> Path | None:
    path = _place(folder, case)
    return path if path.exists() else None


def _write_lungs(folder: Path, case: TrainingCase) -> Path:
    image = read_image(case)
    upright = reorient(to_hu(image, case.intensity), "LPS")
    lungs = upright.with_data(aerated_lungs(upright.data, upright.spacing_mm))
    if not lungs.data.any():
        raise LabelError("shows no air inside the body", path=case.image)
    path = _place(folder, case)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = reorient(lungs, image.orientation)
    write_nifti(path, image.with_data(stored.data), description="aerated lungs, by threshold")
    return path
