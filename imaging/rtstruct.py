"""DICOM RTSTRUCT: contours of structures, brought onto a volume's grid as a label map, and back.

A contour is a closed polygon in patient millimetres that lies in one slice. A voxel belongs to a
structure where its centre lies inside an odd number of the structure's contours in that slice, so a
contour within another cuts a hole, and a keyhole (outer and inner line joined by a cut that runs
both ways) does too: the two ways of the cut cancel out. A contour that is there again, perhaps from
another point on or with fewer digits, counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import format_number_as_ds

from covidseg.core.errors import ConfigError, GeometryError, LabelError, UnreadableFileError
from covidseg.core.files import atomic_file
from covidseg.imaging.dicom import LPS_TO_RAS, parsing
from covidseg.imaging.volume import Volume

# How far the points of two copies of one contour may lie apart, where one was written with fewer
# digits. No structure is so thin.
_COPY_TOLERANCE_MM = 0.02
# How far a contour may lie from the middle of its slice, as a share of the slice spacing.
_OFF_SLICE_SHARE = 0.25


def structure_names(path: str | PathLike[str], *, drawn: bool = False) -> list[str]:
    """Names of the structures of an RTSTRUCT file, in its order; of those ``drawn`` alone where
    asked for: a structure may be named and have no closed contour.

    Raises
    ------
    UnreadableFileError
        The file is absent, not permitted, damaged, or no RTSTRUCT.
    """
    path = Path(path)
    plan = _read(path)
    with parsing(path):
        return [
            str(item.ROIName)
            for item in plan.StructureSetROISequence
            if not drawn or _is_drawn(plan, item)
        ]


def rasterise(
    path: str | PathLike[str],
    grid: Volume,
    structures: Mapping[str, int],
    *,
    frame_of_reference_uid: str | None = None,
    image_series_uid: str | None = None,
) -> NDArray[np.uint8]:
    """Label map of an RTSTRUCT's structures on ``grid``, (X, Y, Z) uint8.

    ``structures`` gives the value of each structure wanted; where they overlap, the one later in
    the mapping wins. ``frame_of_reference_uid`` and ``image_series_uid`` are the image's
    (`DicomSeries` has both); given the former, the structures must be drawn in the same one where
    the file states it, or the file must name the latter as the series it is drawn on.

    Raises
    ------
    LabelError
        A structure is absent (the message lists those there are), there twice, or has no closed
        contour.
    GeometryError
        The frame of reference is another, or contours do not lie on the grid's slices.
    UnreadableFileError
        The file is absent, not permitted, damaged, or no RTSTRUCT.
    """
    path = Path(path)
    for name, value in structures.items():
        if not 0 <= value <= 255:
            raise ConfigError(f"structure {name!r} is given the value {value}", expected="0 to 255")
    plan = _read(path)
    if image_series_uid and image_series_uid in _referenced_series(plan, path):
        frame_of_reference_uid = None  # an anonymiser may change one UID and not the other
    labels = np.zeros(grid.shape, dtype=np.uint8, order="F")
    to_voxel = np.linalg.inv(grid.affine) @ LPS_TO_RAS
    with parsing(path):
        items: dict[str, list[Dataset]] = {}
        for item in plan.StructureSetROISequence:
            items.setdefault(str(item.ROIName), []).append(item)
        for name, value in structures.items():
            if name not in items:
                raise LabelError(
                    f"has no structure {name!r}, only {', '.join(map(repr, items))}",
                    path=path,
                    remedy="name one of those",
                )
            # One that was begun and left empty beside it is no second one.
            drawn = [i for i in items[name] if _is_drawn(plan, i)]
            if len(drawn) > 1:
                raise LabelError(
                    f"has {len(drawn)} structures called {name!r}, of which one cannot be chosen",
                    path=path,
                    remedy="remove or rename all but one of them",
                )
            item = (drawn or items[name])[0]
            drawn_in = str(item.get("ReferencedFrameOfReferenceUID") or "")
            if frame_of_reference_uid and drawn_in and drawn_in != frame_of_reference_uid:
                raise GeometryError(
                    f"structure {name!r} is drawn in the frame of reference {drawn_in}",
                    path=path,
                    expected=f"{frame_of_reference_uid}, the image's",
                    remedy="take the RTSTRUCT that belongs to this scan",
                )
            by_slice = _by_slice(_contours(plan, int(item.ROINumber)), to_voxel, grid, name, path)
            if not by_slice:
                raise LabelError(f"structure {name!r} has no closed contour", path=path)
            for z, polygons in by_slice.items():
                inside = fill_polygons(polygons, grid.shape[:2])
                labels[:, :, z][inside] = value
    return labels


def fill_polygons(polygons: list[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (x, y) whose centres lie inside an odd number of polygons, (X, Y) bool.

    Polygons are (N, 2) arrays of x, y in pixels, pixel centres at whole numbers, closed from the
    last point to the first. A centre on a left or lower edge counts as inside, one on a right or
    upper edge as outside, so polygons that share an edge share no pixel.
    """
    starts = np.concatenate(polygons)
    ends = np.concatenate([np.roll(points, -1, axis=0) for points in polygons])
    x0, y0, x1, y1 = starts[:, 0], starts[:, 1], ends[:, 0], ends[:, 1]
    # The rows whose centres an edge crosses: y in [low, high) at whole numbers.
    low = np.ceil(np.minimum(y0, y1)).clip(0, shape[1]).astype(np.intp)
    high = np.ceil(np.maximum(y0, y1)).clip(0, shape[1]).astype(np.intp)
    count = high - low
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + low[edge]
    slope = np.divide(x1 - x0, y1 - y0, out=np.zeros_like(x0), where=y1 != y0)
    crossing = x0[edge] + (row - y0[edge]) * slope[edge]
    column = np.ceil(crossing).clip(0, shape[0]).astype(np.intp)
    # A centre is inside where an odd number of edges lie to its left.
    crossed = np.bincount(column * shape[1] + row, minlength=(shape[0] + 1) * shape[1])
    parity = np.cumsum(crossed.reshape(shape[0] + 1, shape[1])[:-1], axis=0) & 1
    return parity.astype(bool)


