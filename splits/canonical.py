"""The published case lists, read from the JSON files of this folder and verified as they are read.

Each file holds ``splits``: name -> ``folds``, a list with one mapping of parts to case IDs by
dataset for every fold, and ``lists_sha256``, the hash of those lists. A list that was edited by
mistake is refused before anything is trained on it.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from covidseg.core.errors import SplitError
from covidseg.splits.records import CaseKey

FILES = ("task1", "task1-reverse", "task2", "task3", "covid1920", "semiseg", "mosmed")

Parts = dict[str, tuple[CaseKey, ...]]


@cache
def read(name: str) -> dict[str, Any]:
    """The JSON file ``<name>.json`` of this package, its lists verified.

    Raises
    ------
    SplitError
        The lists are not those that were recorded.
    """
    file = resources.files("covidseg.splits") / f"{name}.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for split, entry in content.get("splits", {}).items():
        if lists_sha256(entry["folds"]) != entry["lists_sha256"]:
            raise SplitError(
                f"the case lists of {split} are not the published ones",
                path=str(file),
                remedy="restore the file, or reinstall covidseg",
            )
    return content


def lists_sha256(folds: list[dict[str, dict[str, list[str]]]]) -> str:
    """Hash of the case IDs of every fold and part, in order, whatever their dataset."""
    flat = [
        {
            part: [case for cases in by_dataset.values() for case in cases]
            for part, by_dataset in fold.items()
        }
        for fold in folds
    ]
    return hashlib.sha256(json.dumps(flat, separators=(",", ":")).encode()).hexdigest()


def published(file: str, split: str, fold: int | None = None) -> Parts:
    """The parts of a published split as case keys, in the published order."""
    chosen = read(file)["splits"][split]["folds"][fold or 0]
    return {
        part: tuple(
            CaseKey(dataset, case) for dataset, cases in by_dataset.items() for case in cases
        )
        for part, by_dataset in chosen.items()
    }


@cache
def canonical_cases(dataset: str) -> tuple[str, ...]:
    """Every case ID of ``dataset`` that a published list names, sorted.

    Of COVID-19-20 that is the validation part, of COVID-SemiSeg the training part: the names of
    the others are not recorded here, only their number (`expected_counts`).
    """
    cases = {
        case.case_id
        for file in FILES
        for split, entry in read(file)["splits"].items()
        for fold in range(len(entry["folds"]))
        for part in published(file, split, fold).values()
        for case in part
        if case.dataset == dataset
    }
    return tuple(sorted(cases, key=_natural))


def expected_counts(dataset: str) -> dict[str, int]:
    """Number of cases a cohort of ``dataset`` where the names themselves are not recorded."""
    return dict(read(dataset).get("expected", {})) if dataset in FILES else {}


def _natural(case: str) -> tuple:
    import re

    return tuple(int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", case))
