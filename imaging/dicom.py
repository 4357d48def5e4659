"""DICOM CT series: finding them, reading one into a volume in Hounsfield units, writing one.

Slices are placed by ImagePositionPatient and ImageOrientationPatient alone; file names, instance
numbers and slice locations are not trusted. DICOM's patient axes are LPS+; volumes are RAS+.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from covidseg.core.errors import CovidsegError, GeometryError, LayoutError, UnreadableFileError
from covidseg.core.files import atomic_folder
from covidseg.imaging.casting import exact_cast
from covidseg.imaging.geometry import Affine
from covidseg.imaging.nifti import unreadable
from covidseg.imaging.volume import Volume

LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))

_SERIES_TAGS = [
    "ImageType",
    "SOPClassUID",
    "Modality",
    "SeriesDescription",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
]
# How far a slice may lie from its place on the regular grid, as a share of the slice spacing.
_UNEVEN_SHARE = 0.05
# How far the stack of slices may lean sideways from first to last, in pixels.
_LEAN_PIXELS = 0.5


@dataclass(frozen=True)
class DicomSeries:
    """One DICOM series as its headers describe it; ``files`` are sorted by path.

    ``localiser`` where ImageType calls every image one: a scout, which scans are planned on.
    """

    uid: str
    modality: str
    description: str
    files: tuple[Path, ...]
    patient_id: str
    study_uid: str
    frame_of_reference_uid: str | None = None
    localiser: bool = False

    @property
    def folder(self) -> Path:
        """The folder that holds the series' first file."""
        return self.files[0].parent


