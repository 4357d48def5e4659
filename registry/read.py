"""Reading the image and the masks of a case, whatever they are stored as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covidseg.core.errors import (
    ConfigError,
    CovidsegError,
    GeometryError,
    IntensityError,
    LabelError,
    LayoutError,
)
from covidseg.imaging.dicom import DicomSeries, find_series, read_series
from covidseg.imaging.geometry import grids_agree, require_same_grid
from covidseg.imaging.intensity import window_to_hu
from covidseg.imaging.nifti import read_header, read_nifti
from covidseg.imaging.picture import read_picture
from covidseg.imaging.resample import reorient, resample_to_grid
from covidseg.imaging.rtstruct import rasterise, structure_names
from covidseg.imaging.volume import Volume
from covidseg.registry.cases import Case, Intensity, Mask
from covidseg.registry.datasets import DATASETS
from covidseg.registry.labels import (
    check_labels,
    count_values,
    lungs_exchanged,
    sides_by_centroid,
)
from covidseg.registry.tree import dicom_identity

# A slice picture has no spacing: 1 mm stands in. Its axes run to the patient's left and back.
PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
_BACK_FIRST_AFFINE = np.diag([-1.0, 1.0, 1.0, 1.0])

# A mask brought onto another grid may lose this share of its volume at the image's border.
_LOST_SHARE = 0.05


def read_image(case: Case) -> Volume:
    """The image of a case as stored: (X, Y, Z) in the file's own axes, on the scale that
    ``case.intensity`` says.

    NIfTI keeps the file's dtype (float where it has a slope), DICOM comes as Hounsfield units,
    pictures as (X, Y, 1) uint8 with a stand-in spacing of 1 mm.

    Raises
    ------
    UnreadableFileError, GeometryError, LayoutError
        As `covidseg.imaging.nifti.read_nifti`, `covidseg.imaging.dicom.read_series` and
        `covidseg.imaging.picture.read_picture` say; a DICOM series as `ct_series` says.
    """
    if case.image_format == "nifti":
        return read_nifti(case.image)
    if case.image_format == "picture":
        return _picture(case.image)
    if case.image_format == "picture, back first":
        return Volume(_picture(case.image).data, _BACK_FIRST_AFFINE)
    series = ct_series(case)
    return read_series(series) if series else read_series(case.image, series_uid=case.series_uid)


def ct_series(case: Case) -> DicomSeries | None:
    """The one CT series of a case's folder, as its headers describe it; None where not just one.

    Localisers (scouts) beside it do not count.

    Raises
    ------
    LayoutError
        By its PatientID it is another patient's of the dataset.
    """
    if case.image_format != "dicom":
        return None
    found = [
        series
        for series in find_series(case.image)
        if series.modality == "CT" and not series.localiser
    ]
    if case.series_uid is not None:
        found = [series for series in found if series.uid == case.series_uid]
    if len(found) != 1:
        return None
    _require_patient(case, found[0].patient_id, case.image)
    return found[0]


def _require_patient(case: Case, stated: str, path: Path) -> None:
    """What lies in the folder of one patient and is another's would train and test unseen.

    An ID that is no name of the dataset's (anonymised once more, or left out) contradicts nothing.
    """
    named = DATASETS[case.dataset].patient_named(stated)
    if named is not None and named != case.patient_id:
        raise LayoutError(
            f"is of {named} by its PatientID, but lies where {case.case_id} is looked for",
            path=path,
            expected=f"data of {case.patient_id}",
            remedy="find out whose it is, and put it into that patient's folder",
        )


def read_mask(case: Case, name: str, *, grid: Volume | None = None) -> Volume:
    """Annotation ``name`` of a case as uint8 labels on the image's grid.

    Values mean what ``case.masks[name].labels`` says. A mask with axes of its own, and structures
    drawn as contours, are brought onto the image's grid through physical space. ``grid`` is the
    image where the caller holds it; without, the image's header (NIfTI) or the image is read.

    Raises
    ------
    ConfigError
        The case has no such annotation.
    LabelError
        The mask holds values its dataset does not have, or lungs lie on the wrong sides.
    GeometryError
        The mask's grid is not the image's, and its dataset does not allow that; or structures are
        drawn on another scan.
    LayoutError
        Structures are another patient's by their PatientID.
    UnreadableFileError
        The file cannot be read.
    """
    mask = case.masks.get(name)
    if mask is None:
        raise ConfigError(
            f"{case.dataset} {case.case_id} has no annotation {name!r}",
            path=case.image,
            expected="one of " + ", ".join(case.masks) if case.masks else "an annotated case",
        )
    if mask.format == "rtstruct":
        grid = grid if grid is not None else read_image(case)
        return grid.with_data(rasterise_structures(case, mask, grid, ct_series(case)))
    stored = read_stored_mask(mask)
    if mask.own_grid:
        grid = grid if grid is not None else read_image(case)
        return bring_onto(labelled(stored, mask), grid, mask)
    _require_image_grid(case, stored, mask, grid)
    return labelled(stored, mask)


def read_stored_mask(mask: Mask) -> Volume:
    """A mask's file as it is, any dtype, on its own grid; not for RTSTRUCT."""
    return _picture(mask.path) if mask.format == "picture" else read_nifti(mask.path)


