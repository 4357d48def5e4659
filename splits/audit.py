"""Looking for leaks: the same scan, patient, DICOM series or pixels on both sides of a split.

Works on any split, also one of your own: parts are named lists of `CaseRecord`, and what is not
known of a case is simply not compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from covidseg.splits import canonical
from covidseg.splits.identity import Certainty, Identity, Kind, identities
from covidseg.splits.records import CaseKey, CaseRecord

# The strongest evidence first; a pair of cases is reported once, by its strongest.
_STRENGTH: tuple[Kind, ...] = ("scan", "content", "series", "patient")
_SIDES = {"train": 0, "unlabelled": 0, "unlabeled": 0, "labelled": 0, "val": 1, "dev": 1, "test": 2}


class Place(NamedTuple):
    """Where a case stands: its part, and whose part that is where several splits are audited."""

    part: str
    case: CaseKey
    configuration: str = ""

    def __str__(self) -> str:
        return f"{self.case} in {self.part}" + (
            f" of {self.configuration}" if self.configuration else ""
        )


@dataclass(frozen=True)
class Leak:
    """Two cases that are the same scan, pixels, series or patient, one on either side of a split.

    ``first`` stands on the side that a model learns from (or is chosen on), ``second`` on the side
    that measures it. ``fault`` is the reason why a published split has this leak; it is empty for a
    leak that nobody has written down.
    """

    kind: Kind
    value: str
    certainty: Certainty
    first: Place
    second: Place
    fault: str = field(default="", compare=False)

    def __str__(self) -> str:
        doubt = "perhaps " if self.certainty == "suspected" else ""
        same = {"content": "the same pixels", "series": "the same DICOM series"}.get(
            self.kind, f"the same {self.kind}"
        )
        return f"{self.first} and {self.second}: {doubt}{same}"


def side(part: str) -> int | str:
    """The side a part stands on: 0 learns, 1 (val...) chooses, 2 (test...) measures.

    A part of any other name (``fold3``) is a side of its own.
    """
    lowered = part.lower()
    return next((rank for name, rank in _SIDES.items() if lowered.startswith(name)), part)


def audit(parts: Mapping[str, Iterable[CaseRecord]]) -> list[Leak]:
    """All leaks between the sides of one split.

    Parameters
    ----------
    parts
        Name of a part (``train``, ``validation``, ``test``, ``test_mosmed``, ``unlabelled``, or
        any other) and its cases. Parts of one side are not compared with each other.
    """
    places = [(Place(part, record.key), record) for part, all_ in parts.items() for record in all_]
    return _leaks(places, across=False)


def audit_together(configurations: Mapping[str, Mapping[str, Iterable[CaseRecord]]]) -> list[Leak]:
    """Leaks between one configuration's sides and another's: of a model that learns from all."""
    places = [
        (Place(part, record.key, name), record)
        for name, parts in configurations.items()
        for part, all_ in parts.items()
        for record in all_
    ]
    return _leaks(places, across=True)


def _leaks(places: list[tuple[Place, CaseRecord]], across: bool) -> list[Leak]:
    sharing: dict[Identity, list[Place]] = defaultdict(list)
    for place, record in places:
        for identity in identities(record):
            sharing[identity].append(place)
    found: dict[tuple[Place, Place], Leak] = {}
    for identity, together in sharing.items():
        for one, other in combinations(together, 2):
            if side(one.part) == side(other.part):
                continue
            if across and one.configuration == other.configuration:
                continue
            first, second = sorted((one, other), key=lambda place: str(side(place.part)))
            leak = Leak(identity.kind, identity.value, identity.certainty, first, second)
            known = found.get((first, second))
            if known is None or _rank(leak) < _rank(known):
                found[first, second] = leak
    return sorted(found.values(), key=lambda leak: (leak.second, leak.first))


def _rank(leak: Leak) -> tuple[bool, int]:
    return leak.certainty == "suspected", _STRENGTH.index(leak.kind)


def published_fault(leak: Leak, task: str, across: bool = False) -> str:
    """Why the published split of ``task`` has this leak; empty if it is not a known fault of it."""
    cases = {leak.first.case, leak.second.case}
    for fault in canonical.read("faults")["faults"]:
        if (
            task in fault["tasks"]
            and fault["scope"] == ("across" if across else "within")
            and fault["kind"] == leak.kind
            and all(case.dataset == fault["dataset"] for case in cases)
            and (not fault["cases"] or all(case.case_id in fault["cases"] for case in cases))
        ):
            return fault["why"]
    return ""