def find_series(folder: str | PathLike[str]) -> list[DicomSeries]:
    """All DICOM series below a folder, by their files' headers; other files are passed over.

    Links to folders are followed, but neither in circles nor to a folder that holds this one.
    Sorted by patient, study and series UID. A folder without DICOM gives an empty list. A file that
    is called DICOM (``.dcm``) and is none, being empty or cut short, counts to the series beside
    it, so that reading those says so: passed over, it would be a slice less, which nobody sees at
    the end of a scan.

    Raises
    ------
    UnreadableFileError
        The folder is absent, not a folder, or a file below it may not be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UnreadableFileError(what, path=folder, expected="a folder of DICOM files")
    found: dict[tuple[str, str, str], list[DicomSeries]] = {}
    damaged: dict[Path, list[Path]] = {}
    for path in _files_below(folder):
        one = _series_of(path)
        if one is not None:
            found.setdefault((one.patient_id, one.study_uid, one.uid), []).append(one)
        elif path.name.lower().endswith((".dcm", ".ima")):
            damaged.setdefault(path.parent, []).append(path)
    series = []
    for _, files in sorted(found.items()):
        paths = [one.files[0] for one in files]
        beside = [bad for parent in {p.parent for p in paths} for bad in damaged.get(parent, ())]
        series.append(
            dataclasses.replace(
                files[0],
                files=tuple(sorted([*paths, *beside])),
                # A scout that shares its scan's UID must not hide the scan.
                localiser=all(one.localiser for one in files),
            )
        )
    return series


def read_series(
    source: str | PathLike[str] | DicomSeries, *, series_uid: str | None = None
) -> Volume:
    """Read one CT series into a volume in Hounsfield units.

    ``source`` is a series or a folder, which is searched to the bottom for CT images; where it
    holds several CT series, ``series_uid`` says which. Data are (X, Y, Z) = (columns, rows, slices
    along the slice normal), rescaled slice by slice; int16 where every value is a whole number in
    its range, otherwise float32. An axial head-first scan comes out LPS.

    Raises
    ------
    LayoutError
        The folder holds no CT series, several, or not the one asked for.
    GeometryError
        A slice is missing (or slices are unevenly spaced), two lie at one place, they differ in
        size, orientation or pixel spacing, or the stack leans sideways (tilted gantry).
    UnreadableFileError
        A file is damaged, or its compression cannot be decoded here.
    """
    series = source if isinstance(source, DicomSeries) else _the_ct_series(Path(source), series_uid)
    if series_uid is not None and series.uid != series_uid:
        raise LayoutError(
            f"the series is {series.uid}", path=series.folder, expected=f"series {series_uid}"
        )
    slices = [_read_slice(path) for path in series.files]
    affine, order = _placed(slices)
    slices = [slices[index] for index in order]
    first = slices[0]
    dtype = np.dtype(np.int16 if all(one.is_int16() for one in slices) else np.float32)
    stack = np.empty((len(slices), *first.stored.shape), dtype=dtype)
    for plane, one in zip(stack, slices, strict=True):
        one.rescale_into(plane)
    return Volume(stack.transpose(2, 1, 0), affine)


def _the_ct_series(folder: Path, series_uid: str | None) -> DicomSeries:
    found = find_series(folder)
    images = [one for one in found if one.modality == "CT"]
    if series_uid is not None:
        for one in images:
            if one.uid == series_uid:
                return one
    if not images:
        others = Counter(one.modality or "unknown" for one in found)
        what = ", ".join(f"{count} {name}" for name, count in others.items())
        raise LayoutError(
            f"holds no CT series{f' (but {what})' if what else ', and no DICOM file at all'}",
            path=folder,
            remedy="name the folder that holds the CT's .dcm files",
        )
    listed = "; ".join(
        f"{one.uid} ({len(one.files)} files{', ' * bool(one.description)}{one.description})"
        for one in images
    )
    if series_uid is not None:
        raise LayoutError(f"holds no CT series {series_uid}, only {listed}", path=folder)
    if len(images) > 1:
        raise LayoutError(
            f"holds {len(images)} CT series: {listed}",
            path=folder,
            expected="one CT series",
            remedy="name the folder of the series that is meant, or give its series_uid",
        )
    return images[0]


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(fault: OSError) -> None:
        raise unreadable(Path(fault.filename or folder), fault) from fault

    # A link to where the folder lies itself leads to other scans, and in circles.
    real = Path(os.path.realpath(folder))
    seen = {_identity(above) for above in real.parents}
    # Links last: a folder that is there under its own name as well is known by that one.
    tops = [folder]
    for top in tops:
        for parent, folders, names in os.walk(top, onerror=refuse):
            if (identity := _identity(Path(parent))) in seen:
                folders.clear()
                continue
            seen.add(identity)
            folders.sort()
            tops += [path for name in folders if (path := Path(parent, name)).is_symlink()]
            for name in sorted(names):
                if not name.startswith("."):
                    yield Path(parent, name)


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Make pydicom's and the system's faults the project's own; keep its warnings to ourselves."""
    try:
        with warnings.catch_warnings():
            # Anonymised files break DICOM's small rules everywhere; what matters is checked here.
            warnings.simplefilter("ignore")
            yield
    except (CovidsegError, InvalidDicomError):
        raise
    except OSError as fault:
        if fault.errno is not None:
            raise unreadable(path, fault) from fault
        raise _damaged(path, fault) from fault
    except Exception as fault:
        # On damaged bytes pydicom raises nearly anything; all of it means the same here.
        raise _damaged(path, fault) from fault


def _damaged(path: Path, fault: Exception) -> UnreadableFileError:
    return UnreadableFileError(
        f"is cut short or damaged DICOM ({fault or type(fault).__name__})",
        path=path,
        remedy="download it again",
    )