def _read(path: Path) -> Dataset:
    try:
        with parsing(path):
            plan = pydicom.dcmread(path)
            if plan.get("Modality") != "RTSTRUCT" or "StructureSetROISequence" not in plan:
                raise UnreadableFileError(
                    f"is DICOM of modality {plan.get('Modality')}", path=path, expected="RTSTRUCT"
                )
            return plan
    except InvalidDicomError as fault:
        raise UnreadableFileError("is not DICOM", path=path, expected="RTSTRUCT") from fault


def _referenced_series(plan: Dataset, path: Path) -> set[str]:
    """UIDs of the series that the structures say they are drawn on."""
    with parsing(path):
        return {
            str(series.get("SeriesInstanceUID"))
            for frame in plan.get("ReferencedFrameOfReferenceSequence") or ()
            for study in frame.get("RTReferencedStudySequence") or ()
            for series in study.get("RTReferencedSeriesSequence") or ()
        }


def _is_drawn(plan: Dataset, structure: Dataset) -> bool:
    return any(True for _ in _contours(plan, int(structure.ROINumber)))


def _contours(plan: Dataset, number: int) -> Iterator[NDArray[np.float64]]:
    """The closed contours of one structure as (N, 3) points in mm, LPS+."""
    for item in plan.get("ROIContourSequence") or ():
        if int(item.ReferencedROINumber) != number:
            continue
        for contour in item.get("ContourSequence") or ():
            if str(contour.get("ContourGeometricType")) not in (
                "CLOSED_PLANAR",
                "CLOSEDPLANAR_XOR",
            ):
                continue
            # The text as it is in the file: making pydicom's number objects takes most of the time.
            raw = contour.get_item("ContourData").value
            if isinstance(raw, bytes):
                values = np.array(raw.split(b"\\"), dtype=np.float64)
            else:
                values = np.array(raw, dtype=np.float64)
            yield values.reshape(-1, 3)


def _by_slice(
    contours: Iterator[NDArray[np.float64]],
    to_voxel: NDArray[np.floating],
    grid: Volume,
    name: str,
    path: Path,
) -> dict[int, list[NDArray[np.float64]]]:
    """Contours as polygons in pixels, gathered by slice; copies of one contour are dropped."""
    found: dict[int, list[NDArray[np.float64]]] = {}
    seen: dict[int, list[NDArray[np.float64]]] = {}
    for points in contours:
        if not np.isfinite(points).all():
            raise GeometryError(f"structure {name!r} has points that are not finite", path=path)
        voxels = nib.affines.apply_affine(to_voxel, points)
        z = round(float(voxels[:, 2].mean()))
        off = np.abs(voxels[:, 2] - z).max()
        if off > _OFF_SLICE_SHARE or not 0 <= z < grid.shape[2]:
            where = ", ".join(f"{value:g}" for value in points[0])
            raise GeometryError(
                f"structure {name!r} has a contour at ({where}) mm that lies on none of the "
                f"image's {grid.shape[2]} slices (slice coordinate {voxels[:, 2].mean():.2f})",
                path=path,
                expected="contours drawn on the image's own slices",
                remedy="take the RTSTRUCT that belongs to this scan, and the whole scan",
            )
        if any(_same_contour(points, other) for other in seen.get(z, ())):
            continue
        seen.setdefault(z, []).append(points)
        found.setdefault(z, []).append(voxels[:, :2])
    return found


