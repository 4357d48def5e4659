"""The training cache: every case preprocessed once, uncompressed, read by memory map.

A case's folder is named by a hash of its content and of all settings that shape it, so another
setting never meets an old file, and several runs share what they have in common. A folder appears
under its final name whole; builders that race for one case leave one whole folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covidseg.core.errors import CovidsegError, IntensityError, LabelError, StorageError
from covidseg.core.files import sha256_of_file, storage_error
from covidseg.core.parallel import map_cases
from covidseg.imaging.geometry import require_same_grid
from covidseg.imaging.intensity import find_nonfinite
from covidseg.imaging.nifti import read_nifti
from covidseg.imaging.picture import read_picture
from covidseg.imaging.volume import Volume
from covidseg.inference.preprocessing import Preprocessing
from covidseg.registry.cases import Intensity
from covidseg.registry.read import PICTURE_AFFINE

log = logging.getLogger(__name__)

# Part of every key: raised whenever the same settings would give other arrays.
CACHE_VERSION = 2
# Voxels of each class that are remembered, to sample patches around.
REMEMBERED = 10_000
# In a label map: nothing is known here. No patch is drawn around it; a loss may leave it out.
IGNORE_LABEL = 255


@dataclass(frozen=True)
class TrainingCase:
    """A scan to learn from.

    Parameters
    ----------
    case_id
        Unique within a training set.
    image, label
        NIfTI files, or PNG or JPEG pictures; ``label`` is None for unlabelled scans.
    intensity
        The scale the image's values are on.
    values
        What each value of the label file becomes; values not named become 0.
    source
        Where the case is from, for sampling by source.
    content
        A hash of both files' content, if it is known already; computed otherwise.
    """

    case_id: str
    image: Path
    label: Path | None
    intensity: Intensity
    values: Mapping[int, int]
    source: str = ""
    content: str | None = None


@dataclass(frozen=True)
class CachedCase:
    """A case in the cache.

    ``foreground`` counts the voxels of each class; ``shape`` is (Z, Y, X).
    """

    case_id: str
    source: str
    folder: Path
    shape: tuple[int, int, int]
    foreground: dict[int, int]
    content: str

    def image(self) -> NDArray[np.float16]:
        """(Z, Y, X) float16, memory-mapped."""
        return np.load(self.folder / "image.npy", mmap_mode="r", allow_pickle=False)

    def label(self) -> NDArray[np.uint8] | None:
        """(Z, Y, X) uint8, memory-mapped; None for an unlabelled case."""
        path = self.folder / "label.npy"
        return np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None

    def voxels(self, value: int) -> NDArray[np.int32]:
        """(n, 3) indices of voxels of a class, all of them or a sample."""
        path = self.folder / f"voxels_{value}.npy"
        return np.load(path, mmap_mode="r", allow_pickle=False)


def read_training_case(case: TrainingCase) -> tuple[Volume, Volume | None]:
    """Image as stored and label map (uint8, target values) of a case, on one grid.

    Raises
    ------
    UnreadableFileError, GeometryError, IntensityError
        A file cannot be read, the two are on different grids, or values are not finite.
    """
    image = read_image(case)
    if case.label is None:
        return image, None
    label = _read(case.label)
    require_same_grid(label.shape, label.affine, case.label, image.shape, image.affine, case.image)
    return image, label.with_data(_translated(label.data, case))


def read_image(case: TrainingCase) -> Volume:
    """The image of a case as stored; IntensityError where a value is not finite.

    Resampling would spread one NaN over the whole scan.
    """
    image = _read(case.image)
    finding = find_nonfinite(image.data)
    if finding is not None:
        raise IntensityError(finding, path=case.image, remedy="repair the scan, or leave it out")
    return image


def _read(path: Path) -> Volume:
    if path.suffix.lower() in {".png", ".jpg", ".jpeg"}:
        return Volume(read_picture(path)[:, :, None], PICTURE_AFFINE)
    return read_nifti(path)


def _translated(data: NDArray[Any], case: TrainingCase) -> NDArray[np.uint8]:
    if not np.issubdtype(data.dtype, np.integer):
        whole = np.rint(data)
        if not np.array_equal(whole, data):
            raise LabelError(
                "the label map has values that are not whole numbers",
                path=case.label,
                remedy="store labels as integers",
            )
        data = whole.astype(np.int64)
    if data.min() < 0 or data.max() > 255:
        raise LabelError(
            f"the label map's values go from {data.min()} to {data.max()}",
            path=case.label,
            expected="0 to 255",
        )
    table = np.zeros(256, np.uint8)
    for value, target in case.values.items():
        table[value] = target
    return table[data]


def prepare(
    cases: Sequence[TrainingCase],
    preprocessing: Preprocessing,
    root: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> list[CachedCase]:
    """Bring every case into the cache below ``root`` and return them in the order given.

    What is there and whole is kept; a damaged folder is built again, with a warning. Several
    processes may prepare the same cases at once.

    Raises
    ------
    CovidsegError
        A case cannot be read (the first such, in the order given), or the disk is full.
    """
    prepared, faults = prepare_readable(
        cases, preprocessing, root, workers=workers, progress=progress
    )
    for fault in faults.values():
        raise fault
    return prepared


def prepare_readable(
    cases: Sequence[TrainingCase],
    preprocessing: Preprocessing,
    root: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[list[CachedCase], dict[str, CovidsegError]]:
    """As `prepare`, with the cases that cannot be read left out and their faults by case ID.

    Raises
    ------
    StorageError
        The disk is full, or another user's part of the cache may not be read: every case would
        meet that.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise storage_error(fault, root) from fault
    results: dict[str, CachedCase | Exception] = {}
    for case, result in map_cases(
        partial(_prepared, preprocessing=preprocessing, root=root),
        cases,
        already=partial(_whole, preprocessing=preprocessing, root=root),
        workers=workers,
        description="training cache",
        progress=progress,
    ):
        results[case.case_id] = result
    prepared, faults = [], {}
    for case in cases:
        result = results[case.case_id]
        if isinstance(result, CachedCase):
            prepared.append(result)
        elif isinstance(result, CovidsegError) and not isinstance(result, StorageError):
            faults[case.case_id] = result
        else:
            raise result
    return prepared, faults