def _series_of(path: Path) -> DicomSeries | None:
    """The series that one file belongs to; None where it is no DICOM or belongs to none."""
    try:
        with parsing(path), open(path, "rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
            file.seek(0)
            head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_SERIES_TAGS)
            if not head.get("SeriesInstanceUID"):
                return None
            return DicomSeries(
                uid=str(head.SeriesInstanceUID),
                modality=str(head.get("Modality") or ""),
                description=str(head.get("SeriesDescription") or ""),
                files=(path,),
                patient_id=str(head.get("PatientID") or ""),
                study_uid=str(head.get("StudyInstanceUID") or ""),
                frame_of_reference_uid=str(head.get("FrameOfReferenceUID") or "") or None,
                localiser=_is_localiser(head),
            )
    except InvalidDicomError:
        return None


def _is_localiser(head: Dataset) -> bool:
    values = head.get("ImageType") or ()
    values = [values] if isinstance(values, str) else values
    return any(str(value).strip() == "LOCALIZER" for value in values)


@dataclass(frozen=True, eq=False)
class _Slice:
    path: Path
    stored: NDArray[Any]
    slope: float
    intercept: float
    position: NDArray[np.float64]
    row_direction: NDArray[np.float64]
    column_direction: NDArray[np.float64]
    pixel_spacing: tuple[float, float]
    thickness: float | None

    def is_int16(self) -> bool:
        if not (self.slope.is_integer() and self.intercept.is_integer()):
            return False
        ends = [
            int(v) * self.slope + self.intercept for v in (self.stored.min(), self.stored.max())
        ]
        return min(ends) >= -32768 and max(ends) <= 32767

    def rescale_into(self, plane: NDArray[Any]) -> None:
        if plane.dtype == np.int16:
            # In int32, because stored uint16 values may lie beyond int16 before they are shifted.
            plane[...] = self.stored.astype(np.int32) * int(self.slope) + int(self.intercept)
        else:
            plane[...] = self.stored.astype(np.float64) * self.slope + self.intercept


def _read_slice(path: Path) -> _Slice:
    try:
        with parsing(path):
            image = pydicom.dcmread(path)
            missing = [
                name
                for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
                if not image.get(name)
            ]
            frames = int(image.get("NumberOfFrames") or 1)
            if frames > 1:
                raise UnreadableFileError(
                    f"holds {frames} frames in one file (enhanced CT)",
                    path=path,
                    expected="one slice a file",
                    remedy="convert it to NIfTI with dcm2niix",
                )
            if missing:
                raise GeometryError(
                    f"has no {' and no '.join(missing)}",
                    path=path,
                    remedy="leave the file out if it is no axial slice (a scout, a dose report)",
                )
            stored = _pixels(image, path)
            slope, intercept = image.get("RescaleSlope"), image.get("RescaleIntercept")
            if slope is None or intercept is None:
                raise UnreadableFileError(
                    "has no RescaleSlope and RescaleIntercept, so its values are not known to be "
                    "Hounsfield units",
                    path=path,
                    remedy="take the original series, not a secondary capture",
                )
            directions = np.array(image.ImageOrientationPatient, dtype=np.float64)
            thickness = image.get("SpacingBetweenSlices") or image.get("SliceThickness")
            found = _Slice(
                path=path,
                stored=stored,
                slope=float(slope),
                intercept=float(intercept),
                position=np.array(image.ImagePositionPatient, dtype=np.float64),
                row_direction=directions[:3],
                column_direction=directions[3:],
                pixel_spacing=(float(image.PixelSpacing[0]), float(image.PixelSpacing[1])),
                thickness=float(thickness) if thickness else None,
            )
            _require_possible(found)
            return found
    except InvalidDicomError as fault:
        raise UnreadableFileError("is not DICOM", path=path, remedy="download it again") from fault


def _require_possible(one: _Slice) -> None:
    numbers = (*one.position, *one.row_direction, *one.column_direction, *one.pixel_spacing)
    unit = [np.linalg.norm(d) for d in (one.row_direction, one.column_direction)]
    if (
        one.position.shape != (3,)
        or one.column_direction.shape != (3,)
        or not all(map(math.isfinite, (*numbers, one.slope, one.intercept)))
        or min(one.pixel_spacing) <= 0
        or not np.allclose(unit, 1, atol=1e-3)
        or abs(one.row_direction @ one.column_direction) > 1e-3
    ):
        raise GeometryError(
            "has an impossible position, orientation, pixel spacing or rescale",
            path=one.path,
            remedy="download it again",
        )


