"""Verifying every file of every dataset below a folder, and reporting on it."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from covidseg.core.files import atomic_file
from covidseg.core.parallel import default_workers, map_cases
from covidseg.registry.cases import Case
from covidseg.registry.check_case import check_case, plain
from covidseg.registry.dataset import Dataset, by_layout, natural
from covidseg.registry.datasets import DATASETS
from covidseg.registry.find import FoundDatasets, find_cases
from covidseg.registry.findings import SEVERITIES, CaseCheck, Finding, as_dict, from_error

# Below this many cases starting a second process takes longer than it saves.
_FEW_CASES = 4
_NAMED = 6

_POOL = "unlabelled"


@dataclass
class CheckReport:
    """Everything that a check found, for people (`covidseg check` prints it) and for programs."""

    found: FoundDatasets
    findings: list[Finding] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)

    def count(self, severity: str, dataset: str | None = None) -> int:
        """Number of findings of one severity, of one dataset or of all."""
        return sum(
            finding.severity == severity and dataset in (None, finding.dataset)
            for finding in self.findings
        )

    @property
    def ok(self) -> bool:
        """Whether no error was found."""
        return self.count("error") == 0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values; `covidseg check --report` writes it."""
        return {
            "covidseg": version("covidseg"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "root": str(self.found.root),
            "phantom": self.found.phantom,
            "ok": self.ok,
            "datasets": {
                key: {
                    "title": DATASETS[key].title,
                    "cases": dict(self.found.counts(key)),
                    "expected": DATASETS[key].expected_counts,
                    "layouts": dict(by_layout(self.found.of(key))),
                    "files": self.files[key],
                    "bytes": self.bytes[key],
                    **{f"{severity}s": self.count(severity, key) for severity in SEVERITIES},
                }
                for key in self.found.present()
            },
            "findings": [as_dict(finding) for finding in self.findings],
            "cases": self.cases,
        }


def check_root(
    root: str | os.PathLike[str],
    *,
    datasets: Sequence[str] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> CheckReport:
    """Find all cases below ``root`` and verify every file of theirs.

    Each file is read whole, once. What is wrong with one case never hides another's faults.

    Raises
    ------
    LayoutError
        ``root`` is no folder, or holds none of the datasets looked for.
    ConfigError
        A name in ``datasets`` is not known.
    """
    found = find_cases(root, datasets)
    found.require_any()
    report = CheckReport(found)
    workers = 1 if len(found.cases) < _FEW_CASES else workers or default_workers()
    done: dict[Path, CaseCheck] = {}
    for case, outcome in map_cases(
        check_case, found.cases, workers=workers, description="check", progress=progress
    ):
        if isinstance(outcome, Exception):
            outcome = CaseCheck(
                [
                    from_error(
                        outcome,
                        dataset=case.dataset,
                        case_id=case.case_id,
                        file=str(case.image),
                    )
                ]
            )
        done[case.image] = outcome
        report.files[case.dataset] += outcome.files
        report.bytes[case.dataset] += outcome.bytes
    for case in found.cases:
        # Small phantoms are sampled as no scanner does; that is no fault of theirs.
        report.findings += [
            finding
            for finding in done[case.image].findings
            if finding.kind != "spacing" or not found.is_phantom(case)
        ]
        report.cases.append(plain(done[case.image], case))
    report.findings += _whole_findings(found)
    for key in found.present():
        report.findings += _dataset_findings(DATASETS[key], found)
    report.findings += _same_pixels(found.cases, done)
    report.findings.sort(
        key=lambda finding: (
            SEVERITIES.index(finding.severity),
            list(DATASETS).index(finding.dataset) if finding.dataset in DATASETS else -1,
            finding.kind,
            natural(finding.case_id),
        )
    )
    return report


def write_report(report: CheckReport, path: str | os.PathLike[str]) -> None:
    """Write a report as JSON, whole or not at all."""
    text = json.dumps(report.as_dict(), indent=1, ensure_ascii=False)
    with atomic_file(path) as temporary:
        # A file's name that is no UTF-8 becomes an escape, which JSON reads as that name.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _whole_findings(found: FoundDatasets) -> Iterator[Finding]:
    """What concerns the folder as a whole."""
    yield from found.findings
    for path, reason in found.unreadable:
        yield Finding(
            "error",
            "unreadable",
            "",
            f"may not be listed ({reason.lower()}), so what is in it was not checked",
            file=str(path),
            remedy="give yourself permission (chmod u+rx), or leave it out",
        )
    for path in found.damaged:
        yield Finding(
            "error",
            "unreadable",
            "",
            "holds no DICOM file that can be read (empty, cut short or damaged), so it is not known"
            " which scan it is of"
            if path.is_dir()
            else "is empty, cut short or damaged, so it is not known which scan it is of",
            file=str(path),
            remedy="download it again, or leave it out",
        )
    for entry in found.ignored:
        yield Finding(
            "note",
            "ignored",
            "",
            f"{entry.files} {'file' if entry.files == 1 else 'files'} of no dataset that is known:"
            " ignored",
            file=str(entry.folder),
        )
    for path in found.repositories:
        yield Finding(
            "note", "repository", "", "is a repository that `covidseg build` wrote: passed over",
            file=str(path),
        )  # fmt: skip
    for predicted in found.predictions:
        yield Finding(
            "note" if predicted.recorded else "warning",
            "predictions",
            "",
            f"{predicted.files} label maps that `covidseg predict` wrote: passed over"
            if predicted.recorded
            else f"its predictions.json cannot be read, so all {predicted.files} volumes and"
            " pictures in it are taken for label maps and passed over",
            file=str(predicted.folder),
            remedy="" if predicted.recorded else "move scans, if any, to a folder of their own",
        )
    for key, path in found.archives:
        yield Finding(
            "note", "archive", key, "is an archive; only what is extracted is checked",
            file=str(path), remedy="extract it, each archive into a folder of its own",
        )  # fmt: skip
    for key, piece in found.masks_without_image:
        yield Finding(
            "warning",
            "no-image",
            key,
            f"is a mask ({piece.role}) of {piece.case_id}, whose image is not here",
            piece.case_id,
            str(piece.path),
            "put the image below the same folder",
        )
    for case, role, path in found.masks_twice:
        yield Finding(
            "error",
            "duplicate-id",
            case.dataset,
            f"is a second {role} mask of {case.case_id}; the first is {case.masks[role].path}",
            case.case_id,
            str(path),
            "move one of the two away",
        )
    for duplicate in found.duplicates:
        first, *others = duplicate.cases
        for other in others:
            yield Finding(
                "error",
                "duplicate-id",
                duplicate.dataset,
                f"is {duplicate.case_id} again ({other.layout}); the first is {first.image}"
                f" ({first.layout})",
                duplicate.case_id,
                str(other.image),
                "keep one copy of the dataset below this folder",
            )


def _dataset_findings(dataset: Dataset, found: FoundDatasets) -> Iterator[Finding]:
    cases = found.of(dataset.key)
    for cohort, expected in dataset.expected_counts.items():
        held = {case.case_id for case in cases if case.cohort == cohort}
        yield from _completeness(dataset, cohort, expected, held)
    for cohort, names in dataset.expected_masks.items():
        group = [case for case in cases if case.cohort == cohort]
        for name in names:
            without = [case.case_id for case in group if name not in case.masks]
            if without:
                yield Finding(
                    "warning",
                    "missing-mask",
                    dataset.key,
                    f"{name} mask absent for {_of(len(without), len(group))}: {_some(without)}",
                    remedy=f"`covidseg download {dataset.key}` fetches it or says how to get it",
                )
    yield from dataset.layout_findings(cases)
    for case in cases:
        if note := dataset.notes_of(case):
            yield Finding("note", "known", dataset.key, note, case.case_id, str(case.image))


def _completeness(
    dataset: Dataset, cohort: str, expected: int, held: set[str]
) -> Iterator[Finding]:
    listed = dataset.expected_ids(cohort)
    missing = sorted(set(listed) - held, key=natural)
    surplus = sorted(held - set(listed), key=natural) if listed else []
    get = f"`covidseg download {dataset.key}` fetches them or says how to get them"
    if not held:
        yield Finding(
            "note",
            "missing-cases",
            dataset.key,
            f"none of the {expected} {cohort} cases is here",
            remedy=get,
        )
    elif missing or (not listed and len(held) < expected):
        text = f"{len(held) - len(surplus)} of {expected} {cohort} cases are here"
        text += f"; absent: {_some(missing)}" if missing else ""
        yield Finding("warning", "missing-cases", dataset.key, text, remedy=get)
    if surplus:
        yield Finding(
            "note",
            "surplus-cases",
            dataset.key,
            f"{len(surplus)} {cohort} cases that no published list names: {_some(surplus)}",
        )
    elif not listed and len(held) > expected:
        yield Finding(
            "warning",
            "surplus-cases",
            dataset.key,
            f"{len(held)} {cohort} cases where {expected} were published",
            remedy="check that no other scans lie among them",
        )


def _same_pixels(cases: Iterable[Case], done: dict[Path, CaseCheck]) -> Iterator[Finding]:
    """Scans of equal voxels under different names: a leak, where one trains and the other tests."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if content := done[case.image].facts.get("content_hash"):
            groups[content].append(case)
    for group in groups.values():
        first = min(group, key=lambda case: case.cohort == _POOL)
        for other in group:
            if other is first or _one_case(first, other):
                continue
            apart = other.dataset != first.dataset or (first.cohort != _POOL == other.cohort)
            yield Finding(
                "warning" if apart else "error",
                "duplicate-content",
                other.dataset,
                f"holds the very voxels of {first.dataset} {first.case_id} ({first.cohort}):"
                f" {first.image}",
                other.case_id,
                str(other.image),
                "never train on it where the other is evaluated on"
                if apart
                else "one of the two has the wrong name: take it from the dataset's own download",
            )


def _one_case(a: Case, b: Case) -> bool:
    """Whether two scans are one case by name: copies, which are reported as such, or cohorts of
    the same cases (StructSeg's two tasks)."""
    if (a.dataset, a.case_id) != (b.dataset, b.case_id):
        return False
    return a.cohort == b.cohort or {a.cohort, b.cohort} <= set(DATASETS[a.dataset].listed_cohorts)


def _of(part: int, whole: int) -> str:
    if part == whole and whole > 1:
        return f"all {whole} cases"
    return f"{part} of {whole} {'case' if whole == 1 else 'cases'}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names, key=natural)[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
