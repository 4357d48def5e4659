"""Segmenting files: what may be given, what is read of it, where the result is written."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from covidseg.core.errors import ConfigError, GeometryError, IntensityError, LayoutError
from covidseg.core.files import atomic_file, storage_error
from covidseg.core.progress import tell
from covidseg.imaging.dicom import DicomSeries, find_series, read_series
from covidseg.imaging.intensity import find_nonfinite, guess_scale
from covidseg.imaging.nifti import read_header, read_nifti, write_nifti
from covidseg.imaging.picture import read_picture
from covidseg.imaging.volume import Volume
from covidseg.inference.ensemble import Ensemble
from covidseg.inference.predictor import Predictor
from covidseg.registry.cases import HU, Intensity
from covidseg.registry.read import PICTURE_AFFINE

# The window that COVID-19-CT-Seg's Radiopaedia scans, and what is modelled on them, are stored in.
BENCHMARK_WINDOW = Intensity("windowed", (-1250.0, 250.0))
PICTURE = Intensity("picture")
_NIFTI = (".nii.gz", ".nii")
_PICTURES = (".png", ".jpg", ".jpeg")
# What torch says, as a RuntimeError of no kind of its own, where the CPU's memory is not enough.
_CPU_MEMORY = "DefaultCPUAllocator"

Scale = Literal["auto", "hu", "windowed"]


@dataclass(frozen=True)
class Input:
    """One scan that is to be segmented, and the name its result gets."""

    name: str
    source: Path | DicomSeries
    kind: Literal["nifti", "dicom", "picture"]

    @property
    def ending(self) -> str:
        """Ending of the result's file."""
        return ".png" if self.kind == "picture" else ".nii.gz"

    @property
    def result(self) -> str:
        """Name of the result's file."""
        return f"{self.name}{self.ending}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it is read from."""
        return (self.source,) if isinstance(self.source, Path) else self.source.files


def find_inputs(paths: Sequence[str | Path]) -> list[Input]:
    """Scans among files and folders: NIfTI files, pictures, and DICOM CT series.

    A folder stands for all NIfTI files and pictures directly in it, or, where it has none, for the
    CT series in it and below, without localisers (scouts), which are told of, as are links to
    files that are not there.

    Raises
    ------
    LayoutError
        A path does not exist or holds nothing of these, or two results would have one file name.
    """
    found: list[Input] = []
    for path in map(Path, paths):
        if not path.exists():
            raise LayoutError("does not exist", path=path)
        found += list(_in_folder(path)) if path.is_dir() else [_of_file(path)]
    results: dict[str, Input] = {}
    for one in found:
        if one.result in results:
            raise LayoutError(
                f"two inputs would both be written as {one.result}",
                path=_place(one),
                expected=f"another name than that of {_place(results[one.result])}",
                remedy="predict them into folders of their own",
            )
        results[one.result] = one
    return found


