"""Holding a folder, so that two processes never write to it at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from covidseg.core.errors import ConfigError
from covidseg.core.files import storage_error

NAME = ".lock"


@contextlib.contextmanager
def alone_in(folder: Path, doing: str, *, within: Path | None = None) -> Iterator[None]:
    """Hold ``folder``, or refuse where another process holds it.

    The operating system lets go of it when the process ends, however it ends.

    Parameters
    ----------
    folder
        Made if it is missing.
    doing
        What the other process is at, for the message: "trained", "written".
    within
        The folder that the lock lies in, where that is another one.

    Raises
    ------
    ConfigError
        Another process holds it.
    StorageError
        It cannot be made or written to.
    """
    place = within or folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"is being {doing} by another process",
            path=folder,
            remedy="wait for it, stop it, or name another folder",
        ) from None
    except OSError as fault:
        raise storage_error(fault, folder) from fault
    try:
        yield
    finally:
        lock.release()
