"""A folder walked once: what lies where, without opening any file.

Every dataset looks for its layouts in the same walk, so that a disk with a hundred thousand DICOM
files is listed once and not once a dataset.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from covidseg.core.errors import LayoutError

VOLUME = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
ARCHIVE = re.compile(r"\.(zip|tar|tar\.gz|tgz|rar|7z)$", re.IGNORECASE)

# What this project wrote is no download: a dataset repository holds links to the volumes, the same
# cases again, and predictions bear the names of their scans.
_REPOSITORY_MARK = ".covidseg"
_PREDICTIONS_RECORD = "predictions.json"
_PREDICTION = re.compile(r"\.(nii\.gz|png)$")
# Of a scan of a chest; a series of fewer is what a scanner draws to plan the scan.
FEWEST_SLICES = 4


@dataclass(frozen=True)
class Folder:
    """One folder: its path, and the names of the files in it.

    ``files`` maps names to real paths. They differ where an extraction nested a volume in a folder
    of its own name (``x.nii/x.nii``): the folder that holds ``x.nii/`` then has a file ``x.nii``.
    """

    path: Path
    files: dict[str, Path]

    @property
    def posix(self) -> str:
        """Absolute path with forward slashes, for matching by regular expressions."""
        return self.path.as_posix()


class DicomIdentity(NamedTuple):
    """Whose file it is and what kind, from the first few tags of one DICOM file."""

    patient_id: str
    modality: str


@dataclass(frozen=True)
class Predictions:
    """Label maps in a folder that its record names, or all where the record cannot be read."""

    folder: Path
    files: int
    recorded: bool = True


@dataclass
class Tree:
    """All folders below a root that hold files."""

    root: Path
    folders: list[Folder] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    repositories: list[Path] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list)
    empty: bool = True
    _identities: dict[Path, DicomIdentity | None] = field(default_factory=dict)

    def archives(self) -> Iterator[Path]:
        """Archives lying about, which may be downloads that were not extracted."""
        for folder in self.folders:
            for name, path in folder.files.items():
                if ARCHIVE.search(name):
                    yield path

    def dicom_identity(self, folder: Folder) -> DicomIdentity | None:
        """Patient and modality by the tags of the folder's first DICOM file that can be read.

        Only for folders whose names do not tell. None where none can be read: all are empty, cut
        short or no DICOM.
        """
        nameless = None
        for name, path in folder.files.items():
            if is_dicom_name(name) and (identity := self.file_identity(path)):
                if identity.patient_id:
                    return identity
                nameless = nameless or identity
        return nameless

    def file_identity(self, path: Path) -> DicomIdentity | None:
        """Patient and modality by one file's tags; None where it cannot be read.

        Each file is opened at most once, and read no further than the patient's ID.
        """
        if path not in self._identities:
            self._identities[path] = dicom_identity(path)
        return self._identities[path]


def is_dicom_name(name: str) -> bool:
    """Whether a file's name is one that DICOM files have; TCIA's all end in ``.dcm``."""
    return name.lower().endswith((".dcm", ".ima"))


def dicom_identity(path: Path) -> DicomIdentity | None:
    """Patient and modality by the tags of a DICOM file; None if they cannot be read."""
    from pydicom.filereader import read_partial

    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            # Of what is none, and of small rules that anonymised files break everywhere.
            warnings.simplefilter("ignore")
            # Tags come in ascending order, and the patient's ID before any of the bulk.
            # Forced, because old files without a preamble are of some dataset too.
            head = read_partial(file, stop_when=lambda tag, *_: tag > 0x00100020, force=True)
    except Exception:
        # pydicom raises nearly anything on damaged bytes. Finding must not stop at that; what is
        # found, or not found for it, is reported.
        return None
    found = DicomIdentity(str(head.get("PatientID", "")), str(head.get("Modality", "")))
    return found if any(found) else None


def walk(root: str | os.PathLike[str]) -> Tree:
    """List everything below ``root`` once, following links to folders but never in circles.

    Hidden files and folders, ``__MACOSX`` and the ``._*`` files of Apple's archiver are left out,
    and so is what this project wrote: dataset repositories whole, and the label maps that the
    record of a folder of predictions names. Both are collected in ``repositories`` and
    ``predictions``. Folders that may not be listed are collected in ``unreadable`` with the reason.

    Raises
    ------
    LayoutError
        ``root`` does not exist or is not a folder.
    """
    root = Path(os.path.abspath(root))
    if not root.exists():
        raise LayoutError(
            "does not exist", path=root, remedy="give the folder that holds your downloads"
        )
    if not root.is_dir():
        raise LayoutError(
            "is a file", path=root, expected="a folder", remedy="give the folder that holds it"
        )
    tree = Tree(root)
    seen: set[tuple[int, int]] = set()
    # Links last: a folder that is there under its own name as well is known by that one.
    waiting: list[Path] = [root]
    links: list[Path] = []
    while waiting or links:
        path = waiting.pop() if waiting else links.pop()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as fault:
            tree.unreadable.append((path, os.strerror(fault.errno or 0)))
            continue
        if any(entry.name == _REPOSITORY_MARK for entry in listed):
            tree.repositories.append(path)
            continue
        files: dict[str, Path] = {}
        for entry in listed:
            name = entry.name
            if name.startswith(".") or name == "__MACOSX":
                continue
            try:
                is_folder = entry.is_dir()
            except OSError as fault:
                tree.unreadable.append((path / name, os.strerror(fault.errno or 0)))
                continue
            if not is_folder:
                files[name] = path / name
            elif VOLUME.search(name) and (nested := _nested_volume(path / name)) is not None:
                files[name] = nested
            else:
                (links if entry.is_symlink() else waiting).append(path / name)
        if _PREDICTIONS_RECORD in files:
            _pass_over_predictions(tree, path, files)
        if files:
            tree.empty = False
            tree.folders.append(Folder(path, files))
    tree.folders.sort(key=lambda folder: folder.path)
    return tree


def _pass_over_predictions(tree: Tree, folder: Path, files: dict[str, Path]) -> None:
    """Take out of ``files`` what the folder's record names; scans may lie beside and below it."""
    try:
        named = json.loads(files[_PREDICTIONS_RECORD].read_text(encoding="utf-8"))
    except (OSError, ValueError):
        named = None
    recorded = isinstance(named, dict)
    predicted = [
        name for name in files if (name in named if recorded else _PREDICTION.search(name))
    ]
    for name in predicted:
        del files[name]
    if predicted:
        tree.predictions.append(Predictions(folder, len(predicted), recorded))


def _nested_volume(folder: Path) -> Path | None:
    try:
        volumes = [
            name for name in os.listdir(folder) if VOLUME.search(name) and not name.startswith(".")
        ]
    except OSError:
        return None
    return folder / volumes[0] if len(volumes) == 1 else None