def labelled(stored: Volume, mask: Mask, counts: dict[float, int] | None = None) -> Volume:
    """A stored mask with its values checked and made those of ``mask.labels``, uint8."""
    counts = count_values(stored.data) if counts is None else counts
    check_labels(counts, mask)
    try:
        data = _values(stored, mask, counts)
    except CovidsegError as fault:
        fault.path = mask.path
        raise
    result = stored.with_data(data)
    if mask.sides == "verified" and (wrong := lungs_exchanged(result, mask.labels)):
        raise LabelError(
            wrong,
            path=mask.path,
            expected=f"value {_value(mask, 'left_lung')} on the patient's left",
            remedy="find out whether this copy exchanges the labels or the affine, and correct it",
        )
    return result


def _values(stored: Volume, mask: Mask, counts: dict[float, int]) -> NDArray[np.uint8]:
    if mask.threshold is not None:
        return (stored.data > mask.threshold).view(np.uint8)
    if mask.sides == "by_centroid":
        table = sides_by_centroid(stored, mask.labels, counts)
        result = np.zeros(stored.shape, dtype=np.uint8, order="F")
        for value, label in table.items():
            result[stored.data == value] = label
        return result
    return stored.data.astype(np.uint8, copy=False)


def bring_onto(mask: Volume, grid: Volume, source: Mask) -> Volume:
    """Labels on the grid of ``grid`` by nearest neighbour in physical space; same axes: exactly.

    Raises
    ------
    GeometryError
        More than a twentieth of the mask lies outside of the image: it is of another scan.
    """
    turned = reorient(mask, grid.orientation)
    if grids_agree(turned.shape, turned.affine, grid.shape, grid.affine) is None:
        return Volume(np.asfortranarray(turned.data), grid.affine)
    moved = resample_to_grid(mask, grid.shape, grid.affine, order=0)
    before = np.count_nonzero(mask.data) * mask.voxel_volume_mm3
    after = np.count_nonzero(moved.data) * moved.voxel_volume_mm3
    if before and after < (1 - _LOST_SHARE) * before:
        raise GeometryError(
            f"{100 * (1 - after / before):.0f} % of the mask lies outside of the image",
            path=source.path,
            expected="a mask of this scan",
            remedy="take mask and image from one download",
        )
    return moved


def rasterise_structures(
    case: Case, mask: Mask, grid: Volume, series: DicomSeries | None
) -> NDArray[np.uint8]:
    """Those structures of an RTSTRUCT that its dataset knows, on ``grid``; empty ones are skipped.

    ``series`` is the scan's, where it is DICOM.

    Raises
    ------
    LabelError
        The file has none of them, or one of them twice.
    GeometryError
        They are drawn in another frame of reference than the scan's, and not on its series.
    LayoutError
        They are another patient's by their PatientID.
    """
    if identity := dicom_identity(mask.path):
        _require_patient(case, identity.patient_id, mask.path)
    drawn_on = {
        "frame_of_reference_uid": series.frame_of_reference_uid if series else None,
        "image_series_uid": series.uid if series else None,
    }
    names = structure_names(mask.path)
    wanted = {name: value for name, value in mask.structures.items() if name in names}
    if not wanted:
        raise LabelError(
            f"has none of the structures looked for, only {', '.join(map(repr, names))}",
            path=mask.path,
            expected=", ".join(mask.structures),
        )
    # Of those that were named but never drawn the others are of use.
    drawn = structure_names(mask.path, drawn=True)
    wanted = {name: value for name, value in wanted.items() if name in drawn}
    return rasterise(mask.path, grid, wanted, **drawn_on)


def to_hu(image: Volume, intensity: Intensity) -> Volume:
    """An image in Hounsfield units: itself where stored so, converted within its window otherwise.

    Raises
    ------
    IntensityError
        The image is a picture whose grey values have no known relation to Hounsfield units.
    """
    if intensity.scale == "hu":
        return image
    if intensity.scale == "windowed" and intensity.window_hu is not None:
        return image.with_data(window_to_hu(image.data, intensity.window_hu))
    raise IntensityError(
        f"the image is on the scale {intensity.scale!r}, which has no known relation to Hounsfield"
        " units",
        expected="HU, or values windowed with a known window",
        remedy="use the values as they are, or another dataset",
    )


def _picture(path: Any) -> Volume:
    return Volume(read_picture(path)[:, :, None], PICTURE_AFFINE)


def _require_image_grid(case: Case, stored: Volume, mask: Mask, grid: Volume | None) -> None:
    if grid is not None:
        shape, affine = grid.shape, grid.affine
    elif case.image_format == "nifti":
        header = read_header(case.image)
        shape, affine = header.shape, header.affine  # type: ignore[assignment]
    else:
        image = read_image(case)
        shape, affine = image.shape, image.affine
    # A picture has no axes of its own to compare, only a size.
    own = affine if mask.format == "picture" else stored.affine
    require_same_grid(stored.shape, own, mask.path, shape, affine, case.image)


def _value(mask: Mask, label: str) -> int:
    return next(value for value, name in mask.labels.items() if name == label)
