"""Which configurations the cases found are enough for, and the rows of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from covidseg.core.errors import SplitError
from covidseg.registry import hub_rows
from covidseg.registry.cases import Case
from covidseg.registry.datasets import DATASETS
from covidseg.registry.hub_volumes import Notes
from covidseg.splits import tasks
from covidseg.splits.load import CLEAN_SUFFIX, Place, Split, load_split
from covidseg.splits.records import CaseKey, CaseRecord

# Parts that a configuration can do without: they are of other datasets or cohorts than the one it
# is trained on, and somebody who does not have those can still train.
_OPTIONAL = ("test_covid", "test_mosmed", "test_seen", "test_unseen", "unlabelled")
# Parts whose labels were never all public.
_MAYBE_UNLABELLED = ("test_seen", "test_unseen", "unlabelled")
_NAMED = 4


@dataclass
class Configuration:
    """One configuration to write: its parts as rows, and what is to be said about it.

    ``refused`` lists the scans that were not taken into the unlabelled pool: the case, the kind of
    evidence, and the case that it is the same as, with that one's part.
    """

    name: str
    title: str
    columns: pa.Schema
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    split_sha256: str = ""
    refused: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Held:
    """The cases that can be used: sound image, one file for the case, and their notes."""

    cases: dict[Place, Case]
    notes: dict[Place, Notes]
    phantom: set[Place]

    def records(self) -> list[CaseRecord]:
        """What splits need to know of each case."""
        return [
            CaseRecord(
                case.dataset,
                case.case_id,
                case.patient_id,
                case.cohort,
                self.notes[place].series_uid,
                self.notes[place].content_hash or None,
            )
            for place, case in self.cases.items()
        ]

    def of(self, dataset: str) -> list[Place]:
        """Places of a dataset's cases, in the order they were found."""
        return [place for place in self.cases if place[0] == dataset]


@dataclass
class Plan:
    """Configurations that can be written, and why the others cannot."""

    configurations: list[Configuration] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    leaks: dict[str, str] = field(default_factory=dict)


class _Incomplete(Exception):
    """A part lacks cases; the text says which."""


def plan(held: Held, partial: bool = False) -> Plan:
    """Every configuration that ``held`` is enough for.

    A configuration is left out where a case of its published lists is missing or has no usable
    label, since a split with other cases is another split; with ``partial`` it is made of those
    there are and says so. A part of another dataset (``test_mosmed``) is left out alone. Whole
    datasets are always made of what there is.
    """
    result = Plan()
    records = held.records()
    for name in tasks.configurations():
        _add_task(result, held, records, name, partial)
    for dataset in DATASETS:
        places = held.of(dataset)
        if places and dataset not in tasks.configurations():
            result.configurations.append(_whole(held, dataset, places))
    return result


def _add_task(
    result: Plan, held: Held, records: list[CaseRecord], name: str, partial: bool
) -> None:
    subtask, _ = tasks.configuration(name)
    needed = {
        annotation
        for part, annotations in subtask.parts.items()
        if part not in _OPTIONAL
        for annotation in annotations
    }
    if absent := sorted({a.dataset for a in needed if not held.of(a.dataset)}):
        result.left_out[name] = "no cases found of " + ", ".join(absent)
        return
    unmarked = sorted({(a.dataset, a.name) for a in needed if not _has_annotation(held, a)})
    if unmarked and name not in DATASETS:
        result.left_out[name] = "; ".join(
            f"no annotation {annotation!r} found for {dataset}" for dataset, annotation in unmarked
        )
        return
    # Records of datasets that a task does not use would only cost time.
    used = {a.dataset for annotations in subtask.parts.values() for a in annotations}
    records = [record for record in records if record.dataset in used]
    try:
        clean = load_split(name, "patient-clean", records, partial=True)
    except SplitError as fault:
        result.left_out[name] = str(fault)
        return
    variants = [clean] if clean.removed else []
    try:
        variants.insert(0, load_split(name, "official", records, partial=True))
    except SplitError as fault:
        result.left_out[name] = result.leaks[name] = str(fault)
    for split in variants:
        try:
            result.configurations.append(_of_split(held, split, partial))
        except _Incomplete as fault:
            result.left_out[split.configuration] = str(fault)


def _has_annotation(held: Held, annotation: tasks.Annotation) -> bool:
    return any(
        annotation.name in held.notes[place].annotations for place in held.of(annotation.dataset)
    )