def _pixels(image: Dataset, path: Path) -> NDArray[Any]:
    """(rows, columns) stored values, before the rescale."""
    rows, columns = int(image.Rows), int(image.Columns)
    if int(image.get("SamplesPerPixel", 1)) != 1 or rows < 1 or columns < 1:
        raise UnreadableFileError(
            "is not a grey image", path=path, expected="CT with one sample a pixel"
        )
    syntax = image.file_meta.TransferSyntaxUID
    if not syntax.is_compressed and "PixelData" not in image:
        raise UnreadableFileError("has no pixels", path=path, remedy="download it again")
    if syntax.is_encapsulated:
        try:
            return np.asarray(image.pixel_array).reshape(rows, columns)
        except Exception as fault:
            raise UnreadableFileError(
                f"is compressed as {syntax.name}, which cannot be decoded ({fault})",
                path=path,
                remedy="decompress it with dcmdjpeg, gdcmconv --raw, or install pylibjpeg[all]",
            ) from fault
    # pydicom's own decoder gives the same (a test compares them) at several times the cost.
    allocated, signed = int(image.BitsAllocated), int(image.PixelRepresentation) == 1
    if allocated not in (8, 16, 32):
        raise UnreadableFileError(f"has {allocated} bits a pixel", path=path, expected="8, 16, 32")
    order = "<" if syntax.is_little_endian else ">"
    dtype = np.dtype(f"{order}{'i' if signed else 'u'}{allocated // 8}")
    data: bytes = image.PixelData
    if len(data) < rows * columns * dtype.itemsize:
        raise UnreadableFileError(
            f"holds {len(data)} bytes of pixels",
            path=path,
            expected=f"{rows * columns * dtype.itemsize} for {rows} rows and {columns} columns",
            remedy="download it again",
        )
    stored = np.frombuffer(data, dtype, rows * columns).reshape(rows, columns)
    used = int(image.get("BitsStored", allocated))
    if 0 < used < allocated:
        # Bits above those stored may hold the sign, nothing, or old overlays.
        stored = stored.astype(dtype.newbyteorder("="))
        stored = (stored << (allocated - used)) >> (allocated - used)
    return stored


def _placed(slices: Sequence[_Slice]) -> tuple[Affine, list[int]]:
    """The affine of the stack and the slices' order along their normal."""
    first = slices[0]
    for one in slices[1:]:
        _require_alike(first, one)
    normal = np.cross(first.row_direction, first.column_direction)
    normal /= np.linalg.norm(normal)
    depth = np.array([one.position @ normal for one in slices])
    order = [int(index) for index in np.argsort(depth, kind="stable")]
    if len(slices) == 1:
        if first.thickness is None or not first.thickness > 0:
            raise GeometryError(
                "is a series of one slice that does not say how thick it is", path=first.path
            )
        step = normal * first.thickness
    else:
        _require_even([slices[index] for index in order], depth[order])
        step = _step([slices[index] for index in order], normal)
    in_lps = np.eye(4)
    in_lps[:3, 0] = first.row_direction * first.pixel_spacing[1]
    in_lps[:3, 1] = first.column_direction * first.pixel_spacing[0]
    in_lps[:3, 2] = step
    in_lps[:3, 3] = slices[order[0]].position
    return LPS_TO_RAS @ in_lps, order


