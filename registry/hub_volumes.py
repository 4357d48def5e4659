"""Laying a case's volumes below a repository: linked where they can stay as they are, else written.

A file that is NIfTI on its case's own grid, with labels as declared, is linked, so that what a user
reads is the source file itself. DICOM series, pictures, contours, masks on axes of their own, masks
of grey values or with a slope and lungs told apart by their place are brought into that form once
and written.

What was found in a case is kept in a small file beside the volumes with a stamp of its sources, so
that a build that was interrupted or is run again does nothing twice.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from covidseg.core.errors import CovidsegError, IntensityError, StorageError
from covidseg.core.files import atomic_file, storage_error
from covidseg.registry.cases import Case, Mask

if TYPE_CHECKING:
    from covidseg.imaging.volume import Volume

MARK = ".covidseg"
"""Folder in a repository that holds its builder's notes and by which a search passes it over."""

VOLUMES = "volumes"
# Raised when a case's notes would come out differently for the same sources.
_NOTES_VERSION = 3

Placing = Literal["link", "copy"]


@dataclass(frozen=True)
class Job:
    """One case to lay below the repository ``out``.

    ``placing``: ``link`` links (hard, else symbolic, else copies); ``copy`` copies. With ``files``
    false the case is read and described but none of its voxels is put there; with ``symbolic``
    false nothing is linked symbolically, which would break when the repository is moved.
    """

    case: Case
    out: Path
    placing: Placing = "link"
    files: bool = True
    symbolic: bool = True


@dataclass
class Annotated:
    """What was found of one annotation of a case; ``file`` is relative to the repository."""

    labels: dict[int, str]
    content_hash: str = ""
    file: str | None = None
    fault: str = ""


@dataclass
class Notes:
    """What was found of a case. With a ``fault`` the image is of no use and the rest is empty."""

    dataset: str
    cohort: str
    case_id: str
    fault: str = ""
    file: str | None = None
    content_hash: str = ""
    series_uid: str | None = None
    shape: list[int] = field(default_factory=list)
    spacing_mm: list[float] = field(default_factory=list)
    affine: list[list[float]] = field(default_factory=list)
    annotations: dict[str, Annotated] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """One line for everything that is wrong with the case."""
        return [
            line for line in (self.fault, *(a.fault for a in self.annotations.values())) if line
        ]


def place(job: Job) -> Notes:
    """Read a case, lay its volumes below the repository, and note what it is.

    Faults of the data are noted, of the image and of each mask alone. `StorageError` is raised: a
    disk that is full is so for every case.
    """
    from covidseg.imaging.content import oriented_content_hash
    from covidseg.registry.read import ct_series, read_image, read_mask

    case = job.case
    stamp = _stamp(job)
    notes = Notes(case.dataset, case.cohort, case.case_id)
    try:
        image = read_image(case)
        _require_values(image, case.image)
        series = ct_series(case)
        notes.series_uid = series.uid if series else case.series_uid
        notes.content_hash = oriented_content_hash(image)
        notes.shape = [int(n) for n in image.shape]
        notes.spacing_mm = [float(mm) for mm in image.spacing_mm]
        notes.affine = [[float(v) for v in row] for row in image.affine]
        source = case.image if case.image_format == "nifti" else None
        notes.file = _lay(job, "image", source, image, notes)
        for name, mask in case.masks.items():
            notes.annotations[name] = annotated = Annotated(dict(mask.labels))
            try:
                labels = read_mask(case, name, grid=image)
                annotated.content_hash = oriented_content_hash(labels)
                source = mask.path if _stays(case, mask) else None
                annotated.file = _lay(job, name, source, labels, notes)
            except StorageError:
                raise
            except CovidsegError as fault:
                annotated.fault = str(fault)
    except StorageError:
        raise
    except CovidsegError as fault:
        notes = Notes(case.dataset, case.cohort, case.case_id, fault=str(fault))
    path = _notes_path(job)
    if notes.faults():
        # It is read again next time, so its notes are of no use, and faults name this machine's
        # folders, which a repository to publish must not.
        _remove(path)
        return notes
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"stamp": stamp, **asdict(notes)}), encoding="utf-8")
    return notes


