"""Loading a split by the name of its configuration, refused where it leaks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from covidseg.core.errors import ConfigError, SplitError
from covidseg.splits import canonical, tasks
from covidseg.splits.audit import Leak, audit, published_fault, side
from covidseg.splits.canonical import Parts
from covidseg.splits.nnunet import nnunet_folds
from covidseg.splits.records import CaseKey, CaseRecord

Variant = Literal["official", "patient-clean"]
VARIANTS: tuple[Variant, ...] = ("official", "patient-clean")
CLEAN_SUFFIX = "-clean"


@dataclass(frozen=True)
class Split:
    """The parts of one configuration, each a tuple of case keys in the published order.

    ``faults`` are the leaks that the published lists have and the official variant keeps;
    ``removed`` are the leaks that the patient-clean variant was freed of, each by leaving out the
    case of its ``first`` side. ``refused`` says why cases of COVID-19-20's unlabelled pool were
    left out of it, in either variant: they stand in another part. ``incomplete`` says why this is
    not the published split, as too few cases were found to make it; else it is empty.
    """

    name: str
    variant: Variant
    subtask: tasks.Subtask
    fold: int | None
    parts: Parts
    faults: tuple[Leak, ...] = ()
    removed: tuple[Leak, ...] = ()
    refused: tuple[Leak, ...] = ()
    incomplete: str = ""

    @property
    def configuration(self) -> str:
        """Name with the variant in it: ``task1-infection-fold2-clean``."""
        return self.name + (CLEAN_SUFFIX if self.variant == "patient-clean" else "")

    @property
    def sha256(self) -> str:
        """Hash of the parts and their cases, for a result's manifest."""
        listed = {part: [str(case) for case in cases] for part, cases in self.parts.items()}
        return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()

    def cases(self) -> set[CaseKey]:
        """Every case of every part."""
        return {case for cases in self.parts.values() for case in cases}


def load_split(
    name: str,
    variant: Variant = "official",
    records: Iterable[CaseRecord] | None = None,
    partial: bool = False,
) -> Split:
    """The split of configuration ``name`` (``task1-infection-fold2``).

    ``official`` is the published split. ``patient-clean`` is the same without its leaks, by one
    rule: of two cases that are (or are suspected to be) one scan or patient, the one on the side
    that is learnt from is left out, so that the test part stays whole and comparable; between
    validation and test, validation loses. A name with the suffix ``-clean`` asks for it too.

    Parameters
    ----------
    records
        The cases found on disk. COVID-19-20 and the test and unlabelled parts of COVID-SemiSeg are
        made from them, as the names of those cases are not published; for every task they add
        what only the files know (patients, DICOM series, content) to the audit.
    partial
        Make folds also of fewer COVID-19-20 scans than there are; ``incomplete`` says so. They are
        other folds than those of all 199, as nnU-Net's rule deals out the sorted names.

    Raises
    ------
    ConfigError
        No such configuration or variant.
    SplitError
        A scan, patient, series or content stands on both sides, and that is not a known fault of
        the published lists; or the parts need ``records`` and there are none, or too few.
    """
    if name.endswith(CLEAN_SUFFIX):
        name, variant = name.removesuffix(CLEAN_SUFFIX), "patient-clean"
    if variant not in VARIANTS:
        raise ConfigError(f"variant {variant!r} is not known", expected=" or ".join(VARIANTS))
    subtask, fold = tasks.configuration(name)
    records = None if records is None else list(records)
    found = index_records(records or ())
    incomplete = "" if records is None else _fewer_than_expected(subtask, found)
    if incomplete and not partial:
        raise SplitError(
            f"split {name} cannot be made: {incomplete}",
            remedy="`covidseg check` says which scans are missing; or ask for these other folds "
            "(load_split(..., partial=True), `covidseg build --partial`)",
        )
    parts, refused = _published(subtask, fold, found if records is not None else None)
    leaks = [
        dataclasses.replace(leak, fault=published_fault(leak, subtask.task))
        for leak in audit(as_records(parts, subtask, found))
    ]
    split = Split(
        name, variant, subtask, fold, parts, refused=tuple(refused), incomplete=incomplete
    )
    if variant == "patient-clean":
        lost = {(leak.first.part, leak.first.case) for leak in leaks}
        clean = {
            part: tuple(case for case in cases if (part, case) not in lost)
            for part, cases in parts.items()
        }
        return dataclasses.replace(split, parts=clean, removed=tuple(leaks))
    if surprises := [leak for leak in leaks if not leak.fault]:
        more = f" and {len(surprises) - 1} more" if len(surprises) > 1 else ""
        raise SplitError(
            f"split {name} leaks: {surprises[0]}{more}",
            expected="no scan, patient, series or content on both sides",
            remedy="look at `covidseg splits audit`, remove the duplicate files, or use the "
            f"patient-clean variant ({name}{CLEAN_SUFFIX})",
        )
    return dataclasses.replace(split, faults=tuple(leaks))


def published_parts(name: str, records: Iterable[CaseRecord] | None = None) -> Parts:
    """The official parts of a configuration, not audited; as `load_split` otherwise."""
    subtask, fold = tasks.configuration(name)
    found = None if records is None else index_records(records)
    return _published(subtask, fold, found)[0]


def has_clean_variant(name: str, records: Iterable[CaseRecord] | None = None) -> bool:
    """Whether the patient-clean variant of a configuration differs from the official one."""
    return bool(load_split(name, "patient-clean", records, partial=True).removed)


Place = tuple[str, str, str]
"""Dataset, cohort and case ID: what names a case on disk."""


