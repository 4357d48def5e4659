"""Writing files and folders that are either whole under their final name or not there at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from covidseg.core.errors import StorageError

_DISK_FAULTS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR,
    errno.ENOTDIR,
}  # fmt: skip


def storage_error(fault: OSError, path: Path) -> StorageError:
    """The project's own error for an operating system's refusal to write at ``path``."""
    permission = "give yourself write permission, or choose another output folder"
    remedies = {
        errno.EACCES: permission,
        errno.EPERM: permission,
        errno.ENOSPC: "free space on that disk, or choose another output folder",
        errno.EDQUOT: "free space within the quota, or choose another output folder",
        errno.EROFS: "choose an output folder on a writable file system",
    }
    remedy = remedies.get(fault.errno or 0, "choose another name or output folder")
    return StorageError(
        f"cannot be written ({os.strerror(fault.errno or 0)})", path=path, remedy=remedy
    )


@contextlib.contextmanager
def atomic_file(final: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; rename it to ``final`` when the block ends well.

    The temporary name keeps the final one's endings (``.nii.gz``), because writers choose the
    format by them. If the block raises, also by Ctrl-C, the temporary file is removed and whatever
    stood under ``final`` before is untouched.

    Raises
    ------
    StorageError
        The disk is full or read-only, or the folder may not be written to.
    """
    final = Path(final)
    if final.exists() and not (final.is_file() or final.is_dir()):
        # A pipe or a device, which the rename would do away with.
        raise StorageError("is no regular file", path=final, remedy="choose a file's name")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix="-" + final.name, dir=final.parent)
        os.close(handle)
    except OSError as fault:
        raise storage_error(fault, final) from fault
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; the final file gets the mode any new file would have.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, final)
    except OSError as fault:
        if fault.errno in _DISK_FAULTS:
            raise storage_error(fault, final) from fault
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(final: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``final``; rename it to ``final`` when the block ends well.

    With ``replace`` an existing ``final`` is moved aside first and removed only once the new
    folder stands in its place. If the block raises, the temporary folder is removed.

    Raises
    ------
    StorageError
        ``final`` exists and ``replace`` is false, or the disk cannot be written to.
    """
    final = Path(final)
    if final.exists() and not replace:
        raise StorageError("exists already", path=final, remedy="choose another folder")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(prefix=".part-", suffix="-" + final.name, dir=final.parent)
        )
    except OSError as fault:
        raise storage_error(fault, final) from fault
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)
        if final.exists():
            aside = Path(
                tempfile.mkdtemp(prefix=".old-", suffix="-" + final.name, dir=final.parent)
            )
            os.replace(final, aside / final.name)
            os.replace(temporary, final)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(temporary, final)
    except OSError as fault:
        if fault.errno in _DISK_FAULTS:
            raise storage_error(fault, final) from fault
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256_of_file(path: str | os.PathLike[str], block_bytes: int = 1 << 20) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(block_bytes):
            digest.update(block)
    return digest.hexdigest()
