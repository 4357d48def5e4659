"""What nnU-Net plans from: spacing, shape and foreground intensities of the training cases."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covidseg.core.errors import LabelError
from covidseg.core.files import atomic_file
from covidseg.core.parallel import map_cases
from covidseg.engine.cache import (
    CACHE_VERSION,
    REMEMBERED,
    TrainingCase,
    content_of,
    evenly,
    read_training_case,
)
from covidseg.inference.preprocessing import Preprocessing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint:
    """Medians over the training cases, and intensities of their foreground.

    ``spacing_mm`` and ``shape`` are (z, y, x). ``low`` and ``high`` are the 0.5 and 99.5
    percentiles of the foreground voxels, ``mean`` and ``std`` theirs as well, in Hounsfield units
    (grey values for pictures). Source: nnU-Net, Isensee et al., Nature Methods 2021.
    """

    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]
    low: float
    high: float
    mean: float
    std: float


def fingerprint(
    cases: Sequence[TrainingCase],
    root: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Fingerprint:
    """Fingerprint of labelled training cases; what each case adds is kept below ``root``.

    The spacing is the median of each axis; where the coarsest axis is more than 3 times the next
    coarser and its median size less than a third of the others', it takes that axis' 10th
    percentile, as nnU-Net does.

    Raises
    ------
    LabelError
        No case has a foreground voxel.
    CovidsegError
        A case cannot be read.
    """
    parts: dict[str, dict[str, Any]] = {}
    faults: dict[str, Exception] = {}
    for case, result in map_cases(
        partial(_measured, root=root),
        cases,
        already=partial(_measured_before, root=root),
        workers=workers,
        description="fingerprint",
        progress=progress,
    ):
        if isinstance(result, Exception):
            faults[case.case_id] = result
        else:
            parts[case.case_id] = result
    for case in cases:
        if case.case_id in faults:
            raise faults[case.case_id]
    ordered = [parts[case.case_id] for case in cases]
    values = np.concatenate([np.asarray(part["values"], np.float64) for part in ordered])
    if not len(values):
        raise LabelError(
            "no training case has a foreground voxel",
            remedy="check the labels that the recipe asks for, or choose another fold",
        )
    spacings = np.array([part["spacing_mm"] for part in ordered])
    shapes = np.array([part["shape"] for part in ordered])
    spacing = _target_spacing(spacings, shapes)
    at_spacing = np.median(np.rint(shapes * spacings / spacing), axis=0)
    low, high = np.percentile(values, [0.5, 99.5])
    z, y, x = (float(value) for value in spacing)
    depth, height, width = (max(1, int(value)) for value in at_spacing)
    # Constant foreground has no spread; any scale does, and 1 keeps the numbers finite.
    std = float(values.std()) or 1.0
    if low == high:
        low, high = low - 1, high + 1
    return Fingerprint(
        (z, y, x), (depth, height, width), float(low), float(high), float(values.mean()), std
    )


def _target_spacing(spacings: NDArray, shapes: NDArray) -> NDArray:
    target = np.median(spacings, axis=0)
    size = np.median(shapes, axis=0)
    coarse = int(target.argmax())
    others = [axis for axis in range(3) if axis != coarse]
    if target[coarse] > 3 * target[others].max() and size[coarse] * 3 < size[others].min():
        tenth = float(np.percentile(spacings[:, coarse], 10))
        target[coarse] = max(tenth, target[others].max() + 1e-5)
    return target


def _measured_before(case: TrainingCase, *, root: Path) -> dict[str, Any] | None:
    """What was measured before; None if nothing was, or the case's files would have to be read."""
    return _read(_kept(case, case.content, root)) if case.content else None


def _kept(case: TrainingCase, content: str, root: Path) -> Path:
    key = json.dumps([CACHE_VERSION, content, sorted(case.values.items())])
    return root / "fingerprints" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _read(kept: Path) -> dict[str, Any] | None:
    if not kept.exists():
        return None
    try:
        return json.loads(kept.read_text())
    except ValueError:
        return None


def _measured(case: TrainingCase, *, root: Path) -> dict[str, Any]:
    kept = _kept(case, content_of(case), root)
    if (before := _read(kept)) is not None:
        return before
    if kept.exists():
        log.warning("%s: not whole; measuring the case again", kept)
    volume, mask = read_training_case(case)
    if mask is None:
        raise LabelError(f"case {case.case_id} has no labels", path=case.image)
    upright = Preprocessing(low=-1e6, high=1e6, mean=0, std=1)
    prepared = upright.image(volume, case.intensity)
    label = upright.label(mask)
    inside = evenly(np.flatnonzero(label), REMEMBERED)
    spacing = np.linalg.norm(prepared.affine[:3, :3], axis=0)[::-1]
    measured = {
        "spacing_mm": spacing.tolist(),
        "shape": list(prepared.image.shape),
        "values": [round(float(value), 3) for value in prepared.image.ravel()[inside]],
    }
    with atomic_file(kept) as temporary:
        temporary.write_text(json.dumps(measured))
    return measured
