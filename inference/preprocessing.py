"""From a scan to the array that networks see. Training and prediction go through this one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covidseg.core.errors import ConfigError
from covidseg.imaging.intensity import lung_and_tissue, window_to_hu
from covidseg.imaging.resample import reorient, resample_spacing, resample_to_grid
from covidseg.imaging.volume import Volume
from covidseg.registry.cases import Intensity

# Arrays are (Z, Y, X) of this orientation: plane by plane, upright as radiologists look at them,
# x growing to the patient's left.
ORIENTATION = "LPS"


@dataclass(frozen=True)
class Preprocessing:
    """Grid and intensity scale of a network's input.

    The intensity becomes ``(clip(v, low, high) - mean) / std``: the benchmark's window
    [-1250, 250] HU onto [0, 1] is ``low=-1250, high=250, mean=-1250, std=1500``; nnU-Net's CT
    normalisation has the 0.5 and 99.5 percentiles, mean and standard deviation of the foreground.

    Parameters
    ----------
    low, high, mean, std
        In Hounsfield units; for pictures in grey values.
    spacing_mm
        (z, y, x) of the network's grid; null keeps each scan's own. Null for z alone keeps each
        scan's own planes.
    plane_size
        (y, x) that every plane is stretched to, for slice pictures, which have no spacing.
    lung_and_tissue
        Greys that a picture's aerated lung and soft tissue are brought to before anything else, so
        that pictures of different windows look alike; null leaves them as they are.
    """

    low: float
    high: float
    mean: float
    std: float
    spacing_mm: tuple[float | None, float, float] | None = None
    plane_size: tuple[int, int] | None = None
    lung_and_tissue: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ConfigError(f"the intensities' low {self.low} is not below high {self.high}")
        if not self.std > 0:
            raise ConfigError(f"the intensities' std is {self.std}", expected="above 0")
        if self.spacing_mm is not None and self.plane_size is not None:
            raise ConfigError("both spacing_mm and plane_size are set", remedy="set one of them")
        greys = self.lung_and_tissue
        if greys is not None and not greys[0] < greys[1]:
            raise ConfigError(f"lung_and_tissue is {greys}", expected="lung darker than tissue")

    @property
    def air(self) -> float:
        """What padding beyond a scan's edge is filled with: the least value there is."""
        return (self.low - self.mean) / self.std

    def normalise(self, data: NDArray[Any], intensity: Intensity) -> NDArray[np.float32]:
        """Values of any dtype on the scale ``intensity`` to the network's scale, float32."""
        if intensity.scale == "windowed":
            assert intensity.window_hu is not None
            data = window_to_hu(data, intensity.window_hu)
        if self.lung_and_tissue is not None:
            data = _brought_to(self.lung_and_tissue, data)
        result = np.clip(data, self.low, self.high, dtype=np.float32, casting="unsafe")
        result -= np.float32(self.mean)
        result /= np.float32(self.std)
        return result

    def image(self, volume: Volume, intensity: Intensity) -> Prepared:
        """A scan as the network's input.

        Voxels are normalised before they are resampled, so that metal or padding far beyond the
        window does not ring into its surroundings.
        """
        upright = reorient(volume, ORIENTATION)
        upright = upright.with_data(self.normalise(upright.data, intensity))
        grid = self._resampled(upright, is_label=False)
        return Prepared(
            np.ascontiguousarray(grid.data.transpose(2, 1, 0)),
            grid.affine,
            volume.shape,
            volume.affine,
        )

    def label(self, volume: Volume) -> NDArray[np.uint8]:
        """A label map on the same grid as `image` gives, uint8 (Z, Y, X)."""
        grid = self._resampled(reorient(volume, ORIENTATION), is_label=True)
        return np.ascontiguousarray(grid.data.transpose(2, 1, 0).astype(np.uint8, copy=False))

    def _resampled(self, upright: Volume, *, is_label: bool) -> Volume:
        if self.plane_size is not None:
            return _stretched(upright, self.plane_size, is_label=is_label)
        if self.spacing_mm is None:
            return upright
        z, y, x = self.spacing_mm
        if z is None:
            z = upright.spacing_mm[2]
        return resample_spacing(upright, (x, y, z), order=1 if is_label else 3, is_label=is_label)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network's input and the way back.

    ``image`` is float32 (Z, Y, X); ``affine`` places the same voxels as (X, Y, Z) in RAS+ mm;
    ``scan_shape`` and ``scan_affine`` are those of the file.
    """

    image: NDArray[np.float32]
    affine: NDArray[np.float64]
    scan_shape: tuple[int, int, int]
    scan_affine: NDArray[np.float64]


def _brought_to(wanted: tuple[float, float], data: NDArray[Any]) -> NDArray[Any]:
    found = lung_and_tissue(data)
    if found is None:
        return data
    scale = (wanted[1] - wanted[0]) / (found[1] - found[0])
    return (data.astype(np.float32) - np.float32(found[0])) * np.float32(scale) + np.float32(
        wanted[0]
    )


def _stretched(upright: Volume, plane_size: Sequence[int], *, is_label: bool) -> Volume:
    size = (plane_size[1], plane_size[0], upright.shape[2])
    scale = np.array(upright.shape) / np.array(size)
    affine = upright.affine.copy()
    affine[:3, :3] *= scale
    affine[:3, 3] += upright.affine[:3, :3] @ (0.5 * scale - 0.5)
    return resample_to_grid(upright, size, affine, order=0 if is_label else 1)
