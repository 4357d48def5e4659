"""The deny-list: no scan that measures a model, or shows a patient who does, is learnt from.

A scan of the pool is refused where its name, patient, DICOM series or voxels are those of a scan in
an evaluation part (`covidseg.splits.identity` says who is who), and where its voxels are such a
scan's turned or mirrored. One that is learnt from with its label is refused too: there is nothing
in it to learn twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from covidseg.engine.task_data import Row, part_names, read_part
from covidseg.splits import tasks
from covidseg.splits.audit import audit, side
from covidseg.splits.records import CaseRecord

_WORDS = {
    "scan": "the same scan",
    "content": "the same pixels",
    "values": "the same pixels, turned or mirrored",
    "series": "the same DICOM series",
    "patient": "the same patient",
}
# Kinds of evidence that a scan itself, not only its patient, stands in another part.
SAME_SCAN = ("scan", "content", "values", "series")
LABELLED = "labelled"


@dataclass(frozen=True)
class Denied:
    """A scan that must not be in the pool.

    ``values`` is its `covidseg.imaging.content.values_hash`, None where it is not known.
    """

    record: CaseRecord
    part: str
    values: str | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a scan is not taken: ``kind`` of evidence, the case it is the same as, and its part."""

    kind: str
    same_as: str
    part: str

    @property
    def reason(self) -> str:
        """In words: the same patient as covid1920/volume-covid19-A-0004 in validation."""
        return f"{_WORDS.get(self.kind, self.kind)} as {self.same_as} in {self.part}"

    @property
    def of_evaluation(self) -> bool:
        """Whether the scan itself stands in a part that measures."""
        return self.kind in SAME_SCAN and self.part != LABELLED


def evaluation_rows(hub: str | Path, configurations: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of every part that measures a model of these configurations, by the part's name.

    Those of the configurations, and of their task's single split where there is one: a model of
    ``covid1920-fold0`` is also measured on the challenge's validation scans, one of
    ``semiseg-fold0`` on COVID-SemiSeg's test part.
    """
    found: dict[str, list[Row]] = {}
    wholes = (_whole(hub, name) for name in configurations)
    for name in dict.fromkeys((*configurations, *(whole for whole in wholes if whole))):
        for part in part_names(hub, name):
            if side(part) == 0:
                continue
            known = found.setdefault(part, [])
            ids = {(row.dataset, row.case.case_id) for row in known}
            rows = read_part(hub, name, part).rows
            known += [row for row in rows if (row.dataset, row.case.case_id) not in ids]
    return found


def _whole(hub: str | Path, configuration: str) -> str | None:
    """The configuration without folds that has the same name otherwise, if the hub has it."""
    from datasets import get_dataset_config_names

    subtask, _ = tasks.configuration(configuration.removesuffix("-clean"))
    held = get_dataset_config_names(str(Path(hub)))
    return subtask.name if subtask.name in held else None


def refusals(
    pool: Mapping[str, Sequence[CaseRecord]],
    values: Mapping[str, str],
    denied: Sequence[Denied],
) -> dict[str, Refusal]:
    """The scans of the pool that must not be learnt from, each with its strongest evidence.

    Parameters
    ----------
    pool
        What each scan is known as, by its case ID; a scan of unknown origin may have a record for
        every data set that it could be of.
    values
        `covidseg.imaging.content.values_hash` of the scans that it is known of.
    denied
        Scans of evaluation parts, and of the part that is learnt from (``LABELLED``).
    """
    names: dict[str, list[str]] = {}
    records = []
    for case_id, known_as in pool.items():
        for record in known_as:
            # The audit knows a case by data set and name alone; here one scan can have several.
            names.setdefault(str(record.key), []).append(case_id)
            records.append(record)
    parts: dict[str, list[CaseRecord]] = {"unlabelled": records}
    for one in denied:
        parts.setdefault(f"test: {one.part}", []).append(one.record)
    found: dict[str, Refusal] = {}
    for leak in audit(parts):
        part = leak.second.part.removeprefix("test: ")
        if part == LABELLED and leak.kind == "patient":
            continue  # another scan of a patient whose label is learnt from is no leak
        refusal = Refusal(leak.kind, str(leak.second.case), part)
        for case_id in names[str(leak.first.case)]:
            known = found.get(case_id)
            if known is None or _rank(refusal) < _rank(known):
                found[case_id] = refusal
    owner = {one.values: one for one in denied if one.values}
    for case_id, value in values.items():
        if value in owner and case_id not in found:
            same = owner[value]
            found[case_id] = Refusal("values", str(same.record.key), same.part)
    return found


def _rank(refusal: Refusal) -> tuple[bool, int]:
    return refusal.part == LABELLED, list(_WORDS).index(refusal.kind)


def as_if_of(record: CaseRecord, datasets: Sequence[str]) -> list[CaseRecord]:
    """A record for each data set that a scan of unknown origin could be of, by its name."""
    return [replace(record, dataset=dataset) for dataset in datasets]