def _require_values(image: Volume, path: Path) -> None:
    from covidseg.imaging.intensity import find_nonfinite

    if nonfinite := find_nonfinite(image.data):
        raise IntensityError(f"holds {nonfinite}", path=path, remedy="download or extract it again")


def noted(job: Job) -> Notes | None:
    """The notes of an earlier build, if neither the sources nor what was written has changed."""
    try:
        kept = json.loads(_notes_path(job).read_text(encoding="utf-8"))
        if kept.pop("stamp") != _stamp(job) or kept["fault"]:
            return None
        annotations = {
            name: Annotated(**{**entry, "labels": {int(v): n for v, n in entry["labels"].items()}})
            for name, entry in kept.pop("annotations").items()
        }
        notes = Notes(**kept, annotations=annotations)
        if any(annotated.fault for annotated in annotations.values()):
            return None
        for file, size in notes.written.items():
            if os.stat(job.out / file).st_size != size:
                return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return notes


def forget_others(out: Path, jobs: Sequence[Job]) -> None:
    """Remove notes that an earlier build made of cases that are none of ``jobs``."""
    kept = {_notes_path(job) for job in jobs}
    for path in (out / MARK / "cases").rglob("*.json"):
        if path not in kept:
            _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as fault:
        raise storage_error(fault, path) from fault


def _stays(case: Case, mask: Mask) -> bool:
    """Whether a mask's file can be handed on as it is."""
    from covidseg.imaging.nifti import read_header

    return (
        case.image_format == "nifti"
        and mask.format == "nifti"
        and mask.threshold is None
        and mask.sides != "by_centroid"
        and not mask.own_grid
        # Whoever loads it would round what slope and intercept give to other labels.
        and not read_header(mask.path).is_scaled
    )


def _lay(job: Job, role: str, source: Path | None, volume: Any, notes: Notes) -> str | None:
    from covidseg.imaging.nifti import write_nifti

    if not job.files:
        return None
    case = job.case
    ending = ".nii.gz" if source is None or source.name.lower().endswith(".gz") else ".nii"
    file = f"{VOLUMES}/{case.dataset}/{case.cohort}/{role}/{safe_name(case.case_id)}{ending}"
    final = job.out / file
    if source is None:
        write_nifti(final, volume)
    elif job.placing == "copy":
        _copy(source, final)
    else:
        _link(source, final, job.symbolic)
    notes.written[file] = os.stat(final).st_size
    return file


def _link(source: Path, final: Path, symbolic: bool) -> None:
    """Hard link; symbolic where the file system or its rights refuse that; a copy as the last."""
    target = Path(os.path.realpath(source))
    temporary = final.with_name(f".part-{os.getpid()}-{final.name}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # Renaming a hard link onto another of the same file does nothing, and would leave it.
        with contextlib.suppress(FileNotFoundError):
            final.unlink()
        temporary.unlink(missing_ok=True)
    except OSError as fault:
        raise storage_error(fault, final) from fault
    for make in (os.link, os.symlink) if symbolic else (os.link,):
        try:
            make(target, temporary)
            os.replace(temporary, final)
            return
        except OSError as fault:
            temporary.unlink(missing_ok=True)
            if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise storage_error(fault, final) from fault
    _copy(source, final)


def _copy(source: Path, final: Path) -> None:
    with atomic_file(final) as temporary:
        shutil.copyfile(source, temporary)


def safe_name(name: str) -> str:
    """A case ID as the name of a file."""
    return name.replace("/", "_").replace("\\", "_")


def _notes_path(job: Job) -> Path:
    case = job.case
    return job.out / MARK / "cases" / case.dataset / case.cohort / f"{safe_name(case.case_id)}.json"


def _stamp(job: Job) -> str:
    """Changes with the sources' paths, sizes and times, and with how they are to be laid."""
    case = job.case
    told = [
        _NOTES_VERSION,
        job.placing,
        job.files,
        job.symbolic,
        case.image_format,
        case.series_uid,
        _seen(case.image),
        [(name, repr(mask), _seen(mask.path)) for name, mask in sorted(case.masks.items())],
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _seen(path: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of a file, or of every file in a DICOM folder."""
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                files = sorted(entry.path for entry in entries if entry.is_file())
        else:
            files = [str(path)]
        return [(file, (s := os.stat(file)).st_size, s.st_mtime_ns) for file in files]
    except OSError:
        return [(str(path), -1, -1)]
