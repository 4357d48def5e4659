"""What values a mask holds, whether its dataset has them, and on which side they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from covidseg.core.errors import LabelError
from covidseg.imaging.casting import slabs
from covidseg.imaging.volume import Volume
from covidseg.registry.cases import Mask

# More distinct values than this are no labels; counting stops there.
_MOST_VALUES = 64
# Up to this value, comparing with each value in turn is faster than counting by index.
_FEW = 8


def count_values(data: NDArray[Any]) -> dict[float, int]:
    """Number of voxels of each distinct value, in one pass; at most 64 distinct values are counted.

    NaN counts as one value, under the key ``nan``. An array of more values (an image taken for a
    mask) gives those of its first slabs.
    """
    counts: dict[float, int] = {}
    for part in slabs(data.shape):
        for value, count in _count_slab(data[..., part]):
            counts[value] = counts.get(value, 0) + count
        if len(counts) > _MOST_VALUES:
            break
    return dict(sorted(counts.items()))


def _count_slab(slab: NDArray[Any]) -> list[tuple[float, int]]:
    if slab.dtype.kind in "iu":
        low, high = int(slab.min()), int(slab.max())
        if low == high:
            return [(low, slab.size)]
        if low == 0 and high <= _FEW:
            found = [(value, int(np.count_nonzero(slab == value))) for value in range(1, high + 1)]
            found.append((0, slab.size - sum(count for _, count in found)))
            return [(value, count) for value, count in found if count]
        if high - low <= 1 << 16:
            indices = slab.ravel(order="K").astype(np.intp)
            by_index = np.bincount(indices - low)
            return [(int(v) + low, int(by_index[v])) for v in np.flatnonzero(by_index)]
    if slab.dtype.kind == "f":
        # Masks saved as floating point hold whole numbers; counting those needs no sorting.
        with np.errstate(invalid="ignore"):
            whole = slab.astype(np.int16)
        if np.array_equal(whole, slab):
            return _count_slab(whole)
    values, found_counts = np.unique(slab, return_counts=True)
    return [(float(v), int(c)) for v, c in zip(values, found_counts, strict=True)]


def check_labels(counts: dict[float, int], mask: Mask) -> None:
    """Raise `LabelError`, naming the file, unless a mask's values are ones its dataset has.

    A mask with a threshold may hold anything from 0 to twice the threshold; one whose sides are
    told by centroid, any two values above 0; others, 0 and the keys of ``labels``. One whose sides
    are verified holds more than one of them: value 1 alone is a mask of something else.
    """
    values = [value for value, count in counts.items() if count]
    found = "holds " + _some(values)
    if any(np.isnan(values)):
        raise LabelError(
            "holds NaN",
            path=mask.path,
            expected=_wanted(mask),
            remedy="download or extract it again",
        )
    if mask.threshold is not None:
        if min(values) < 0 or max(values) > 2 * mask.threshold:
            raise LabelError(
                found,
                path=mask.path,
                expected=_wanted(mask),
                remedy=_remedy(values),
            )
        return
    if mask.sides == "by_centroid":
        lungs = [value for value in values if value != 0]
        if min(values) < 0 or any(value != int(value) for value in values) or len(lungs) > 2:
            raise LabelError(found, path=mask.path, expected=_wanted(mask), remedy=_remedy(values))
        return
    unknown = [value for value in values if value != 0 and value not in mask.labels]
    if unknown:
        raise LabelError(
            f"holds the values {_some(unknown)}, which its dataset does not have",
            path=mask.path,
            expected=_wanted(mask),
            remedy=_remedy(values),
        )
    if mask.sides == "verified" and max(values) == 1:
        raise LabelError(
            f"holds {mask.labels[1]} alone",
            path=mask.path,
            expected=_wanted(mask),
            remedy="this looks like a mask of another kind; call its folder by what it holds",
        )


def _wanted(mask: Mask) -> str:
    if mask.threshold is not None:
        return f"values from 0 to {2 * mask.threshold:g}, above {mask.threshold:g} the label"
    if mask.sides == "by_centroid":
        return "0 and two values, one a lung"
    return "0 (background), " + ", ".join(f"{v} ({name})" for v, name in mask.labels.items())


def _remedy(values: list[float]) -> str:
    if set(values) <= {0, 255}:
        return "this looks like a mask saved as a picture; divide it by 255 and save it as integers"
    if len(values) > _MOST_VALUES or any(value < 0 for value in values):
        return "this looks like an image, not a mask; is it in the wrong folder?"
    return "take the mask from the dataset's own download"


def _some(values: list[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:8])
    return shown + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def centroid_mm(mask: Volume, value: float, stride: int = 1) -> NDArray[np.float64] | None:
    """Centre of mass of the voxels of ``value`` in mm, RAS+; None where there are none.

    With ``stride``, only every so many-th voxel along each axis is looked at.
    """
    found = mask.data[::stride, ::stride, ::stride] == value
    total = np.count_nonzero(found)
    if not total:
        return None if stride == 1 else centroid_mm(mask, value, 1)
    index = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        along = np.count_nonzero(found, axis=others)
        index.append(along @ np.arange(len(along)) * stride / total)
    return mask.affine[:3, :3] @ np.array(index) + mask.affine[:3, 3]


def lungs_exchanged(mask: Volume, labels: dict[int, str], stride: int = 1) -> str | None:
    """What is wrong if the left lung lies to the right of the right one by the affine, or None."""
    by_name = {name: value for value, name in labels.items()}
    if not {"left_lung", "right_lung"} <= by_name.keys():
        return None
    left = centroid_mm(mask, by_name["left_lung"], stride)
    right = centroid_mm(mask, by_name["right_lung"], stride)
    # RAS+: x grows towards the patient's right.
    if left is None or right is None or left[0] < right[0]:
        return None
    return (
        f"by its affine ({mask.orientation}) the left lung (value {by_name['left_lung']}) lies"
        f" {left[0] - right[0]:.0f} mm to the patient's right of the right lung"
    )


def sides_by_centroid(
    mask: Volume, labels: dict[int, str], counts: dict[float, int], stride: int = 1
) -> dict[int, int]:
    """Which value of ``labels`` each of the two values of a lung mask is, by the patient's sides.

    ``counts`` is what `count_values` says of the mask.

    Raises
    ------
    LabelError
        The mask does not hold exactly two values besides 0.
    """
    values = [int(value) for value, count in counts.items() if value != 0 and count]
    if len(values) != 2:
        raise LabelError(
            f"holds {len(values)} values besides 0 ({_some([*map(float, values)]) or 'none'}), so"
            " left and right lung cannot be told apart",
            expected="two, one a lung",
            remedy="take the mask from the dataset's own download",
        )
    by_name = {name: value for value, name in labels.items()}
    centres = {value: centroid_mm(mask, value, stride) for value in values}
    ordered = sorted(values, key=lambda value: float(centres[value][0]))  # type: ignore[index]
    return dict(zip(ordered, (by_name["left_lung"], by_name["right_lung"]), strict=True))