def refuse_sources(inputs: Sequence[Input], folder: Path) -> None:
    """Raise ConfigError where results in ``folder`` would mix with the inputs.

    That is where one would have the place of an input, also by another name of the same file, such
    as a link's; and where ``folder``, given as an input, stands for scans of ``inputs``: the label
    maps would be taken for scans the next time, in place of a DICOM series or beside the others.
    """
    sources = {_identity(path) for one in inputs for path in one.files}
    for one in inputs:
        target = folder / one.result
        if os.path.exists(target) and _identity(target) in sources:
            raise ConfigError(
                "is a scan that is to be segmented, and a result would be written there",
                path=target,
                remedy="give another folder with --out",
            )
    real = Path(os.path.realpath(folder))
    for one in inputs:
        above = [Path(os.path.realpath(path.parent)) for path in one.files]
        if one.kind == "dicom":
            above += [further for parent in set(above) for further in parent.parents]
        if real in above:
            raise ConfigError(
                f"holds scans that are to be segmented, such as {_place(one)}; label maps there"
                " would be taken for scans",
                path=folder,
                remedy="give a folder of their own with --out, such as "
                f"{Path(folder, 'predictions')}",
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def require_writable(folder: Path) -> None:
    """Make the folder and try to write there: StorageError now, not after a scan is segmented."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as fault:
        raise storage_error(fault, folder) from fault


def _place(one: Input) -> Path:
    return one.source if isinstance(one.source, Path) else one.source.folder


# A data set's own annotations beside its scans: COVID-19-20's _seg, StructSeg's label.nii.gz.
_ANNOTATION = re.compile(r"(^|[_-])(seg|mask|label|gt)$", re.IGNORECASE)


def _of_file(path: Path) -> Input:
    lower = path.name.lower()
    for ending in _NIFTI:
        if lower.endswith(ending):
            return Input(path.name[: -len(ending)], path, "nifti")
    if lower.endswith(_PICTURES):
        return Input(path.stem, path, "picture")
    raise LayoutError(
        "is no scan",
        path=path,
        expected="NIfTI (.nii, .nii.gz), a slice picture (.png, .jpg), or a folder",
        remedy="for DICOM give the folder of the series",
    )


def _in_folder(folder: Path) -> Iterator[Input]:
    named = [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name.lower().endswith((*_NIFTI, *_PICTURES))
    ]
    for path in named:
        # As git-annex and DataLad leave what has not been fetched.
        if path.is_symlink() and not path.exists():
            tell(f"{path}: is a link to a file that is not there: left out.")
    files = [_of_file(path) for path in named if path.is_file()]
    scans = [one for one in files if not _ANNOTATION.search(one.name)]
    if files and not scans:
        raise LayoutError(
            f"holds annotations alone, such as {_place(files[0]).name}",
            path=folder,
            remedy="give the folder of the scans; files named one by one are taken as scans",
        )
    if scans:
        yield from scans
        return
    yield from _series_in(folder)


def _series_in(folder: Path) -> Iterator[Input]:
    found = [one for one in find_series(folder) if one.modality == "CT"]
    series = [one for one in found if not one.localiser]
    if found and not series:
        raise LayoutError(
            "holds localisers (scouts) alone",
            path=folder,
            expected="a CT series of axial slices",
            remedy="give the folder of the scan that was planned on them",
        )
    if not series:
        raise LayoutError(
            "holds no scan",
            path=folder,
            expected="NIfTI files or slice pictures in it, or a CT series in it or below",
            remedy="name the folders that hold the files themselves; several are allowed",
        )
    for one in found:
        if one.localiser:
            tell(f"{one.folder}: series {one.uid} is a localiser (scout), no scan: left out.")
    for one in series:
        # A patient with one series is named by the patient; several are told apart by their UID.
        alone = sum(other.patient_id == one.patient_id for other in series) == 1
        name = _as_name(one.patient_id) or Path(os.path.abspath(one.folder)).name
        yield Input(name if alone else f"{name}_{_as_name(one.uid)}", one, "dicom")


def _as_name(text: str) -> str:
    """What a header says, as a file's name: it may hold a path, which could lead anywhere."""
    return re.sub(r"[^\w.-]", "_", text).strip(".")


def read_input(one: Input, scale: Scale = "auto") -> tuple[Volume, Intensity]:
    """A scan and the scale its values are on.

    ``auto`` takes NIfTI values for Hounsfield units unless they lie in [0, 255], which it takes for
    the benchmark's window of [-1250, 250] HU.

    Raises
    ------
    IntensityError
        Values are not finite, or neither on the one scale nor on the other.
    """
    if one.kind == "dicom":
        assert isinstance(one.source, DicomSeries)
        return read_series(one.source), HU
    assert isinstance(one.source, Path)
    if one.kind == "picture":
        return Volume(read_picture(one.source)[:, :, None], PICTURE_AFFINE), PICTURE
    volume = read_nifti(one.source)
    finding = find_nonfinite(volume.data)
    if finding is not None:
        raise IntensityError(finding, path=one.source, remedy="repair the scan")
    if scale != "auto":
        return volume, HU if scale == "hu" else BENCHMARK_WINDOW
    guess = guess_scale(volume.data)
    if guess.scale == "windowed":
        return volume, BENCHMARK_WINDOW
    if guess.scale in ("hu", "constant"):
        return volume, HU
    raise IntensityError(
        guess.reason,
        path=one.source,
        expected="Hounsfield units, or values windowed to [0, 255]",
        remedy="convert it, or say what it is: --intensity hu (or windowed)",
    )


def doubt_about_place(one: Input) -> str | None:
    """What a scan's header leaves open of where it lies, and what to check; None where nothing.

    Label maps have one place, so a program that takes the scan's other one shows them elsewhere.

    Raises
    ------
    UnreadableFileError, GeometryError
        As `covidseg.imaging.nifti.read_header` says.
    """
    if one.kind != "nifti":
        return None
    assert isinstance(one.source, Path)
    conflict = read_header(one.source).form_conflict
    if conflict is None:
        return None
    return (
        f"{one.source}: {conflict}. Check that its label map lies on it in the program that you "
        "use them in; if not, set both forms of the scan to the right one and predict it again."
    )


def segment(
    predictor: Predictor | Ensemble, one: Input, folder: Path, scale: Scale = "auto"
) -> Path:
    """Segment a scan and write the label map; return its file.

    NIfTI and DICOM scans give uint8 NIfTI on the scan's own grid; pictures give a PNG of the
    picture's size, with 255 for the one class of a binary model and the class' value otherwise.

    Raises
    ------
    ConfigError
        The predictor is for volumes and the scan is a picture, or the reverse; or the device or
        this machine has not enough memory.
    GeometryError
        The scan's spacing makes its grid impossibly large.
    """
    with fault_of(_place(one)):
        return _segmented(predictor, one, folder, scale)


def _segmented(predictor: Predictor | Ensemble, one: Input, folder: Path, scale: Scale) -> Path:
    volume, intensity = read_input(one, scale)
    if predictor.for_pictures != (one.kind == "picture"):
        raise ConfigError(
            f"the run segments {'pictures' if predictor.for_pictures else 'CT volumes'}, and "
            f"{_place(one)} is a {'picture' if one.kind == 'picture' else 'CT volume'}",
            remedy="use a run that was trained on such data",
        )
    result = predictor.predict(volume, intensity)
    if result.shape != volume.shape:
        raise GeometryError("the result lost the scan's grid", path=_place(one))
    target = folder / one.result
    if one.kind == "picture":
        _write_picture(target, result.data[:, :, 0], predictor)
    else:
        write_nifti(target, result)
    return target


@contextlib.contextmanager
def fault_of(scan: Path) -> Iterator[None]:
    """Grids that are found impossible name the scan; want of memory is a fault of that scan too.

    Other scans may be smaller, so it must not end a call that has more of them.
    """
    try:
        yield
    except GeometryError as fault:
        fault.path = fault.path or scan
        raise
    except torch.OutOfMemoryError as fault:
        raise ConfigError(
            "segmenting it takes more memory than the device has free",
            path=scan,
            remedy="give a smaller --batch-size, or --device cpu",
        ) from fault
    except (MemoryError, RuntimeError) as fault:
        if isinstance(fault, RuntimeError) and _CPU_MEMORY not in str(fault):
            raise
        raise ConfigError(
            "segmenting it takes more memory than this machine has free",
            path=scan,
            remedy="check the scan's size and spacing, give a smaller --batch-size, or take a "
            "machine with more memory",
        ) from fault


def _write_picture(target: Path, labels: np.ndarray, predictor: Predictor | Ensemble) -> None:
    from PIL import Image

    if predictor.classes == 2:
        labels = labels * np.uint8(255)
    with atomic_file(target) as temporary:
        Image.fromarray(np.ascontiguousarray(labels)).save(temporary, format="PNG")
