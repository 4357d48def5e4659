"""What the label maps of a folder were made from, so that only those of the same call are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from covidseg.core.errors import ConfigError
from covidseg.core.files import atomic_file
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
        # Another call may note its own results in the same folder at the same time.
        with FileLock(self.folder / f".{NAME}.lock"):
            self.noted = self._read() | {one.result: self._key(one)}
            with atomic_file(self.folder / NAME) as temporary:
                temporary.write_text(json.dumps(self.noted, indent=1), encoding="utf-8")

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