def _require_alike(first: _Slice, one: _Slice) -> None:
    found = expected = ""
    if one.stored.shape != first.stored.shape:
        found, expected = f"{one.stored.shape} rows and columns", f"{first.stored.shape}"
    elif not np.allclose(
        (*one.row_direction, *one.column_direction),
        (*first.row_direction, *first.column_direction),
        atol=1e-4,
    ):
        found = f"orientation {_numbers((*one.row_direction, *one.column_direction))}"
        expected = _numbers((*first.row_direction, *first.column_direction))
    elif not np.allclose(one.pixel_spacing, first.pixel_spacing, rtol=1e-4, atol=0):
        found = f"pixel spacing {_numbers(one.pixel_spacing)} mm"
        expected = f"{_numbers(first.pixel_spacing)} mm"
    if found:
        raise GeometryError(
            f"has {found}",
            path=one.path,
            expected=f"{expected} as in {first.path.name} of the same series",
            remedy="leave out what is no axial slice of this scan (scouts, reformats)",
        )


def _require_even(slices: Sequence[_Slice], depth: NDArray[np.float64]) -> None:
    """Raise `GeometryError` unless slices, in order of ``depth`` in mm, are evenly spaced."""
    steps = np.diff(depth)
    usual = float(np.median(steps))
    close = np.flatnonzero(steps <= max(0.01 * usual, 1e-4))
    if close.size:
        one, other = slices[close[0]], slices[close[0] + 1]
        raise GeometryError(
            f"lies at the same place as {other.path.name}, {depth[close[0]]:g} mm along the normal",
            path=one.path,
            expected="one file a slice",
            remedy="remove the duplicate, or the second acquisition, from the folder",
        )
    wide = np.flatnonzero(steps > 1.5 * usual)
    if wide.size:
        after = int(wide[0])
        lost = round(float((steps[wide] / usual - 1).sum()))
        raise GeometryError(
            f"{max(lost, 1)} slice(s) missing after this one: the next, "
            f"{slices[after + 1].path.name}, lies {steps[after]:g} mm on, from {depth[after]:g} to "
            f"{depth[after + 1]:g} mm",
            path=slices[after].path,
            expected=f"{usual:g} mm",
            remedy="download the series again",
        )
    regular = np.linspace(depth[0], depth[-1], len(depth))
    astray = np.abs(depth - regular)
    if astray.max() > _UNEVEN_SHARE * usual:
        worst = int(astray.argmax())
        raise GeometryError(
            f"lies {astray[worst]:g} mm off an even spacing; steps go from {steps.min():g} to "
            f"{steps.max():g} mm",
            path=slices[worst].path,
            expected="evenly spaced slices",
            remedy="resample the scan to even spacing first, for example with dcm2niix",
        )


