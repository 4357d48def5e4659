"""Unpacking archives from the internet without trusting them."""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from tqdm import tqdm

from covidseg.core.errors import DownloadError, StorageError
from covidseg.core.files import atomic_folder
from covidseg.core.progress import progress_bar

# Volumes are compressed already, so their archives hardly expand. A bomb expands a thousandfold.
_MOST_EXPANSION = 100
_ALWAYS_ALLOWED_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20

_ENDINGS = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip")


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_folder: bool
    refused: str
    open: Callable[[], IO[bytes]]


def archive_stem(name: str) -> str | None:
    """An archive's name without its ending, or None for a file that is no archive."""
    for ending in _ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return None


def extract(archive: Path, folder: Path, *, progress: bool = True) -> Path:
    """Unpack a zip or tar archive into ``folder``, which must not exist; whole or not at all.

    Where the archive holds nothing but one folder named as ``folder``, that level is left out.

    Raises
    ------
    DownloadError
        The archive is damaged or encrypted, or would write outside of ``folder`` (absolute names,
        ``..``, links), or expands beyond reason.
    StorageError
        ``folder`` exists, or the disk cannot hold the content.
    """
    with atomic_folder(folder) as temporary:
        try:
            _unpack(archive, temporary, progress)
        except (
            zipfile.BadZipFile,
            tarfile.TarError,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as fault:
            raise DownloadError(
                f"is a damaged or unsupported archive ({fault})",
                path=archive,
                remedy="delete it and download it again",
            ) from fault
        _drop_level(temporary, folder.name)
    return folder


def _unpack(archive: Path, folder: Path, progress: bool) -> None:
    with _opened(archive) as members:
        total = _require_harmless(members, archive, folder)
        with progress_bar(
            total=total,
            desc=f"extract {archive.name}",
            unit="B",
            unit_scale=True,
            disable=not progress,
            dynamic_ncols=True,
        ) as bar:
            for member in members:
                target = folder.joinpath(*Path(member.name).parts)
                if member.is_folder:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, open(target, "xb") as file:
                    _copy(source, file, member, archive, bar)


def _copy(source: IO[bytes], file: IO[bytes], member: _Member, archive: Path, bar: tqdm) -> None:
    left = member.size
    while block := source.read(min(_BLOCK_BYTES, left + 1)):
        left -= len(block)
        if left < 0:
            raise DownloadError(
                f"its file {member.name!r} is longer than the {member.size} bytes it states",
                path=archive,
                remedy="do not use this archive",
            )
        file.write(block)
        bar.update(len(block))
    if left:
        raise EOFError(f"{member.name} ends {left} bytes early")


@contextmanager
def _opened(archive: Path) -> Iterator[list[_Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield [_zip_member(packed, info) for info in packed.infolist()]
        return
    # Opening tells whether it is tar, in any of its compressions; what it is not raises.
    with tarfile.open(archive, "r:*") as tape:
        yield [_tar_member(tape, info) for info in tape.getmembers()]


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    refused = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "is a link or a device"
    if info.flag_bits & 1:
        refused = "is encrypted"
    return _Member(
        info.filename, info.file_size, info.is_dir(), refused, partial(archive.open, info)
    )


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    def open_member() -> IO[bytes]:
        file = archive.extractfile(info)
        assert file is not None, "only plain files are opened"
        return file

    refused = "" if info.isreg() or info.isdir() else "is a link or a device"
    return _Member(info.name, info.size, info.isdir(), refused, open_member)


def _require_harmless(members: list[_Member], archive: Path, folder: Path) -> int:
    """Total size of the content, after refusing what should not be unpacked."""
    seen: set[str] = set()
    for member in members:
        plain = posixpath.normpath(member.name)
        why = member.refused
        if (
            plain.startswith(("/", "../"))
            or plain == ".."
            or "\\" in member.name
            or ":" in plain.split("/")[0]
            or "\0" in member.name
        ):
            why = "leads out of the folder it is unpacked into"
        elif not member.is_folder and plain in seen:
            why = "is there twice"
        if why:
            raise DownloadError(
                f"its file {member.name!r} {why}",
                path=archive,
                expected="plain files and folders with names of their own",
                remedy="do not use this archive; was it really published by the dataset's authors?",
            )
        seen.add(plain)
    total = sum(member.size for member in members)
    limit = _MOST_EXPANSION * archive.stat().st_size + _ALWAYS_ALLOWED_BYTES
    if total > limit:
        raise DownloadError(
            f"would expand from {archive.stat().st_size:,} to {total:,} bytes",
            path=archive,
            expected=f"at most {limit:,}",
            remedy="do not use this archive; was it really published by the dataset's authors?",
        )
    free = shutil.disk_usage(folder).free
    if total > free:
        raise StorageError(
            f"needs {total:,} bytes, but the disk has {free:,} free",
            path=folder.parent,
            remedy="free space on that disk, or choose another output folder",
        )
    return total


def _drop_level(folder: Path, name: str) -> None:
    entries = os.listdir(folder)
    real = [entry for entry in entries if entry != "__MACOSX"]
    if real != [name] or not (folder / name).is_dir():
        return
    shutil.rmtree(folder / "__MACOSX", ignore_errors=True)
    # Its content may hold the same name again.
    aside = folder / f".{name}-level"
    os.replace(folder / name, aside)
    for entry in os.listdir(aside):
        os.replace(aside / entry, folder / entry)
    aside.rmdir()