def _of_split(held: Held, split: Split, partial: bool) -> Configuration:
    subtask = split.subtask
    whole = split.name in DATASETS
    annotations = []
    if whole:
        in_label = {a.name for used in subtask.parts.values() for a in used}
        annotations = [n for n in _annotations(held, held.of(split.name)) if n not in in_label]
    made = Configuration(
        split.configuration,
        subtask.title,
        hub_rows.schema(annotations),
        split_sha256=split.sha256,
    )
    if split.variant == "patient-clean":
        made.notes.append(
            "patient-clean variant, without "
            + _listed(f"{leak.first.case.case_id} in {leak.first.part}" for leak in split.removed)
        )
    elif split.faults:
        made.notes.append(f"has known leaks; see {split.name}{CLEAN_SUFFIX}")
    if split.refused:
        made.notes.append(
            f"{len({leak.first.case for leak in split.refused})} scans of the unlabelled pool are"
            " left out: they stand in another part"
        )
        made.refused = [
            {
                "case": str(leak.first.case),
                "kind": leak.kind,
                "same_as": str(leak.second.case),
                "part": leak.second.part,
            }
            for leak in split.refused
        ]
    for part, cases in split.parts.items():
        optional = part in _OPTIONAL or whole
        try:
            rows = _rows(held, split, part, cases, annotations, partial or whole, made.notes)
        except _Incomplete as fault:
            if not optional:
                raise
            made.notes.append(f"without {part}: {fault}")
            continue
        if rows:
            made.parts[part] = rows
    if "train" not in made.parts and not whole:
        raise _Incomplete("no training cases")
    if not made.parts:
        raise _Incomplete("no cases")
    return made


def _rows(
    held: Held,
    split: Split,
    part: str,
    cases: Iterable[CaseKey],
    annotations: list[str],
    partial: bool,
    said: list[str],
) -> list[dict[str, Any]]:
    targets = split.subtask.targets
    rows, missing, unlabelled = [], [], []
    for key in cases:
        annotation = split.subtask.annotation(part, key.dataset)
        place = (key.dataset, annotation.cohort, key.case_id)
        if place not in held.cases:
            missing.append(key)
            continue
        notes = held.notes[place]
        annotated = notes.annotations.get(annotation.name)
        if annotated is not None and annotated.fault:
            annotated = None
        may_lack = part in _MAYBE_UNLABELLED or split.subtask.task == "covid1920"
        if annotated is None and not may_lack:
            unlabelled.append(key)
            continue
        rows.append(
            hub_rows.case_columns(held.cases[place], notes, place in held.phantom)
            | hub_rows.label_columns(annotation, annotated, targets)
            | (hub_rows.annotation_columns(notes, annotations) if annotations else {})
        )
    lacking = [
        *_of_datasets(missing, "missing"),
        *_of_datasets(unlabelled, "without a usable label"),
    ]
    if split.incomplete and part in ("train", "validation"):
        lacking.append(split.incomplete)
    if not lacking:
        return rows
    text = "; ".join(lacking)
    if not partial or not rows:
        raise _Incomplete(text)
    said.append(f"{part} is incomplete: {text}")
    return rows


def _of_datasets(cases: list[CaseKey], finding: str) -> list[str]:
    counts = Counter(case.dataset for case in cases)
    return [
        f"{count} {dataset} cases {finding} "
        f"({_listed(case.case_id for case in cases if case.dataset == dataset)})"
        for dataset, count in counts.items()
    ]


def _whole(held: Held, dataset: str, places: list[Place]) -> Configuration:
    annotations = _annotations(held, places)
    made = Configuration(
        dataset,
        f"{DATASETS[dataset].title}: all cases found",
        hub_rows.schema(annotations, label=False),
    )
    for place in places:
        row = hub_rows.case_columns(held.cases[place], held.notes[place], place in held.phantom)
        if annotations:
            row |= hub_rows.annotation_columns(held.notes[place], annotations)
        made.parts.setdefault(place[1], []).append(row)
    return made


def _annotations(held: Held, places: Iterable[Place]) -> list[str]:
    """Annotations that any of the cases has, in the order that the dataset declares."""
    found: Mapping[str, None] = {
        name: None for place in places for name in held.notes[place].annotations
    }
    datasets = {place[0] for place in places}
    return [name for key in datasets for name in DATASETS[key].annotations if name in found]


def _listed(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
