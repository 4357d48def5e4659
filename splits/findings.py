"""The audit of whole tasks and of files: every leak, and whether it is a known published fault."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from covidseg.core.errors import SplitError
from covidseg.splits import tasks
from covidseg.splits.audit import Leak, audit, audit_together, published_fault
from covidseg.splits.load import Place, as_records, index_records, published_parts
from covidseg.splits.records import CaseKey, CaseRecord


@dataclass
class Findings:
    """What was audited, and the leaks found.

    ``skipped`` says what could not be audited and why; ``unmatched`` names, by split, the cases of
    which no file was found, so that only their names and what the split itself says was compared.
    """

    audited: list[str]
    leaks: list[Leak]
    skipped: dict[str, str]
    unmatched: dict[str, list[str]] = field(default_factory=dict)

    @property
    def unexpected(self) -> list[Leak]:
        """Leaks that are no known fault of a published split."""
        return [leak for leak in self.leaks if not leak.fault]


def audit_tasks(
    configurations: Sequence[str], records: Iterable[CaseRecord] | None = None
) -> Findings:
    """Audit each configuration alone, and those of one task and fold together.

    With ``records`` (the cases found on disk) patients, DICOM series and content are compared too,
    of the cases that are among them; the others are named.

    Raises
    ------
    ConfigError
        A configuration does not exist.
    """
    known = None if records is None else list(records)
    found = index_records(known or ())
    findings = Findings([], [], {})
    by_fold: dict[tuple[str, int | None], dict[str, dict[str, list[CaseRecord]]]] = {}
    for name in configurations:
        subtask, fold = tasks.configuration(name)
        try:
            parts = as_records(published_parts(name, known), subtask, found)
        except SplitError as fault:
            findings.skipped[name] = str(fault)
            continue
        findings.audited.append(name)
        if known is not None and (lost := _without_file(parts, found)):
            findings.unmatched[name] = lost
        findings.leaks += _with_faults(audit(parts), subtask.task, name)
        by_fold.setdefault((subtask.task, fold), {})[name] = parts
    # Subtasks of a fold share scans: a pair that leaks within one is no news between two.
    within = {_pair(leak) for leak in findings.leaks}
    for (task, _), together in by_fold.items():
        findings.leaks += [
            dataclasses.replace(leak, fault=published_fault(leak, task, across=True))
            for leak in audit_together(together)
            if _pair(leak) not in within
        ]
    return findings


def audit_files(
    splits: Mapping[str, Mapping[str, list[CaseRecord]]],
    records: Iterable[CaseRecord] | None = None,
) -> Findings:
    """Audit splits of one's own, each alone; ``records`` add what the files on disk know.

    A case is found by its dataset, cohort and ID; without a cohort of its own, by dataset and ID
    where only one cohort of the dataset has that ID.
    """
    by_key: dict[CaseKey, list[CaseRecord]] = defaultdict(list)
    for record in records or ():
        by_key[record.key].append(record)
    findings = Findings([], [], {})
    for name, parts in splits.items():
        completed: dict[str, list[CaseRecord]] = {}
        for part, cases in parts.items():
            completed[part] = []
            for record in cases:
                found = _matching(record, by_key.get(record.key, []))
                completed[part].append(_completed(record, found))
                if found is None and records is not None:
                    findings.unmatched.setdefault(name, []).append(str(record.key))
        findings.audited.append(name)
        findings.leaks += _with_faults(audit(completed), "", name)
    return findings


def _without_file(
    parts: Mapping[str, list[CaseRecord]], found: Mapping[Place, CaseRecord]
) -> list[str]:
    lost = {
        record.key
        for cases in parts.values()
        for record in cases
        if (record.dataset, record.cohort, record.case_id) not in found
    }
    return [str(key) for key in sorted(lost)]


def _pair(leak: Leak) -> tuple[str, CaseKey, str, CaseKey]:
    return leak.first.part, leak.first.case, leak.second.part, leak.second.case


def _with_faults(leaks: list[Leak], task: str, configuration: str) -> list[Leak]:
    return [
        dataclasses.replace(
            leak,
            first=leak.first._replace(configuration=configuration),
            second=leak.second._replace(configuration=configuration),
            fault=published_fault(leak, task),
        )
        for leak in leaks
    ]


def _matching(record: CaseRecord, found: list[CaseRecord]) -> CaseRecord | None:
    exact = [other for other in found if other.cohort == record.cohort]
    if not exact and record.cohort == CaseRecord.cohort:
        exact = found
    return exact[0] if len(exact) == 1 else None


def _completed(record: CaseRecord, found: CaseRecord | None) -> CaseRecord:
    """What the user's file says, and what is known of the case where it says nothing."""
    if found is None:
        return record
    return dataclasses.replace(
        record,
        cohort=found.cohort,
        patient_id=record.patient_id or found.patient_id,
        series_uid=record.series_uid or found.series_uid,
        content_hash=record.content_hash or found.content_hash,
    )
