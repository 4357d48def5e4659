"""What a scanner does to a patient: sampling, kernel, noise, calibration, field of view, table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from covidseg.registry.phantom.grid import Grid


@dataclass(frozen=True)
class Scanner:
    """The ranges that one source's scans are drawn from.

    ``fov_mm`` is the edge of the picture; ``below_mm``/``above_mm`` how far the scan goes beyond
    the lungs. ``slices`` scales the size's number of slices. ``kernel`` is negative for a soft
    kernel (blur: -1 has a standard deviation of 1.6 mm, and of 0.45 pixels at least) and positive
    for a sharp one (edge enhancement). ``noise_hu`` is the noise's standard deviation and ``grain``
    its correlation in voxels. ``contrast`` is the agent's, from 0 (native) to 1 (arterial).
    ``padding`` is the value outside the circular field of view, or None for a square one.
    """

    orientation: str
    fov_mm: tuple[float, float] = (360.0, 420.0)
    below_mm: float = 18.0
    above_mm: float = 18.0
    slices: float = 1.0
    kernel: tuple[float, float] = (-0.3, 0.3)
    noise_hu: tuple[float, float] = (10.0, 20.0)
    grain: float = 0.6
    offset_hu: tuple[float, float] = (-5.0, 5.0)
    gain: tuple[float, float] = (1.0, 1.0)
    contrast: tuple[float, float] = (0.0, 0.2)
    padding: int | None = -1024
    table: bool = True
    motion: float = 0.3


@dataclass(frozen=True)
class Exposure:
    """One scan's settings, drawn from a `Scanner`."""

    scanner: Scanner
    fov_mm: float
    kernel: float
    noise_hu: float
    offset_hu: float
    gain: float
    contrast: float
    shift_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    motion: float

    @classmethod
    def draw(cls, rng: np.random.Generator, scanner: Scanner) -> Exposure:
        return cls(
            scanner=scanner,
            fov_mm=float(rng.uniform(*scanner.fov_mm)),
            kernel=float(rng.uniform(*scanner.kernel)),
            noise_hu=float(rng.uniform(*scanner.noise_hu)),
            offset_hu=float(rng.uniform(*scanner.offset_hu)),
            gain=float(rng.uniform(*scanner.gain)),
            contrast=float(rng.uniform(*scanner.contrast)),
            shift_mm=(float(rng.normal(0, 5)), float(rng.normal(-4, 5)), float(rng.normal(0, 3))),
            origin_mm=(
                float(np.round(rng.uniform(-40, 40))),
                float(np.round(rng.uniform(-120, 120))),
                float(np.round(rng.uniform(-400, 400))),
            ),
            motion=float(rng.random() * scanner.motion),
        )


def sampling(exposure: Exposure, low_z: float, high_z: float, in_plane: int, slices: int) -> Grid:
    """The grid of a scan that covers the lungs between two heights of the patient's frame."""
    scanner = exposure.scanner
    count = max(10, round(slices * scanner.slices))
    pixel = round(exposure.fov_mm / in_plane, 4)
    low = low_z - scanner.below_mm + exposure.shift_mm[2]
    high = high_z + scanner.above_mm + exposure.shift_mm[2]
    thickness = round((high - low) / count, 2)
    edge = pixel * (in_plane - 1) / 2
    first = (exposure.shift_mm[0] - edge, exposure.shift_mm[1] - edge, low + thickness / 2)
    return Grid(first, (pixel, pixel, thickness), (in_plane, in_plane, count))


def table(hu: np.ndarray, grid: Grid, back_y: float) -> None:
    """Lay the patient on a curved table top, in place."""
    x, y, _ = grid.xyz
    surface = back_y - 6 + 0.0009 * x**2
    soft = grid.softness_mm
    for offset, value, thick in ((0.0, -180.0, 3.0), (-26.0, -250.0, 2.5)):
        share = np.clip((thick - np.abs(y - surface - offset)) / soft + 0.5, 0, 1)
        share = share * np.clip((215 - np.abs(x)) / 10, 0, 1) * min(1.0, 2 * thick / soft)
        hu += (share * (hu < -600)) * (value - hu)
    core = np.clip(13 - np.abs(y - surface + 13), 0, 1) * np.clip((215 - np.abs(x)) / 10, 0, 1)
    hu += core * (hu < -950) * 60


def expose(hu: np.ndarray, grid: Grid, exposure: Exposure, rng: np.random.Generator) -> np.ndarray:
    """Turn true radiodensity into what a scanner reports: int16, within [-1024, 3071] and padding.

    ``hu`` is changed in place on the way.
    """
    scanner = exposure.scanner
    if exposure.motion > 0.15:
        # Heart and diaphragm move during the scan: the slices they cross are smeared a little.
        smear = exposure.motion * max(2.0 / grid.spacing_mm[1], 0.4)
        ndimage.gaussian_filter1d(hu, smear, axis=1, output=hu, mode="nearest")
    if exposure.kernel < -0.05:
        sigma = -exposure.kernel * max(1.6 / grid.spacing_mm[0], 0.45)
        for axis in (0, 1):
            ndimage.gaussian_filter1d(hu, sigma, axis=axis, output=hu, mode="nearest", truncate=3)
    elif exposure.kernel > 0.05:
        soft = ndimage.uniform_filter1d(hu, 3, axis=0, mode="nearest")
        ndimage.uniform_filter1d(soft, 3, axis=1, output=soft, mode="nearest")
        np.subtract(hu, soft, out=soft)
        soft *= np.float32(exposure.kernel)
        hu += soft
    hu *= np.float32(exposure.gain)
    hu += np.float32(exposure.offset_hu + 1000 * (exposure.gain - 1))
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = scanner.grain
    for axis in (0, 1):
        ndimage.gaussian_filter1d(noise, grain, axis=axis, output=noise, mode="wrap", truncate=2)
    noise *= np.float32(exposure.noise_hu / max(float(noise[:, :, :4].std()), 1e-6))
    hu += noise
    np.clip(hu, -1024, 3071, out=hu)
    if scanner.padding is not None:
        x = np.linspace(-1, 1, hu.shape[0], dtype=np.float32)[:, None]
        y = np.linspace(-1, 1, hu.shape[1], dtype=np.float32)[None, :]
        hu[(x**2 + y**2) > 1] = scanner.padding
    return np.rint(hu).astype(np.int16)
