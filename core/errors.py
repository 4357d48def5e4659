"""The project's exceptions: one root, one class per kind of fault.

Every message says four things where they are known: which file, what was found in it, what was
expected there, and what to do about it. The console command prints that message and nothing else,
so a user's mistake never ends in a traceback.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path


class CovidsegError(Exception):
    """Root of all exceptions that this project raises on purpose.

    Parameters
    ----------
    finding
        What is wrong, as a short clause without a final stop.
    path
        The file or folder it was found in.
    expected
        What should have been there instead.
    remedy
        What the reader can do about it, as an imperative.
    """

    def __init__(
        self,
        finding: str,
        *,
        path: str | PathLike[str] | None = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.finding = finding
        self.path = Path(path) if path is not None else None
        self.expected = expected
        self.remedy = remedy
        super().__init__(finding)

    def __str__(self) -> str:
        text = f"{self.path}: {self.finding}" if self.path is not None else self.finding
        if self.expected:
            text += f"; expected {self.expected}"
        if self.remedy:
            text += f". {self.remedy[0].upper()}{self.remedy[1:]}"
        return text if text.endswith((".", "?", "!")) else text + "."

    def __reduce__(self):
        # Exceptions cross process boundaries by pickle, which would keep the finding alone.
        return _rebuild, (type(self), self.finding, self.path, self.expected, self.remedy)


def _rebuild(cls, finding, path, expected, remedy):
    return cls(finding, path=path, expected=expected, remedy=remedy)


class UnreadableFileError(CovidsegError):
    """A file cannot be opened or decoded: absent, truncated, not of its format, no permission."""


class GeometryError(CovidsegError):
    """Shape, affine, spacing or orientation is impossible, or two grids that must agree do not."""


class LabelError(CovidsegError):
    """A mask holds values that its dataset or task does not have."""


class IntensityError(CovidsegError):
    """An image's values are not on the scale that its dataset declares, or are not finite."""


class LayoutError(CovidsegError):
    """A folder does not hold what was looked for in any layout that is known."""


class SplitError(CovidsegError):
    """A split does not exist, does not fit the cases found, or leaks between its parts."""


class ConfigError(CovidsegError):
    """A recipe, option or argument is unknown or has an impossible value."""


class DownloadError(CovidsegError):
    """A download failed, or what arrived is not what was published."""


class ScoringError(CovidsegError):
    """Scores cannot be computed or combined: mismatched tables, cases or metrics."""


class StorageError(CovidsegError):
    """The disk cannot hold what is to be written: full, read-only, no permission."""


class TrainingError(CovidsegError):
    """Training cannot go on: a loss that is not finite, a worker process that died."""
