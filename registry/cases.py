"""What the registry hands on: cases, their masks, and the scale of their intensities.

A case names files; it holds no voxels. Reading is `covidseg.registry.read`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

ImageFormat = Literal["nifti", "dicom", "picture"]
MaskFormat = Literal["nifti", "rtstruct", "picture"]


@dataclass(frozen=True)
class Intensity:
    """The scale an image file's values are on.

    ``hu``: Hounsfield units as stored. ``windowed``: Hounsfield units clipped to ``window_hu`` and
    mapped linearly to [0, 255]; convertible back within the window, by
    ``v / 255 * (high - low) + low``. ``picture``: 8-bit grey values with no known relation to
    Hounsfield units.
    """

    scale: Literal["hu", "windowed", "picture"]
    window_hu: tuple[float, float] | None = None


HU = Intensity("hu")


@dataclass(frozen=True)
class Mask:
    """One annotation of a case.

    ``labels`` maps the values in the file to names of `covidseg.registry.vocabulary.LABELS`; for
    RTSTRUCT, the values that the structures are given when they are rasterised.
    """

    path: Path
    labels: dict[int, str]
    format: MaskFormat = "nifti"


@dataclass(frozen=True)
class Case:
    """One scan as it lies on disk, with what is known of it.

    ``image`` is a file, or the folder of a DICOM series. ``masks`` are by annotation name
    (``lung``, ``infection``, ``lung_and_infection``, ...), the same name for the same annotation in
    every layout of a dataset.
    """

    dataset: str
    case_id: str
    patient_id: str
    source: str
    image: Path
    image_format: ImageFormat = "nifti"
    intensity: Intensity = HU
    masks: dict[str, Mask] = field(default_factory=dict)
    cohort: str = "labelled"
    series_uid: str | None = None
