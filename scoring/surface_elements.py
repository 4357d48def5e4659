"""Area of the surface element at every corner of the voxel grid, by its neighbour code.

The surface of a mask is taken where DeepMind's ``surface-distance`` takes it: at the points where
2×2×2 voxels meet (2×2 pixels in a picture), as the patch that marching cubes lays through the eight
voxel centres around that point. Which patch it is depends on which of the eight lie in the mask;
how large it is, on the spacing as well.

There are 256 neighbourhoods, but up to the 48 rotations and reflections of a cube, and to
exchanging inside and outside, only fourteen. `_PATCHES` lists those fourteen with the triangles of
their patches; the other codes follow by symmetry, so that no table of 256 lines is needed. The
triangulations (marching cubes leaves a choice) are those of ``surface-distance``'s lookup table,
google-deepmind/surface-distance, ``lookup_tables.py``, Copyright 2018 Google Inc., Apache-2.0.
A test compares all 256 areas with that package's.

Source: S. Nikolov et al., Clinically applicable segmentation of head and neck anatomy for
radiotherapy, J Med Internet Res 23(7):e26151, 2021; W. Lorensen and H. Cline, Marching cubes,
SIGGRAPH 1987.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

# Corners of the cube in the order of the code's bits: bit k is corner (k>>2 & 1, k>>1 & 1, k & 1).
_CORNERS = tuple(itertools.product((0, 1), repeat=3))

_CORNER_CUT = (1, 1, 1)
# One neighbourhood of each kind: the corners inside, and the vector areas of the patch's triangles
# in eighths of a voxel face. Only magnitudes are given: signs do not change an area.
_PATCHES: tuple[tuple[tuple[int, ...], tuple[tuple[int, int, int], ...]], ...] = (
    ((), ()),
    ((0,), (_CORNER_CUT,)),
    ((0, 1), ((2, 2, 0), (2, 2, 0))),  # an edge
    ((0, 3), (_CORNER_CUT, _CORNER_CUT)),  # a face's diagonal: two corners cut apart
    ((0, 7), (_CORNER_CUT, _CORNER_CUT)),  # the cube's diagonal
    ((0, 1, 2), ((4, 0, 0), (2, 2, 2), _CORNER_CUT)),  # three corners of a face
    ((0, 1, 6), ((2, 2, 0), (2, 2, 0), _CORNER_CUT)),  # an edge and a corner away from it
    ((1, 2, 4), (_CORNER_CUT,) * 3),  # three corners, no two joined by an edge
    ((0, 1, 2, 3), ((4, 0, 0), (4, 0, 0))),  # a face: the patch is flat, one voxel face
    ((0, 1, 2, 4), (_CORNER_CUT, _CORNER_CUT, (2, 2, 2), (2, 2, 2))),  # a corner and its three
    ((0, 1, 2, 5), ((0, 2, 2), _CORNER_CUT, (2, 0, 2), (3, 3, 3))),  # a path that turns twice
    ((0, 1, 2, 7), ((4, 0, 0), (2, 2, 2), _CORNER_CUT, _CORNER_CUT)),  # three of a face, and one
    ((0, 1, 6, 7), ((2, 2, 0),) * 4),  # two opposite edges
    ((0, 3, 5, 6), (_CORNER_CUT,) * 4),  # every other corner
)


@lru_cache(maxsize=1)
def _triangles_by_code() -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """Vector areas (magnitudes, in eighths of a face) of the triangles of each of the 256 codes."""
    table: dict[int, tuple[tuple[int, int, int], ...]] = {}
    for corners, triangles in _PATCHES:
        for axes in itertools.permutations(range(3)):
            turned = tuple(tuple(triangle[axis] for axis in axes) for triangle in triangles)
            for flips in itertools.product((0, 1), repeat=3):
                code = 0
                for corner in corners:
                    place = _CORNERS[corner]
                    code |= 1 << _CORNERS.index(
                        tuple(place[axis] ^ flip for axis, flip in zip(axes, flips, strict=True))
                    )
                table[code] = table[255 - code] = turned  # type: ignore[assignment]
    return tuple(table[code] for code in range(256))


@lru_cache(maxsize=256)
def element_areas(spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Size of the surface element of every neighbour code.

    Parameters
    ----------
    spacing_mm
        Voxel size along each axis: three numbers, or two for pictures.

    Returns
    -------
    numpy.ndarray
        float64, areas in mm² of the 256 codes in 3D (bit ``4 a + 2 b + c`` is the voxel at offset
        ``(a, b, c)``), lengths in mm of the 16 codes in 2D (bit ``2 b + c``). Read-only.
    """
    areas = _areas_3d(spacing_mm) if len(spacing_mm) == 3 else _lengths_2d(spacing_mm)
    areas.flags.writeable = False
    return areas


def _areas_3d(spacing_mm: Sequence[float]) -> np.ndarray:
    a, b, c = (float(step) for step in spacing_mm)
    faces_mm2 = (b * c, a * c, a * b)
    # fsum: an area is the same to the last bit whatever the order of the axes.
    return np.array(
        [
            math.fsum(
                math.sqrt(
                    math.fsum(
                        (share / 8 * face) ** 2
                        for share, face in zip(triangle, faces_mm2, strict=True)
                    )
                )
                for triangle in triangles
            )
            for triangles in _triangles_by_code()
        ]
    )


def _lengths_2d(spacing_mm: Sequence[float]) -> np.ndarray:
    a, b = (float(step) for step in spacing_mm)
    corner = 0.5 * np.sqrt(a * a + b * b)
    lengths = np.full(16, corner)  # one pixel in, or one out: a corner is cut
    lengths[[0b0000, 0b1111]] = 0.0
    lengths[[0b0011, 0b1100]] = b  # both pixels at one offset along axis 0: along axis 1
    lengths[[0b0101, 0b1010]] = a
    lengths[[0b0110, 0b1001]] = 2 * corner  # a diagonal: two corners cut apart
    return lengths
