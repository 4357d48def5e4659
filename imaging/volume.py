"""What a volume is: voxels in three dimensions and the affine that places them in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covidseg.core.errors import GeometryError
from covidseg.imaging.geometry import Affine, checked_affine, orientation_of, spacing_of


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie.

    Parameters
    ----------
    data
        (X, Y, Z) array of any real dtype; axes are what ``affine`` says, not display axes.
    affine
        (4, 4) voxel indices to mm in RAS+; kept as a read-only float64 copy.

    Raises
    ------
    GeometryError
        ``data`` has not three dimensions or no voxels, or `checked_affine` refuses the affine.
    """

    data: NDArray[Any]
    affine: Affine

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or 0 in self.data.shape:
            raise GeometryError(
                f"the voxels have shape {self.data.shape}", expected="three dimensions, none of 0"
            )
        object.__setattr__(self, "affine", checked_affine(self.affine))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        x, y, z = self.data.shape
        return x, y, z

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each axis, in mm, float64, not rounded."""
        return spacing_of(self.affine)

    @property
    def orientation(self) -> str:
        """Where each axis points, such as ``LPS`` (nibabel's axis codes)."""
        return orientation_of(self.affine)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm³ (also right for sheared grids)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def with_data(self, data: NDArray[Any]) -> Volume:
        """Other voxels on the same grid; `GeometryError` where the shapes differ."""
        if data.shape != self.data.shape:
            raise GeometryError(
                f"the voxels have shape {data.shape}", expected=f"{self.data.shape}, as the grid"
            )
        return Volume(data, self.affine)
