"""Changing voxels' dtype without changing their values unnoticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from covidseg.core.errors import IntensityError

_SLAB_VOXELS = 1 << 19


def slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the last axis that hold about half a million voxels each, at least one plane."""
    plane = max(1, int(np.prod(shape[:-1], dtype=np.int64)))
    step = max(1, _SLAB_VOXELS // plane)
    for start in range(0, shape[-1], step):
        yield slice(start, min(start + step, shape[-1]))


def exact_cast(data: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """``data`` as ``dtype``; the same array where it is that already.

    To integers and bool every value must survive exactly. To floating point values may be rounded
    to the nearest number, but not overflow to infinity.

    Raises
    ------
    IntensityError
        A value does not fit: a fraction, NaN, or beyond the dtype's range.
    """
    wanted = np.dtype(dtype)
    if data.dtype == wanted:
        return data
    if np.can_cast(data.dtype, wanted, "safe"):
        return data.astype(wanted)
    result = np.empty_like(data, dtype=wanted)
    for part in slabs(data.shape):
        source = data[..., part]
        with np.errstate(invalid="ignore", over="ignore"):
            moved = source.astype(wanted)
            if wanted.kind in "iub":
                wrong = moved.astype(data.dtype) != source
                # Going there and back can wrap around and come out equal; the sign tells.
                if wanted.kind != "b" and data.dtype.kind in "iuf":
                    info = np.iinfo(wanted)
                    wrong |= (source < info.min) | (source > info.max)
            else:
                wrong = np.isinf(moved) & np.isfinite(source)
        if wrong.any():
            raise IntensityError(
                f"the value {source[wrong].flat[0]} does not fit into {wanted.name}",
                remedy="choose a dtype that holds the values, or convert them first",
            )
        result[..., part] = moved
    return result
