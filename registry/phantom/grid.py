"""The sampling of a phantom: where its voxels are in the patient, in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Axis-aligned voxel centres in the patient's own frame, RAS+: x right, y anterior, z superior.

    The frame's origin is in the mid-line, in the middle of the chest's depth, at the height of the
    right dome of the diaphragm.
    """

    first_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    def axis(self, axis: int) -> np.ndarray:
        """Coordinates of the voxel centres along an axis, float32, millimetres."""
        return (self.first_mm[axis] + self.spacing_mm[axis] * np.arange(self.shape[axis])).astype(
            np.float32
        )

    @cached_property
    def xyz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates shaped to broadcast: (X,1,1), (1,Y,1), (1,1,Z)."""
        x, y, z = (self.axis(axis) for axis in range(3))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    @cached_property
    def softness_mm(self) -> float:
        """Width over which an edge is blended, about a voxel: partial volume."""
        return float(np.prod(self.spacing_mm) ** (1 / 3))

    @property
    def affine(self) -> np.ndarray:
        """Voxel indices to millimetres, 4x4 float64."""
        affine = np.diag([*self.spacing_mm, 1.0])
        affine[:3, 3] = self.first_mm
        return affine

    def slices(self, start: int, stop: int) -> Grid:
        """The part of this grid that lies in slices ``start`` to ``stop`` (excluded)."""
        stop = min(stop, self.shape[2])
        first = (*self.first_mm[:2], self.first_mm[2] + start * self.spacing_mm[2])
        return Grid(first, self.spacing_mm, (*self.shape[:2], stop - start))

    def coarsened(self, in_plane_mm: float) -> Grid:
        """A grid over the same box with in-plane spacing at least ``in_plane_mm``, or this one."""
        if min(self.spacing_mm[:2]) >= in_plane_mm:
            return self
        spacing, shape = list(self.spacing_mm), list(self.shape)
        for axis in (0, 1):
            extent = self.spacing_mm[axis] * (self.shape[axis] - 1)
            shape[axis] = int(np.ceil(extent / in_plane_mm)) + 1
            spacing[axis] = extent / (shape[axis] - 1)
        return Grid(self.first_mm, tuple(spacing), tuple(shape))  # type: ignore[arg-type]

    def box(self, low_mm, high_mm) -> tuple[slice, slice, slice]:
        """Index ranges of the voxels within a box, possibly empty."""
        ranges = []
        for axis in range(3):
            start = (low_mm[axis] - self.first_mm[axis]) / self.spacing_mm[axis]
            stop = (high_mm[axis] - self.first_mm[axis]) / self.spacing_mm[axis]
            begin = min(max(int(np.ceil(start)), 0), self.shape[axis])
            ranges.append(slice(begin, max(begin, min(int(np.floor(stop)) + 1, self.shape[axis]))))
        return tuple(ranges)  # type: ignore[return-value]


def refine(field: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Linear interpolation in plane from a coarsened grid back onto the one it came from."""
    if field.shape == shape:
        return field
    (below_x, part_x), (below_y, part_y) = (
        _between(field.shape[axis], shape[axis]) for axis in (0, 1)
    )
    part_y = part_y[:, None]
    out = np.empty(shape, np.float32)
    # A sheet at a time stays in the processor's cache.
    for x in range(shape[0]):
        near, far = field[below_x[x]], field[below_x[x] + 1]
        sheet = near + part_x[x] * (far - near)
        row = out[x]
        np.subtract(sheet[below_y + 1], sheet[below_y], out=row)
        row *= part_y
        row += sheet[below_y]
    return out


def _between(coarse: int, fine: int) -> tuple[np.ndarray, np.ndarray]:
    """For each fine point the coarse point below it, and the share of the one above."""
    place = np.linspace(0, coarse - 1, fine)
    below = np.minimum(place.astype(int), coarse - 2)
    return below, (place - below).astype(np.float32)


def oriented(array: np.ndarray, affine: np.ndarray, code: str) -> tuple[np.ndarray, np.ndarray]:
    """An RAS+ array stored in another axis order and direction (``LPS``, ``PLI``), with affine.

    The physical place of every voxel is unchanged.
    """
    opposite = dict(zip("LPIRAS", "RASLPI", strict=True))
    for axis, letter in enumerate("RAS"):
        if opposite[letter] in code:
            array = np.flip(array, axis)
            last = array.shape[axis] - 1
            affine = affine.copy()
            affine[:3, 3] += affine[:3, axis] * last
            affine[:3, axis] *= -1
    order = ["RAS".index(c if c in "RAS" else opposite[c]) for c in code]
    return np.transpose(array, order), affine[:, [*order, 3]]