def index_records(records: Iterable[CaseRecord]) -> dict[Place, CaseRecord]:
    """Records by dataset, cohort and case ID; `SplitError` where two files claim one case."""
    index: dict[Place, CaseRecord] = {}
    for record in records:
        place = (record.dataset, record.cohort, record.case_id)
        if place in index:
            raise SplitError(
                f"case {record.key} is there twice", remedy="keep one of the two files of that name"
            )
        index[place] = record
    return index


def as_records(
    parts: Mapping[str, Iterable[CaseKey]],
    subtask: tasks.Subtask,
    found: Mapping[Place, CaseRecord] | None = None,
) -> dict[str, list[CaseRecord]]:
    """Parts of case keys as parts of records: what was found of a case, else its name alone."""
    found = found or {}
    as_part = {}
    for part, cases in parts.items():
        cohorts = {annotation.dataset: annotation.cohort for annotation in subtask.parts[part]}
        as_part[part] = [
            found.get((case.dataset, cohorts[case.dataset], case.case_id))
            or CaseRecord(case.dataset, case.case_id, cohort=cohorts[case.dataset])
            for case in cases
        ]
    return as_part


def _published(
    subtask: tasks.Subtask, fold: int | None, found: dict[Place, CaseRecord] | None
) -> tuple[Parts, list[Leak]]:
    """The official parts, and why cases of an unlabelled pool were refused."""
    parts = _parts(subtask, fold, found)
    refused: list[Leak] = []
    if subtask.task in ("covid1920", "covid1920-folds"):
        parts["unlabelled"], refused = _pool(parts, subtask, found or {})
    return parts, refused


def _parts(
    subtask: tasks.Subtask, fold: int | None, found: dict[Place, CaseRecord] | None
) -> Parts:
    if subtask.task in ("covid1920", "covid1920-folds"):
        return _covid1920(subtask, fold, found)
    if subtask.task == "semiseg":
        return {
            **canonical.published("semiseg", "semiseg"),
            "test": _cohort("semiseg", "test", found),
            "unlabelled": _cohort("semiseg", "unlabelled", found),
        }
    if subtask.task == "semiseg-folds":
        return canonical.published("semiseg", "semiseg-folds", fold)
    # The three targets of Task 1 share their lists, and so do tumours and lungs of MSD in Task 3.
    lists = {"task1": "task1", "task1-reverse": "task1-reverse"}.get(
        subtask.task, subtask.name.replace("msd-lung", "msd-tumour")
    )
    parts = canonical.published(subtask.task, lists, fold)
    if "test_covid" in subtask.parts:
        parts["test_covid"] = tuple(
            CaseKey("covid-ct-seg", case) for case in canonical.canonical_cases("covid-ct-seg")
        )
    if "test_mosmed" in subtask.parts:
        parts["test_mosmed"] = canonical.published("mosmed", "mosmed")["labelled"]
    return parts


def _covid1920(
    subtask: tasks.Subtask, fold: int | None, found: dict[Place, CaseRecord] | None
) -> Parts:
    train = _cohort("covid1920", "train", found)
    parts = {"train": train, **canonical.published("covid1920", "covid1920")}
    if fold is not None:
        learnt, held_out = nnunet_folds(case.case_id for case in train)[fold]
        parts = {
            "train": tuple(CaseKey("covid1920", case) for case in learnt),
            "validation": tuple(CaseKey("covid1920", case) for case in held_out),
        }
    others = [part for part in subtask.parts if part not in parts]
    return parts | {part: _cohort("covid1920", part, found) for part in others}


def _fewer_than_expected(subtask: tasks.Subtask, found: Mapping[Place, CaseRecord]) -> str:
    if subtask.task != "covid1920-folds":
        return ""
    count = sum(place[:2] == ("covid1920", "train") for place in found)
    expected = canonical.expected_counts("covid1920")["train"]
    if count == expected:
        return ""
    return f"{count} training scans found instead of {expected}, which changes every fold"


def _pool(
    parts: Parts, subtask: tasks.Subtask, found: Mapping[Place, CaseRecord]
) -> tuple[tuple[CaseKey, ...], list[Leak]]:
    """What is left of the pool without the scans and patients that stand in another part.

    The pool of COVID-19-20 is the collection that the challenge's own scans were taken from.
    """
    records = as_records(parts, subtask, found)
    evaluated = {part: cases for part, cases in records.items() if side(part) != 0}
    # The challenge's validation part is evaluated too where a fold has a validation of its own.
    whole, _ = tasks.configuration("covid1920")
    evaluated["test of the challenge"] = as_records(
        canonical.published("covid1920", "covid1920"), whole, found
    )["validation"]
    pool = {"unlabelled": records["unlabelled"]}
    refused = [leak for leak in audit(pool | evaluated) if leak.first.part == "unlabelled"]
    # A labelled training scan again is no leak, but there is nothing to learn from it twice.
    again = audit(pool | {"scans to train": records["train"]})
    refused += [leak for leak in again if leak.kind != "patient"]
    gone = {leak.first.case for leak in refused}
    return tuple(case for case in parts["unlabelled"] if case not in gone), refused


def _cohort(
    dataset: str, cohort: str, found: dict[Place, CaseRecord] | None
) -> tuple[CaseKey, ...]:
    if found is None:
        raise SplitError(
            f"the names of the {cohort} cases of {dataset} are not published",
            remedy="name the folder that holds them (--root), or give records= to load_split",
        )
    return tuple(
        sorted(
            record.key
            for record in found.values()
            if record.dataset == dataset and record.cohort == cohort
        )
    )
