"""What the label maps of a folder were made from, so that only those of the same call are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from covidseg.core.errors import ConfigError
from covidseg.core.files import atomic_file, storage_error
from covidseg.inference.files import Input

NAME = "predictions.json"


class Record:
    """The record of a folder of label maps: for each file what it was made from.

    Parameters
    ----------
    folder
        Of the label maps; the record is ``predictions.json`` in it.
    settings
        What all results of a call share, as text: weights and options.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder, self.settings = folder, settings
        self.noted = self._read()

    def note(self, one: Input) -> None:
        """A result has been written."""
        with self._alone():
            self._write(self._read() | {one.result: self._key(one)})

    def drop_other(self, one: Input) -> bool:
        """Remove what is there under a result's name, unless it is that of the same call.

        For an input that could not be segmented anew: what other weights made of it is not to pass
        for this call's. Returns whether something was removed.

        Raises
        ------
        StorageError
            It cannot be removed.
        """
        target = self.folder / one.result
        with self._alone():
            noted = self._read()
            if not target.exists() or self._is_ours(one, noted):
                return False
            # The file first: an entry without a file is harmless, a file without its entry is not.
            try:
                target.unlink()
            except OSError as fault:
                raise storage_error(fault, target) from fault
            noted.pop(one.result, None)
            self._write(noted)
        return True

    def _alone(self) -> FileLock:
        # Another call may note its own results in the same folder at the same time.
        return FileLock(self.folder / f".{NAME}.lock")

    def _write(self, noted: dict[str, str]) -> None:
        self.noted = noted
        with atomic_file(self.folder / NAME) as temporary:
            temporary.write_text(json.dumps(noted, indent=1), encoding="utf-8")

    def _is_ours(self, one: Input, noted: dict[str, str]) -> bool:
        try:
            return noted.get(one.result) == self._key(one)
        except OSError:  # the scan itself is gone by now
            return False

    def _read(self) -> dict[str, str]:
        try:
            noted = json.loads((self.folder / NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            noted = {}
        return noted if isinstance(noted, dict) else {}

    def missing(self, inputs: Sequence[Input]) -> list[Input]:
        """The inputs whose result is not there.

        Raises
        ------
        ConfigError
            A result is there that was made from another scan, by other weights or options, or of
            which nothing is known.
        """
        there = [one for one in inputs if (self.folder / one.result).exists()]
        others = [one for one in there if self.noted.get(one.result) != self._key(one)]
        if others:
            raise ConfigError(
                f"holds {others[0].result} already"
                + (f" and {len(others) - 1} more" if len(others) > 1 else "")
                + ", made by other weights or options, or of another scan",
                path=self.folder,
                remedy="add --overwrite to replace what is there, or give another --out",
            )
        return [one for one in inputs if one not in there]

    def _key(self, one: Input) -> str:
        files = [path.stat() for path in one.files]
        made_from = [self.settings, [[s.st_size, s.st_mtime_ns] for s in files]]
        return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
