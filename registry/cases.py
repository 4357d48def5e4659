"""What the registry hands on: cases, their masks, and the scale of their intensities.

A case names files; it holds no voxels. Reading is `covidseg.registry.read`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# Of a "picture, back first" columns run to the patient's front, of a "picture" to the back.
ImageFormat = Literal["nifti", "dicom", "picture", "picture, back first"]
MaskFormat = Literal["nifti", "rtstruct", "picture"]
Sides = Literal["declared", "verified", "by_centroid"]


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
    RTSTRUCT, the values that the structures are given when they are rasterised, ``structures``
    being the structures' names in the file with those values, later ones over earlier ones.

    ``threshold``: the file holds grey values, and what lies above the threshold is label 1.
    ``sides``: how left and right lung are told apart. ``declared``: by ``labels``; ``verified``: by
    ``labels``, and a lung on the wrong side by the affine is an error, as is value 1 alone;
    ``by_centroid``: the file's two values carry no meaning, the one whose centroid lies further to
    the patient's left is ``left_lung``. ``own_grid``: the file's axes need not be the image's;
    reading brings it onto the image's grid through physical space.
    """

    path: Path
    labels: dict[int, str]
    format: MaskFormat = "nifti"
    threshold: float | None = None
    sides: Sides = "declared"
    own_grid: bool = False
    structures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One scan as it lies on disk, with what is known of it.

    ``image`` is a file, or the folder of a DICOM series. ``masks`` are by annotation name
    (``lung``, ``infection``, ``lung_and_infection``, ...), the same name for the same annotation in
    every layout of a dataset. ``layout`` says which of the dataset's layouts it was found in.
    Within a dataset, cohort and case ID together name a case.
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
    layout: str = ""
