"""Sources of lesions that are no infections, as lungs to paint infections into.

A scan of a tumour or an effusion has no label of its lungs; `covidseg.imaging.lungs` finds them.
They are written once, as files that one can look at, and become the labels of the scan.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from covidseg.core.errors import ConfigError, LabelError
from covidseg.core.parallel import map_cases
from covidseg.engine.cache import TrainingCase, content_of, read_image
from covidseg.imaging.lungs import aerated_lungs
from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.resample import reorient
from covidseg.registry.read import to_hu

# Part of every name: raised whenever the same scan would give another mask.
_RULE = "aerated lungs 1"


def cases_with_lungs(
    cases: Sequence[TrainingCase],
    folder: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[list[TrainingCase], dict[str, LabelError]]:
    """The cases with their aerated lungs as label 1, in their order, and those without any.

    A mask's name in ``folder`` has a hash of its scan: folds and seeds share them, an interrupted
    call is taken up by the next, and another scan of the same name gets a mask of its own.

    Raises
    ------
    ConfigError
        Lungs were found in none of them.
    CovidsegError
        A case cannot be read, or its values have no known relation to Hounsfield units.
    """
    faults: dict[str, LabelError] = {}
    found: dict[str, Path] = {}
    for case, result in map_cases(
        partial(_write_lungs, folder),
        cases,
        already=partial(_written, folder),
        workers=workers,
        description="lungs",
        progress=progress,
    ):
        if isinstance(result, LabelError):
            faults[case.case_id] = result
        elif isinstance(result, Exception):
            raise result
        else:
            found[case.case_id] = result
    if not found:
        first = next(iter(faults.values()), "there is no case")
        raise ConfigError(f"lungs to paint lesions into were found in no scan; the first: {first}")
    labelled = [
        dataclasses.replace(
            case, label=found[case.case_id], values={1: 1}, content=_content_with_lungs(case)
        )
        for case in cases
        if case.case_id in found
    ]
    return labelled, faults


def _content_with_lungs(case: TrainingCase) -> str:
    # The case's own hash is of the image and of another label; the mask follows from the image.
    return hashlib.sha256(f"{content_of(case)} {_RULE}".encode()).hexdigest()


def _place(folder: Path, case: TrainingCase) -> Path:
    return folder / f"{case.source}-{case.case_id}-{_content_with_lungs(case)[:16]}.nii.gz"


def _written(folder: Path, case: TrainingCase) -> Path | None:
    path = _place(folder, case)
    return path if path.exists() else None


def _write_lungs(folder: Path, case: TrainingCase) -> Path:
    image = read_image(case)
    upright = reorient(to_hu(image, case.intensity), "LPS")
    lungs = upright.with_data(aerated_lungs(upright.data, upright.spacing_mm))
    if not lungs.data.any():
        raise LabelError("shows too little air inside the body for lungs", path=case.image)
    path = _place(folder, case)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = reorient(lungs, image.orientation)
    write_nifti(path, image.with_data(stored.data), description="aerated lungs, by threshold")
    return path