def _step(slices: Sequence[_Slice], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """From one slice's first pixel to the next one's, in mm; refuses a stack that leans."""
    positions = np.array([one.position for one in slices])
    whole = positions[-1] - positions[0]
    pixel = min(slices[0].pixel_spacing)
    upright = normal * (whole @ normal)
    lean = float(np.linalg.norm(whole - upright))
    if lean > _LEAN_PIXELS * pixel:
        angle = math.degrees(math.atan2(lean, float(np.linalg.norm(upright))))
        raise GeometryError(
            f"the slices lean sideways by {angle:.2f} degrees ({lean:.3g} mm from first to last): "
            "a tilted gantry",
            path=slices[0].path,
            expected="slices stacked along their normal",
            remedy="convert the series with dcm2niix, which straightens it, and use that",
        )
    ways = positions - positions[0]
    aside = np.linalg.norm(ways - np.outer(ways @ normal, normal), axis=1)
    if aside.max() > _LEAN_PIXELS * pixel:
        worst = int(aside.argmax())
        raise GeometryError(
            f"lies {aside[worst]:.3g} mm aside of the stack's first slice",
            path=slices[worst].path,
            remedy="leave it out if it is of another acquisition",
        )
    return upright / (len(slices) - 1)


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def write_series(
    folder: str | PathLike[str],
    volume_hu: Volume,
    *,
    patient_id: str,
    study_uid: str,
    series_uid: str,
    frame_of_reference_uid: str,
    description: str = "",
    manufacturer: str = "",
    convolution_kernel: str = "",
    replace: bool = False,
) -> list[Path]:
    """Write whole Hounsfield units as an uncompressed CT series, ``1-001.dcm`` onwards.

    The folder is made new and appears whole or not at all; the same input gives the same bytes.
    File 1 is the slice farthest along the normal (the top one of an LPS volume), as scanners that
    scan from the head down number them. UIDs are the caller's; that of slice n is
    ``f"{series_uid}.{n}"``. Returns the files in their order.

    Raises
    ------
    IntensityError
        A value is not a whole number within int16.
    GeometryError
        The grid is sheared, which a CT series cannot say.
    StorageError
        The folder exists and ``replace`` is false, or cannot be written.
    """
    folder = Path(folder)
    data = exact_cast(volume_hu.data, np.int16)
    in_lps = LPS_TO_RAS @ volume_hu.affine
    spacing = np.linalg.norm(in_lps[:3, :3], axis=0)
    directions = in_lps[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4:
        raise GeometryError("the grid is sheared", path=folder, expected="orthogonal axes")
    normal = np.cross(directions[:, 0], directions[:, 1])
    from_top = range(data.shape[2] - 1, -1, -1)
    if normal @ directions[:, 2] < 0:
        from_top = range(data.shape[2])

    image = _template(
        columns=data.shape[0],
        rows=data.shape[1],
        patient_id=patient_id,
        study_uid=study_uid,
        series_uid=series_uid,
        frame_of_reference_uid=frame_of_reference_uid,
    )
    image.SeriesDescription = description
    image.Manufacturer = manufacturer
    image.ConvolutionKernel = convolution_kernel
    image.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    image.SliceThickness = _decimal(spacing[2])
    image.ImageOrientationPatient = [_decimal(v) for v in directions[:, :2].T.ravel()]
    names = []
    with atomic_folder(folder, replace=replace) as temporary:
        for number, z in enumerate(from_top, start=1):
            position = in_lps[:3, 3] + z * in_lps[:3, 2]
            image.file_meta.MediaStorageSOPInstanceUID = UID(f"{series_uid}.{number}")
            image.SOPInstanceUID = UID(f"{series_uid}.{number}")
            image.InstanceNumber = number
            image.ImagePositionPatient = [_decimal(v) for v in position]
            image.SliceLocation = _decimal(float(position @ normal))
            image.PixelData = data[:, :, z].T.astype("<i2").tobytes()
            names.append(f"1-{number:03d}.dcm")
            image.save_as(temporary / names[-1], enforce_file_format=True)
    return [folder / name for name in names]


def _decimal(value: float) -> str:
    return format_number_as_ds(float(value) + 0.0)


def _template(
    *,
    columns: int,
    rows: int,
    patient_id: str,
    study_uid: str,
    series_uid: str,
    frame_of_reference_uid: str,
) -> Dataset:
    """A CT image without what differs from slice to slice."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = Dataset()
    image.file_meta = meta
    image.SpecificCharacterSet = "ISO_IR 192"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SOPClassUID = CTImageStorage
    image.StudyDate = image.StudyTime = image.AccessionNumber = image.ReferringPhysicianName = ""
    image.Modality = "CT"
    image.PatientName = image.PatientID = patient_id
    image.PatientBirthDate = image.PatientSex = image.StudyID = ""
    image.KVP = "120"
    image.PatientPosition = "HFS"
    image.StudyInstanceUID = study_uid
    image.SeriesInstanceUID = series_uid
    image.SeriesNumber = 1
    image.AcquisitionNumber = 1
    image.FrameOfReferenceUID = frame_of_reference_uid
    image.PositionReferenceIndicator = ""
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = rows, columns
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 1
    image.RescaleIntercept = "0"
    image.RescaleSlope = "1"
    image.RescaleType = "HU"
    return image