def _same_contour(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether two contours are one, wherever they start and whichever way they run."""
    a, b = _without_closing_point(a), _without_closing_point(b)
    # Extents first: of hundreds of contours in a slice next to none are alike in these.
    if a.shape != b.shape or any(
        np.abs(extent(a, axis=0) - extent(b, axis=0)).max() > _COPY_TOLERANCE_MM
        for extent in (np.min, np.max)
    ):
        return False
    for way in (b, b[::-1]):
        for start in np.flatnonzero(np.abs(way - a[0]).max(axis=1) <= _COPY_TOLERANCE_MM):
            if np.abs(np.roll(way, -start, axis=0) - a).max() <= _COPY_TOLERANCE_MM:
                return True
    return False


def _without_closing_point(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without a last point that repeats the first, which some programs write."""
    return points[:-1] if len(points) > 1 and np.array_equal(points[0], points[-1]) else points


def write_rtstruct(
    path: str | PathLike[str],
    labels: Volume,
    structures: Mapping[str, int],
    *,
    patient_id: str,
    study_uid: str,
    series_uid: str,
    sop_instance_uid: str,
    image_series_uid: str,
    frame_of_reference_uid: str,
) -> None:
    """Write a label map's structures as an RTSTRUCT, whole or not at all.

    Contours run along the borders of pixels, slice by slice, so that `rasterise` on the same grid
    gives the label map back exactly. Structures that are empty are written without contours.
    """
    plan = Dataset()
    plan.file_meta = FileMetaDataset()
    plan.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    plan.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    plan.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plan.SpecificCharacterSet = "ISO_IR 192"
    plan.SOPClassUID = RTStructureSetStorage
    plan.SOPInstanceUID = sop_instance_uid
    plan.StudyDate = plan.StudyTime = plan.AccessionNumber = plan.ReferringPhysicianName = ""
    plan.Modality = "RTSTRUCT"
    plan.Manufacturer = ""
    plan.PatientName = plan.PatientID = patient_id
    plan.PatientBirthDate = plan.PatientSex = plan.StudyID = ""
    plan.StudyInstanceUID = study_uid
    plan.SeriesInstanceUID = series_uid
    plan.SeriesNumber = 2
    plan.StructureSetLabel = "RTstruct"
    plan.StructureSetDate = plan.StructureSetTime = ""

    image_series, study, frame = Dataset(), Dataset(), Dataset()
    image_series.SeriesInstanceUID = image_series_uid
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = study_uid
    study.RTReferencedSeriesSequence = [image_series]
    frame.FrameOfReferenceUID = frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    plan.ReferencedFrameOfReferenceSequence = [frame]

    to_mm = LPS_TO_RAS @ labels.affine
    plan.StructureSetROISequence, plan.ROIContourSequence, plan.RTROIObservationsSequence = (
        [],
        [],
        [],
    )
    for number, (name, value) in enumerate(structures.items(), start=1):
        entry, drawing, observation = Dataset(), Dataset(), Dataset()
        entry.ROINumber = drawing.ReferencedROINumber = number
        entry.ReferencedFrameOfReferenceUID = frame_of_reference_uid
        entry.ROIName = name
        entry.ROIGenerationAlgorithm = "AUTOMATIC"
        drawing.ContourSequence = list(_drawn(labels.data == value, to_mm))
        observation.ObservationNumber = observation.ReferencedROINumber = number
        observation.RTROIInterpretedType = observation.ROIInterpreter = ""
        plan.StructureSetROISequence.append(entry)
        plan.ROIContourSequence.append(drawing)
        plan.RTROIObservationsSequence.append(observation)
    with atomic_file(path) as temporary:
        plan.save_as(temporary, enforce_file_format=True)


def _drawn(mask: NDArray[np.bool_], to_mm: NDArray[np.float64]) -> Iterator[Dataset]:
    for z in np.flatnonzero(mask.any(axis=(0, 1))):
        for polygon in trace_borders(mask[:, :, z]):
            points = np.column_stack([polygon, np.full(len(polygon), float(z))])
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(polygon)
            contour.ContourData = [
                format_number_as_ds(float(value))
                for value in np.round(nib.affines.apply_affine(to_mm, points), 6).ravel()
            ]
            yield contour


def trace_borders(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Closed polygons (N, 2) in pixels along the borders of a 2D mask's pixels, corners only.

    Filled by the odd-even rule they give the mask back: holes are polygons of their own.
    """
    padded = np.pad(mask, 1)
    # Each border edge goes from corner to corner with the mask on its left, which makes loops.
    steps = {
        (1, 0): padded[1:-1, 1:-1] & ~padded[1:-1, :-2],
        (0, 1): padded[1:-1, 1:-1] & ~padded[2:, 1:-1],
        (-1, 0): padded[1:-1, 1:-1] & ~padded[1:-1, 2:],
        (0, -1): padded[1:-1, 1:-1] & ~padded[:-2, 1:-1],
    }
    begins = {(1, 0): (0, 0), (0, 1): (1, 0), (-1, 0): (1, 1), (0, -1): (0, 1)}
    leaving: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for step, edges in steps.items():
        for x, y in np.argwhere(edges) + begins[step]:
            leaving.setdefault((int(x), int(y)), []).append(step)
    polygons = []
    while leaving:
        corner = start = next(iter(leaving))
        before: tuple[int, int] | None = None
        points = []
        while corner in leaving:
            options = leaving[corner]
            step = options.pop()
            if not options:
                del leaving[corner]
            if step != before:
                points.append(corner)
            corner, before = (corner[0] + step[0], corner[1] + step[1]), step
        assert corner == start
        polygons.append(np.array(points, dtype=np.float64) - 0.5)
    return polygons
