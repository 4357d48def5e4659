"""Moving voxels to another grid: exactly by flips, or by interpolation through physical space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from covidseg.core.errors import ConfigError, GeometryError
from covidseg.imaging.casting import slabs
from covidseg.imaging.geometry import checked_affine, orientation_change, reoriented_affine
from covidseg.imaging.volume import Volume

# nnU-Net's rule: beyond this ratio of spacings the coarse axis is resampled by nearest neighbour.
ANISOTROPY_THRESHOLD = 3.0
# Coordinates this near to a voxel's centre (in voxels) are the centre; headers hold float32.
_SNAP_VOXELS = 1e-4
_BLOCK = 64
# A chest of 500 x 500 x 500 mm at 0.5 mm has half as many. Beyond it float32 values alone take
# 8 GiB and voxels outnumber 32-bit indices: the spacing is wrong, not the scan so large.
_MOST_VOXELS = 2**31


def reorient(volume: Volume, orientation: str) -> Volume:
    """Permute and flip axes until they point as ``orientation`` says (``RAS``, ``LPS``, ...).

    Exact, and undone by reorienting back; oblique grids keep their obliqueness. The voxels are a
    view of the given ones.

    Raises
    ------
    GeometryError
        ``orientation`` is unknown.
    """
    change = orientation_change(volume.affine, orientation)
    _, affine = reoriented_affine(volume.shape, volume.affine, orientation)
    return Volume(nib.orientations.apply_orientation(volume.data, change), affine)


def resample_to_grid(
    volume: Volume,
    shape: Sequence[int],
    affine: ArrayLike,
    *,
    order: int,
    fill: float = 0,
) -> Volume:
    """``volume`` on another grid, through physical space.

    ``order`` 0 (nearest; keeps the dtype; for labels), 1 (linear) or 3 (cubic spline), the latter
    two float32; values must be finite. Voxels of the new grid whose centres lie outside of all old
    voxels get ``fill``; those between the outermost old centres and the old edge get the edge's
    values. Memory beyond the result is about one slab; for order 3, a float32 copy of the source.

    Raises
    ------
    ConfigError
        ``order`` is not 0, 1 or 3.
    GeometryError
        ``shape`` or ``affine`` is impossible.
    """
    target = checked_affine(affine)
    new_shape = tuple(int(size) for size in shape)
    if len(new_shape) != 3 or min(new_shape) < 1:
        raise GeometryError(f"shape {new_shape}", expected="three sizes of at least 1")
    to_source = np.linalg.inv(volume.affine) @ target
    axes = _aligned_axes(to_source, new_shape)
    if axes is None:
        data = _resample_oblique(volume.data, to_source, new_shape, order, fill)
    else:
        # Source axes in the target's order; then each axis is resampled alone.
        source = volume.data.transpose(axes)
        coordinates = [
            to_source[axes[axis], axis] * np.arange(new_shape[axis]) + to_source[axes[axis], 3]
            for axis in range(3)
        ]
        data = _resample_aligned(source, coordinates, order, fill)
    return Volume(data, target)


def resample_spacing(
    volume: Volume, spacing_mm: Sequence[float], *, order: int = 3, is_label: bool = False
) -> Volume:
    """``volume`` at another spacing over the same extent, by nnU-Net's rules.

    The new size of an axis is ``round(size * old / new)``. Where the old spacing (or, failing that,
    the new one) is anisotropic, coarsest over finest above 3, the coarse axis is resampled by
    nearest neighbour and the others by ``order``; where two are equally coarse, all are by
    ``order``. Images come as float32. Labels keep their dtype and are resampled one-hot, linearly
    (nearest with ``order`` 0), the largest share winning.
    Unlike nnU-Net's, the affine states exactly where voxels lie: the outer corner of the first
    voxel stays in place and spacing is exactly ``spacing_mm``.

    Source of the rules: Isensee et al., Nature Methods 2021, and nnU-Net v2's
    ``default_resampling.py``.

    Raises
    ------
    ConfigError
        ``spacing_mm`` or ``order`` is impossible.
    GeometryError
        The new grid would have more than 2^31 voxels.
    """
    wanted = np.array(spacing_mm, dtype=np.float64)
    if wanted.shape != (3,) or not (np.isfinite(wanted).all() and (wanted > 0).all()):
        raise ConfigError(f"spacing {spacing_mm!r}", expected="three numbers above 0, in mm")
    old = np.array(volume.spacing_mm)
    scale = wanted / old
    new_shape = [
        max(1, round(size / factor)) for size, factor in zip(volume.shape, scale, strict=True)
    ]
    _require_possible(new_shape, volume, wanted)
    coordinates = [
        (np.arange(size) + 0.5) * factor - 0.5
        for size, factor in zip(new_shape, scale, strict=True)
    ]
    nearest_axis = nearest_neighbour_axis(old, wanted)
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] * scale
    affine[:3, 3] += volume.affine[:3, :3] @ (0.5 * scale - 0.5)

    data: NDArray[Any] = volume.data
    if nearest_axis is not None:
        data = _take_nearest(data, nearest_axis, coordinates[nearest_axis])
        coordinates[nearest_axis] = np.arange(new_shape[nearest_axis], dtype=np.float64)
    if is_label:
        data = _resample_one_hot(data, coordinates, min(order, 1))
    else:
        data = _interpolate(data, coordinates, order)
    return Volume(data, affine)


def _require_possible(
    shape: Sequence[int], volume: Volume, spacing_mm: NDArray[np.float64]
) -> None:
    if math.prod(shape) <= _MOST_VOXELS:
        return
    raise GeometryError(
        f"{_by(volume.shape)} voxels of {_by(volume.spacing_mm)} mm are {_by(shape)} at "
        f"{_by(spacing_mm)} mm, too many",
        expected=f"{_MOST_VOXELS:,} at most",
        remedy="check the scan's spacing: it is to be in mm, and a chest CT's is about 0.5 to 10",
    )


def _by(numbers: Sequence[float] | NDArray[np.float64]) -> str:
    return " x ".join(f"{number:.6g}" for number in numbers)


def nearest_neighbour_axis(old: ArrayLike, new: ArrayLike) -> int | None:
    """The axis that is resampled by nearest neighbour between two spacings; None where none is.

    It is the coarse axis of the old spacing or, where that is not anisotropic, of the new one, as
    in nnU-Net's ``determine_do_sep_z_and_axis``. Of two equally coarse axes neither is.
    """
    for spacing in (np.asarray(old), np.asarray(new)):
        if spacing.max() / spacing.min() > ANISOTROPY_THRESHOLD:
            # The spacing of an oblique grid is known but for rounding.
            coarsest = np.flatnonzero(np.isclose(spacing, spacing.max(), rtol=1e-5))
            return int(coarsest[0]) if coarsest.size == 1 else None
    return None


def _aligned_axes(to_source: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """For each target axis the source axis along which it runs; None where grids are oblique."""
    turn = to_source[:3, :3]
    axes = tuple(int(axis) for axis in np.abs(turn).argmax(axis=0))
    if sorted(axes) != [0, 1, 2]:
        return None
    rest = turn.copy()
    rest[axes, (0, 1, 2)] = 0
    strays = (np.abs(rest) * (np.array(shape) - 1)).sum(axis=1).max()
    return axes if strays <= _SNAP_VOXELS else None


def _resample_aligned(
    source: NDArray[Any], coordinates: list[NDArray[np.float64]], order: int, fill: float
) -> NDArray[Any]:
    inside = []
    for size, positions in zip(source.shape, coordinates, strict=True):
        within = np.flatnonzero(_within(positions, size))
        # Coordinates are monotonous, so what lies inside is one run.
        inside.append(slice(within[0], within[-1] + 1) if within.size else slice(0, 0))
    shape = tuple(len(positions) for positions in coordinates)
    dtype = source.dtype if order == 0 else np.dtype(np.float32)
    result = np.full(shape, fill, dtype=dtype, order="F")
    kept = [positions[part] for positions, part in zip(coordinates, inside, strict=True)]
    if all(part.stop > part.start for part in inside):
        result[tuple(inside)] = _interpolate(source, kept, order)
    return result


def _within(positions: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    return (positions >= -0.5 - _SNAP_VOXELS) & (positions <= size - 0.5 + _SNAP_VOXELS)


def _interpolate(
    source: NDArray[Any], coordinates: list[NDArray[np.float64]], order: int
) -> NDArray[Any]:
    """Values at the grid spanned by ``coordinates`` (in voxels), one axis after the other."""
    _require_order(order)
    # Work in memory order: slowest axis first.
    axes = sorted(range(3), key=lambda axis: -abs(source.strides[axis]))
    data = source.transpose(axes)
    wanted = [coordinates[axis] for axis in axes]
    if order == 0:
        for axis in range(3):
            data = _take_nearest(data, axis, wanted[axis])
    else:
        # Axes that lose most voxels first: the least work for those that follow.
        for axis in sorted(range(3), key=lambda axis: len(wanted[axis]) / data.shape[axis]):
            data = _along_axis(data, axis, wanted[axis], order)
        data = data.astype(np.float32, copy=False)
    return data.transpose(np.argsort(axes))


def _require_order(order: int) -> None:
    if order not in (0, 1, 3):
        raise ConfigError(f"interpolation order {order}", expected="0, 1 or 3")


def _take_nearest(source: NDArray[Any], axis: int, positions: NDArray[np.float64]) -> NDArray[Any]:
    # A centre on the border of two voxels goes to the upper one.
    index = np.floor(positions + 0.5 + _SNAP_VOXELS * 1e-3).astype(np.intp)
    index = np.clip(index, 0, source.shape[axis] - 1)
    if np.array_equal(index, np.arange(source.shape[axis])):
        return source
    return source.take(index, axis=axis)


def _along_axis(
    source: NDArray[Any], axis: int, positions: NDArray[np.float64], order: int
) -> NDArray[Any]:
    """One axis interpolated: a product with a matrix of weights, block by block.

    The matrix is nearly banded, so a block of new positions needs a short run of old ones; BLAS
    does these small dense products several times faster than a loop over taps.
    """
    size = source.shape[axis]
    positions = np.clip(positions, 0, size - 1)
    whole = np.rint(positions)
    if (np.abs(positions - whole) <= _SNAP_VOXELS).all():
        return _take_nearest(source, axis, whole)
    weights = _weights(size, positions, order)
    shape = (*source.shape[:axis], len(positions), *source.shape[axis + 1 :])
    result = np.empty(shape, dtype=np.float32)
    before = (slice(None),) * axis
    for start in range(0, len(positions), _BLOCK):
        rows = slice(start, start + _BLOCK)
        used = np.flatnonzero(weights[rows].any(axis=0))
        columns = slice(used[0], used[-1] + 1)
        block = weights[rows, columns]
        old = source[(*before, columns)].astype(np.float32, copy=False)
        new = result[(*before, rows)]
        if axis == 0:
            np.matmul(block, old.reshape(len(old), -1), out=new.reshape(len(new), -1))
        elif axis == 1:
            np.matmul(block, old, out=new)
        else:
            np.matmul(old, block.T, out=new)
    return result


def _weights(size: int, positions: NDArray[np.float64], order: int) -> NDArray[np.float32]:
    """(new, old) matrix of interpolation weights; each row adds up to 1."""
    rows = np.arange(len(positions))
    base = np.minimum(np.floor(positions).astype(np.intp), max(size - 2, 0))
    t = positions - base
    if order == 1 or size == 1:
        taps = {0: 1 - t, 1: t}
    else:
        # The cubic B-spline's four pieces, mirrored about the outermost centres.
        taps = {
            -1: (1 - t) ** 3 / 6,
            0: (3 * t**3 - 6 * t**2 + 4) / 6,
            1: (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            2: t**3 / 6,
        }
    weights = np.zeros((len(positions), size))
    for offset, share in taps.items():
        index = np.abs(base + offset)
        index = np.where(index >= size, 2 * (size - 1) - index, index)
        np.add.at(weights, (rows, np.clip(index, 0, size - 1)), share)
    if order == 3 and size > 1:
        # The filter that makes a spline pass through the values, folded into the matrix: it is
        # linear, so filtering the unit vectors gives it whole. Its tails fall off by 0.27 a voxel.
        weights = weights @ ndimage.spline_filter1d(np.eye(size), 3, axis=0, mode="mirror")
        weights[np.abs(weights) < 1e-9] = 0
    return weights.astype(np.float32)


def _resample_one_hot(
    labels: NDArray[Any], coordinates: list[NDArray[np.float64]], order: int
) -> NDArray[Any]:
    if order == 0:
        return _interpolate(labels, coordinates, 0)
    shape = tuple(len(positions) for positions in coordinates)
    best = np.full(shape, -1, dtype=np.float32)
    result = np.zeros(shape, dtype=labels.dtype)
    for value in np.unique(labels):
        share = _interpolate((labels == value).view(np.uint8), coordinates, 1)
        # Of equal shares the greater label wins, as in nnU-Net.
        wins = share >= best
        result[wins] = value
        np.maximum(best, share, out=best)
    return result


def _resample_oblique(
    source: NDArray[Any],
    to_source: NDArray[np.float64],
    shape: tuple[int, ...],
    order: int,
    fill: float,
) -> NDArray[Any]:
    _require_order(order)
    if order == 3:
        source = ndimage.spline_filter(source, 3, output=np.float32, mode="mirror")
    dtype = source.dtype if order == 0 else np.dtype(np.float32)
    result = np.empty(shape, dtype=dtype, order="F")
    turn, shift = to_source[:3, :3], to_source[:3, 3]
    x, y = np.arange(shape[0])[:, None, None], np.arange(shape[1])[None, :, None]
    for part in slabs(shape):
        z = np.arange(part.start, part.stop)[None, None, :]
        values = ndimage.affine_transform(
            source,
            turn,
            shift + turn[:, 2] * part.start,
            output_shape=(shape[0], shape[1], part.stop - part.start),
            output=dtype,
            order=order,
            mode="mirror" if order == 3 else "nearest",
            prefilter=False,
        )
        outside = np.zeros(values.shape, dtype=bool)
        border = np.zeros(values.shape, dtype=bool)
        for axis, size in enumerate(source.shape):
            positions = turn[axis, 0] * x + turn[axis, 1] * y + turn[axis, 2] * z + shift[axis]
            outside |= ~_within(positions, size)
            border |= (positions < 0) | (positions > size - 1)
        if order == 3:
            # Beyond the outermost centres scipy mirrors the spline; these voxels get the edge's.
            border &= ~outside
            voxels = np.argwhere(border) + np.array([0, 0, part.start])
            last = np.array(source.shape)[:, None] - 1
            nearest = np.clip(turn @ voxels.T + shift[:, None], 0, last)
            values[border] = ndimage.map_coordinates(
                source, nearest, output=dtype, order=3, mode="mirror", prefilter=False
            )
        values[outside] = fill
        result[..., part] = values
    return result
