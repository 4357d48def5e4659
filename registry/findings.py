"""What a check finds: one record a fault, that a person and a program can read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from covidseg.core.errors import (
    CovidsegError,
    GeometryError,
    IntensityError,
    LabelError,
    LayoutError,
    UnreadableFileError,
)

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

_KINDS: dict[type[CovidsegError], str] = {
    UnreadableFileError: "unreadable",
    GeometryError: "geometry",
    LabelError: "labels",
    IntensityError: "intensity",
    LayoutError: "layout",
}


@dataclass(frozen=True)
class Finding:
    """One thing worth saying about a file, a case or a dataset.

    ``error``: the data cannot be used as it is, or would mislead. ``warning``: it can, but somebody
    should look. ``note``: good to know. ``kind`` is a word to group and filter by; ``found`` says
    what was found (and what was expected), ``remedy`` what to do.
    """

    severity: Severity
    kind: str
    dataset: str
    found: str
    case_id: str = ""
    file: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        where = " ".join(part for part in (self.dataset, self.case_id) if part)
        text = f"{self.file or where}: {self.found}"
        return f"{text}. {self.remedy[0].upper()}{self.remedy[1:]}" if self.remedy else text


@dataclass
class CaseCheck:
    """The outcome of checking one case: findings, and facts for the report.

    ``facts`` holds shape, spacing_mm, orientation, dtype, minimum, maximum, content_hash,
    series_uid of the image, and under ``masks`` voxel counts by label.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0


def from_error(fault: Exception, *, dataset: str, case_id: str = "", file: str = "") -> Finding:
    """An exception as an error finding; one that is not the project's own is called unforeseen."""
    if not isinstance(fault, CovidsegError):
        return Finding(
            "error",
            "unforeseen",
            dataset,
            f"checking it failed unexpectedly: {type(fault).__name__}: {fault}",
            case_id,
            file,
            "please report this with the file's header",
        )
    found = fault.finding + (f"; expected {fault.expected}" if fault.expected else "")
    return Finding(
        "error",
        _KINDS.get(type(fault), "other"),
        dataset,
        found,
        case_id,
        str(fault.path) if fault.path else file,
        fault.remedy or "",
    )


def as_dict(finding: Finding) -> dict[str, str]:
    """A finding as plain JSON values."""
    return asdict(finding)
