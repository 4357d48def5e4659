"""The field's metrics as single functions: Dice, normalised surface Dice, volume error.

Each takes two masks of one structure. To score all labels of a case at once, and for the policy on
empty masks, use `covidseg.scoring.case.score_case`; these functions leave undefined what the
formulas leave undefined (NaN, or infinity).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from covidseg.core.errors import GeometryError, LabelError, ScoringError
from covidseg.scoring.nsd import Overlap, compare_packed
from covidseg.scoring.packing import memory_order, occupied_box, pack

_ROUNDING = 1e-4  # what a label's value may be away from a whole number


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice similarity coefficient, ``2 |P ∩ R| / (|P| + |R|)``.

    Parameters
    ----------
    prediction, reference
        Masks of one shape, of any number of dimensions; bool, or integers 0 and 1.

    Returns
    -------
    float
        In [0, 1]; NaN where both masks are empty.

    Raises
    ------
    GeometryError
        The shapes differ.
    LabelError
        A mask is not of zeros and ones (probabilities, NaN, several labels).
    """
    ours, theirs = _masks(prediction, reference)
    return dice_of_counts(
        int(np.count_nonzero(ours)),
        int(np.count_nonzero(theirs)),
        int(np.count_nonzero(ours & theirs)),
    )


def dice_of_counts(prediction: int, reference: int, common: int) -> float:
    """Dice from numbers of voxels; NaN where both are 0."""
    return 2 * common / (prediction + reference) if prediction + reference else float("nan")


def normalized_absolute_volume_error(prediction: np.ndarray, reference: np.ndarray) -> float:
    """NAVE, ``|V_prediction - V_reference| / V_reference``, as COVID-19-20 scored it.

    Returns
    -------
    float
        0 is best; 1 for an empty prediction; infinity where only the reference is empty and NaN
        where both are.

    Raises
    ------
    GeometryError, LabelError
        As `dice`.
    """
    ours, theirs = _masks(prediction, reference)
    return volume_error_of_counts(int(np.count_nonzero(ours)), int(np.count_nonzero(theirs)))


def volume_error_of_counts(prediction: int, reference: int) -> float:
    """NAVE from numbers of voxels."""
    if reference:
        return abs(prediction - reference) / reference
    return float("inf") if prediction else float("nan")


def normalized_surface_dice(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> float:
    """Normalised surface Dice (NSD) as DeepMind's ``surface-distance`` defines it.

    Equal to that package's ``compute_surface_dice_at_tolerance`` to rounding, on every input; other
    tools compute something else under the same name (see docs/scoring.md).

    Parameters
    ----------
    prediction, reference
        Masks of one shape, two- or three-dimensional; bool, or integers 0 and 1.
    spacing_mm
        Voxel size along each axis of the arrays, in their order. What an image header holds as
        float32 is widened, not rounded.
    tolerance_mm
        Elements of one surface at most this far from the other are within tolerance.

    Returns
    -------
    float
        In [0, 1]; 0 where one mask is empty, NaN where both are.

    Raises
    ------
    GeometryError
        The shapes differ, are not 2D or 3D, or the spacing does not fit or is not positive.
    LabelError
        A mask is not of zeros and ones.
    ScoringError
        The tolerance is negative or not finite.

    Source: S. Nikolov et al., J Med Internet Res 23(7):e26151, 2021.
    """
    ours, theirs = _masks(prediction, reference)
    check_dimensions(ours, "prediction")
    steps = check_spacing(spacing_mm, ours.ndim)
    overlap = compare_masks(ours, theirs, steps, (check_tolerance(tolerance_mm),))
    return surface_dice_of_overlap(overlap)[0]


def surface_dice_of_overlap(overlap: Overlap) -> tuple[float, ...]:
    """NSD at each tolerance: 0 where one mask alone is empty."""
    if bool(overlap.voxels_prediction) != bool(overlap.voxels_reference):
        return (0.0,) * len(overlap.nsd)
    return overlap.nsd


def compare_masks(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, ...],
    tolerances_mm: Sequence[float],
) -> Overlap:
    """Count and compare two boolean masks of one shape (2D or 3D)."""
    axes = memory_order(reference)
    packed = [pack(as_slabs(mask, axes)) for mask in (prediction, reference)]
    box = occupied_box(*packed)
    if box is None:
        return Overlap(0, 0, 0, (float("nan"),) * len(tolerances_mm))
    ours, theirs = (mask[box] for mask in packed)
    return compare_packed(ours, theirs, axes, spacing_mm, tolerances_mm)


