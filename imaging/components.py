"""Connected components of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

from covidseg.core.errors import ConfigError

_PIECE = 1 << 20

Connectivity = Literal[4, 6, 8, 18, 26]


def label_components(
    mask: NDArray[Any], connectivity: Connectivity = 26
) -> tuple[NDArray[np.int32], int]:
    """Number the connected components of ``mask != 0`` from 1; return (labels, their number).

    ``connectivity`` counts neighbours: 6 (faces), 18 (and edges) or 26 (and corners) in 3D, 4 or 8
    in 2D. ``labels`` is int32 of the mask's shape, 0 outside.
    """
    known = {2: (4, 8), 3: (6, 18, 26)}.get(mask.ndim, ())
    if connectivity not in known:
        raise ConfigError(
            f"connectivity {connectivity} is unknown for {mask.ndim} dimensions",
            expected=" or ".join(map(str, known)) or "a mask of two or three dimensions",
        )
    # Not as bool: cc3d 4.1 has another algorithm for bool at 26, which fails on a row of voxels.
    foreground = (mask != 0).view(np.uint8)
    labels, count = cc3d.connected_components(
        foreground, connectivity=connectivity, return_N=True, out_dtype=np.uint32
    )
    return labels.view(np.int32), int(count)


def remove_small(
    mask: NDArray[Any],
    min_volume_mm3: float,
    spacing_mm: Sequence[float],
    connectivity: Connectivity = 26,
) -> NDArray[Any]:
    """A copy of ``mask`` without components (of ``mask != 0``) below ``min_volume_mm3``.

    In 2D, with a spacing of two numbers, the limit is an area in mm².
    """
    labels, count = label_components(mask, connectivity)
    return _only(
        mask, labels, component_sizes(labels, count) * np.prod(spacing_mm) >= min_volume_mm3
    )


def largest(mask: NDArray[Any], count: int = 1, connectivity: Connectivity = 26) -> NDArray[Any]:
    """A copy of ``mask`` with only its ``count`` largest components; the first found wins a tie."""
    labels, found = label_components(mask, connectivity)
    sizes = component_sizes(labels, found)[1:]
    keep = np.zeros(found + 1, dtype=bool)
    keep[np.argsort(-sizes, kind="stable")[:count] + 1] = True
    return _only(mask, labels, keep)


def bounding_box(mask: NDArray[Any], margin: int = 0) -> tuple[slice, ...] | None:
    """Slices around the non-zero voxels, ``margin`` voxels wider, clipped; None where all is 0."""
    box = []
    inside: NDArray[Any] = mask
    for axis in range(mask.ndim):
        # Each axis is looked at only within the box of those before it.
        others = tuple(other for other in range(mask.ndim) if other != axis)
        used = np.flatnonzero(inside.any(axis=others))
        if used.size == 0:
            return None
        first, last = int(used[0]), int(used[-1])
        inside = inside[(slice(None),) * axis + (slice(first, last + 1),)]
        box.append(slice(max(first - margin, 0), min(last + 1 + margin, mask.shape[axis])))
    return tuple(box)


def component_sizes(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Voxels of each label from 0 to ``count``."""
    flat = labels.ravel(order="K")
    sizes = np.zeros(count + 1, dtype=np.int64)
    # In pieces, because bincount makes an eight-byte copy of what it is given.
    for start in range(0, flat.size, _PIECE):
        sizes += np.bincount(flat[start : start + _PIECE], minlength=count + 1)
    return sizes


def _only(mask: NDArray[Any], labels: NDArray[np.int32], keep: NDArray[np.bool_]) -> NDArray[Any]:
    keep = keep.copy()
    keep[0] = False
    order: Literal["C", "F"] = "C" if labels.flags.c_contiguous else "F"
    result = np.array(mask, order=order)
    values, index = result.reshape(-1, order=order), labels.reshape(-1, order=order)
    # In pieces and in memory order: an index of all voxels at once takes eight bytes each.
    for start in range(0, index.size, _PIECE):
        piece = slice(start, start + _PIECE)
        values[piece][~keep[index[piece]]] = 0
    return result