def _prepared(case: TrainingCase, *, preprocessing: Preprocessing, root: Path) -> CachedCase:
    content = content_of(case)
    folder = _folder(case, content, preprocessing, root)
    if folder.is_dir():
        fault = _damage(folder)
        if fault is None:
            return _described(case, folder, content)
        log.warning("%s: %s; building it again", folder, fault)
        shutil.rmtree(folder, ignore_errors=True)
    _build(case, preprocessing, folder)
    return _described(case, folder, content)


def _whole(case: TrainingCase, *, preprocessing: Preprocessing, root: Path) -> CachedCase | None:
    """The case as it was prepared before; None if it was not, or if that takes hashing files."""
    if not case.content:
        return None
    folder = _folder(case, case.content, preprocessing, root)
    if not folder.is_dir() or _damage(folder) is not None:
        return None
    return _described(case, folder, case.content)


def _folder(case: TrainingCase, content: str, preprocessing: Preprocessing, root: Path) -> Path:
    settings = json.dumps(
        [CACHE_VERSION, content, asdict(preprocessing), sorted(case.values.items())]
    )
    return root / hashlib.sha256(settings.encode()).hexdigest()[:32]


def content_of(case: TrainingCase) -> str:
    """A hash of both files' bytes and of the intensity scale they are read on."""
    if case.content:
        return case.content
    try:
        hashes = [sha256_of_file(path) for path in (case.image, case.label) if path is not None]
    except OSError:
        # The reader says what is wrong with the file, better than the hash can.
        read_training_case(case)
        raise
    return hashlib.sha256(json.dumps([hashes, asdict(case.intensity)]).encode()).hexdigest()


def _build(case: TrainingCase, preprocessing: Preprocessing, folder: Path) -> None:
    volume, mask = read_training_case(case)
    prepared = preprocessing.image(volume, case.intensity)
    arrays: dict[str, NDArray[Any]] = {"image": prepared.image.astype(np.float16)}
    foreground = {}
    if mask is not None:
        label = preprocessing.label(mask)
        arrays["label"] = label
        counts = np.bincount(label.ravel(), minlength=256)
        for value in sorted(set(case.values.values()) - {0, IGNORE_LABEL}):
            foreground[value] = int(counts[value])
            arrays[f"voxels_{value}"] = _remembered(label, value)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    except OSError as fault:
        raise storage_error(fault, folder) from fault
    try:
        files = {}
        for name, array in arrays.items():
            path = temporary / f"{name}.npy"
            np.save(path, np.ascontiguousarray(array), allow_pickle=False)
            files[path.name] = [path.stat().st_size, path.stat().st_mtime_ns, sha256_of_file(path)]
        description = {
            "shape": list(prepared.image.shape),
            "foreground": foreground,
            "files": files,
        }
        (temporary / "meta.json").write_text(json.dumps(description))
        # mkdtemp makes folders private; others who share the cache are to read this one.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)
        try:
            os.rename(temporary, folder)
        except OSError:
            # Another builder was first; its folder holds the same.
            if not folder.is_dir() or _damage(folder) is not None:
                raise
    except OSError as fault:
        raise storage_error(fault, folder) from fault
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remembered(label: NDArray[np.uint8], value: int) -> NDArray[np.int32]:
    flat = evenly(np.flatnonzero(label == value), REMEMBERED)
    return np.stack(np.unravel_index(flat, label.shape), axis=1).astype(np.int32)


def evenly(items: NDArray[Any], count: int) -> NDArray[Any]:
    """At most ``count`` of the items, spread evenly: replayable, and every part keeps its share."""
    if len(items) <= count:
        return items
    return items[np.linspace(0, len(items) - 1, count).astype(np.int64)]


def _damage(folder: Path) -> str | None:
    """What is wrong with a cached case; None if nothing is.

    Contents are hashed again only where a file's time is not the one noted when it was written.

    Raises
    ------
    StorageError
        It may not be read: another user made it, for themselves alone.
    """
    try:
        description = json.loads((folder / "meta.json").read_text())
        for name, (size, written_ns, digest) in description["files"].items():
            status = (folder / name).stat()
            if status.st_size != size:
                return f"{name} has {status.st_size} bytes instead of {size}"
            if status.st_mtime_ns != written_ns and sha256_of_file(folder / name) != digest:
                return f"{name} is not what was written"
    except PermissionError as fault:
        raise StorageError(
            f"a scan in the training cache cannot be read ({os.strerror(fault.errno or 0)})",
            path=folder,
            remedy="have its owner allow it (chmod -R a+rX), or choose another data.cache",
        ) from fault
    except (OSError, ValueError, KeyError, TypeError) as fault:
        return f"it is not whole ({fault})"
    return None


def _described(case: TrainingCase, folder: Path, content: str) -> CachedCase:
    description = json.loads((folder / "meta.json").read_text())
    z, y, x = description["shape"]
    foreground = {int(value): count for value, count in description["foreground"].items()}
    return CachedCase(case.case_id, case.source, folder, (z, y, x), foreground, content)
