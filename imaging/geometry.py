"""Where voxels lie in the patient: affines, orientation letters, and whether two grids agree.

Affines are (4, 4) float64 and map voxel indices (x, y, z) to millimetres in RAS+ (x grows
towards the patient's right, y to anterior, z to superior), as in NIfTI and nibabel.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from covidseg.core.errors import GeometryError

DEFAULT_TOLERANCE_MM = 1e-3

Shape = tuple[int, ...]
Affine = NDArray[np.float64]


def checked_affine(affine: ArrayLike) -> Affine:
    """A read-only float64 copy of ``affine`` after checking that it places voxels in space.

    Raises
    ------
    GeometryError
        It is not (4, 4), not finite, its last row is not (0, 0, 0, 1), a column has no length, or
        its columns lie in one plane.
    """
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise GeometryError(f"the affine has shape {matrix.shape}", expected="(4, 4)")
    if not np.isfinite(matrix).all():
        raise GeometryError("the affine holds values that are not finite")
    if not np.array_equal(matrix[3], (0, 0, 0, 1)):
        raise GeometryError(f"the affine's last row is {matrix[3].tolist()}", expected="0, 0, 0, 1")
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise GeometryError(
            f"the affine gives a spacing of {_numbers(lengths)} mm",
            expected="a spacing above zero along each axis",
        )
    # The volume of the parallelepiped of unit columns: 1 where they are orthogonal, 0 in one plane.
    if abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
        raise GeometryError(
            "the affine is singular: its three axes lie in one plane",
            remedy="repair the file's header from its source",
        )
    matrix.setflags(write=False)
    return matrix


def spacing_of(affine: ArrayLike) -> tuple[float, float, float]:
    """Distance in mm between neighbouring voxels along each axis: the columns' lengths."""
    lengths = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return float(lengths[0]), float(lengths[1]), float(lengths[2])


def orientation_of(affine: ArrayLike) -> str:
    """Three letters saying where each axis points, such as ``LPS``: nibabel's axis codes."""
    return "".join(nib.aff2axcodes(np.asarray(affine, dtype=np.float64)))


def corners_mm(shape: Sequence[int], affine: ArrayLike) -> NDArray[np.float64]:
    """(8, 3) positions in mm, RAS+, of the centres of a grid's corner voxels."""
    ends = [(0, size - 1) for size in shape]
    index = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    return nib.affines.apply_affine(np.asarray(affine, dtype=np.float64), index)


def grids_agree(
    shape_a: Sequence[int],
    affine_a: ArrayLike,
    shape_b: Sequence[int],
    affine_b: ArrayLike,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> str | None:
    """None where two grids are one; otherwise what differs, in words.

    Grids agree where their shapes are equal and no corner voxel's position differs by more than
    ``tolerance_mm``. An affine is linear, so no voxel between the corners differs by more either;
    noise of 1e-6 in its entries passes, a shifted origin or another spacing does not.
    """
    shape_a, shape_b = tuple(map(int, shape_a)), tuple(map(int, shape_b))
    if shape_a != shape_b:
        return f"shapes {shape_a} and {shape_b} differ"
    a, b = np.asarray(affine_a, dtype=np.float64), np.asarray(affine_b, dtype=np.float64)
    apart = np.linalg.norm(corners_mm(shape_a, a) - corners_mm(shape_b, b), axis=1).max()
    if apart <= tolerance_mm:
        return None
    causes = []
    spacing_a, spacing_b = spacing_of(a), spacing_of(b)
    if orientation_of(a) != orientation_of(b):
        causes.append(f"orientations {orientation_of(a)} and {orientation_of(b)}")
    elif np.abs((np.subtract(spacing_a, spacing_b)) * np.maximum(shape_a, 1)).max() > tolerance_mm:
        causes.append(f"spacings ({_numbers(spacing_a)}) and ({_numbers(spacing_b)}) mm")
    elif np.linalg.norm(a[:3, 3] - b[:3, 3]) > tolerance_mm:
        causes.append(f"origins ({_numbers(a[:3, 3])}) and ({_numbers(b[:3, 3])}) mm")
    else:
        causes.append("directions of the axes")
    return f"voxels lie up to {apart:.3g} mm apart: {' and '.join(causes)} differ"


def require_same_grid(
    shape_a: Sequence[int],
    affine_a: ArrayLike,
    path_a: str | PathLike[str],
    shape_b: Sequence[int],
    affine_b: ArrayLike,
    path_b: str | PathLike[str],
    *,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> None:
    """Raise `GeometryError`, naming both files, unless `grids_agree` finds nothing."""
    difference = grids_agree(shape_a, affine_a, shape_b, affine_b, tolerance_mm)
    if difference is not None:
        raise GeometryError(
            f"{difference}, comparing with {path_b}",
            path=path_a,
            expected="both files on one grid",
            remedy="take both files from one download, or resample one onto the other's grid "
            "through physical space (covidseg.imaging.resample.resample_to_grid)",
        )


def reoriented_affine(
    shape: Sequence[int], affine: ArrayLike, orientation: str
) -> tuple[Shape, Affine]:
    """Shape and affine of a grid after its axes are permuted and flipped to ``orientation``.

    Raises
    ------
    GeometryError
        ``orientation`` is not three letters, one each of L/R, P/A and I/S.
    """
    change = orientation_change(affine, orientation)
    new_shape = [0, 0, 0]
    for old_axis, (new_axis, _) in enumerate(change):
        new_shape[int(new_axis)] = int(shape[old_axis])
    moved = np.asarray(affine, dtype=np.float64) @ nib.orientations.inv_ornt_aff(
        change, tuple(shape)
    )
    return tuple(new_shape), moved


def orientation_change(affine: ArrayLike, orientation: str) -> NDArray[np.float64]:
    """nibabel's (3, 2) table of (new axis, flip) that brings a grid to ``orientation``."""
    letters = orientation.upper()
    if len(letters) != 3 or any(
        sum(c in pair for c in letters) != 1 for pair in ("LR", "PA", "IS")
    ):
        raise GeometryError(
            f"orientation {orientation!r} is unknown", expected="three letters such as RAS or LPS"
        )
    now = nib.orientations.io_orientation(np.asarray(affine, dtype=np.float64))
    return nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(tuple(letters)))


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