def as_slabs(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """A view of shape (slabs, rows, columns) with the axes in that order; 2D is one slab."""
    view = array.transpose(axes)
    return view if view.ndim == 3 else view[None]


def check_spacing(spacing_mm: Sequence[float], dimensions: int) -> tuple[float, ...]:
    """Spacing as float64 numbers; `GeometryError` where it does not fit or is not positive."""
    steps = tuple(float(step) for step in np.asarray(spacing_mm, dtype=float).ravel())
    if len(steps) != dimensions:
        raise GeometryError(
            f"the spacing has {len(steps)} numbers for an image of {dimensions} dimensions",
            expected="one number in mm for each axis, in the order of the array's axes",
        )
    if not all(0 < step < float("inf") for step in steps):
        raise GeometryError(
            f"the spacing is {steps}",
            expected="positive, finite numbers in mm",
            remedy="read it from the image's header, or give 1 for pictures without a scale",
        )
    return steps


def check_tolerance(tolerance_mm: Any) -> float:
    """Tolerance as a number; `ScoringError` where it is negative or not finite."""
    try:
        tolerance = float(tolerance_mm)
    except (TypeError, ValueError):
        tolerance = float("nan")
    if not 0 <= tolerance < float("inf"):
        raise ScoringError(
            f"the tolerance is {tolerance_mm!r}",
            expected="a finite number in mm, 0 or more (the benchmark: 1 for lungs, 3 for lesions)",
        )
    return tolerance


def check_dimensions(array: np.ndarray, name: str) -> None:
    """`GeometryError` unless the array has two or three dimensions."""
    if array.ndim not in (2, 3):
        raise GeometryError(
            f"the {name} has {array.ndim} dimensions, shape {array.shape}",
            expected="2 or 3 dimensions",
            remedy="give one time point; of one channel a class, take the argmax over the channels"
            if array.ndim == 4
            else None,
        )


def check_shapes(prediction: np.ndarray, reference: np.ndarray) -> None:
    """`GeometryError` unless both arrays have one shape."""
    if prediction.shape != reference.shape:
        raise GeometryError(
            f"the prediction's shape is {prediction.shape}, the reference's {reference.shape}",
            expected="one grid for both",
            remedy="resample the prediction to the scan it was made from, nearest neighbour, and "
            "save it with that scan's header (covidseg.imaging.resample.resample_to_grid)",
        )


def _masks(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    masks = []
    for name, array in (("prediction", prediction), ("reference", reference)):
        array = np.asarray(array)
        if array.dtype != bool:
            array = whole_numbers(array, name)
            if array.size and (array.min() < 0 or array.max() > 1):
                raise LabelError(
                    f"the {name} holds values from {array.min()} to {array.max()}",
                    expected="a mask of zeros and ones",
                    remedy=f"compare one label at a time, as in `{name} == 1`, or call score_case",
                )
            array = array.astype(bool)
        masks.append(array)
    check_shapes(*masks)
    return masks[0], masks[1]


def whole_numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Labels as booleans or integers; floats pass where each is a whole number.

    Raises
    ------
    LabelError
        NaN or infinity, fractions (probabilities), or values that are no numbers at all.
    """
    if array.dtype.kind in "bui":
        return array
    if array.dtype.kind != "f":
        raise LabelError(
            f"the {name} is an array of {array.dtype}", expected="whole-numbered labels"
        )
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise LabelError(
            f"the {name} holds values that are not finite (NaN or infinity)",
            expected="whole-numbered labels",
            remedy="find the step that divides by zero; set background to 0",
        )
    kind = next(
        (
            kind
            for kind in (np.uint8, np.int16, np.int32, np.int64)
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
        ),
        None,
    )
    whole = np.rint(array)
    # What a NIfTI header's slope makes of whole numbers is whole but for its rounding.
    fraction = array[np.abs(array - whole) > _ROUNDING]
    labels = whole.astype(kind) if kind is not None else array
    if kind is None or fraction.size:
        raise LabelError(
            f"the {name} holds fractions such as {fraction[0]:.6g}"
            if fraction.size
            else f"the {name} holds values from {low:.4g} to {high:.4g}",
            expected="whole-numbered labels",
            remedy="threshold probabilities first, e.g. `probability >= 0.5`, or take the argmax "
            "over the classes",
        )
    return labels
