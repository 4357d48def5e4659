"""Reading a split of somebody's own, for the audit."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from covidseg.core.errors import SplitError
from covidseg.splits import tasks
from covidseg.splits.canonical import canonical_cases
from covidseg.splits.identity import published_name
from covidseg.splits.records import CaseRecord

_NNUNET_FOLDER = re.compile(r"(images|labels)T[rs]$")

Parts = dict[str, list[CaseRecord]]

_FIELDS = ("dataset", "case_id", "patient_id", "cohort", "series_uid", "content_hash")
_FORMS = (
    '{"train": [...], "test": [...]}, or a list of such folds, of case IDs; or a CSV table with the'
    " columns part and case_id, and optionally fold, dataset, patient_id, series_uid, content_hash"
)


def read_split_file(path: str | Path) -> dict[str, Parts]:
    """The splits in a JSON or CSV file by name: ``fold0``, ... where it has folds, else one.

    JSON is a mapping of parts to cases, or a list of them (nnU-Net's ``splits_final.json``), or a
    mapping of names to them. A case is its ID (``LUNG1-001``), its dataset and ID
    (``nsclc/LUNG1-001``), or a mapping with the fields of `CaseRecord`. A bare ID that is a
    canonical one is taken to be of that dataset.

    Raises
    ------
    SplitError
        The file cannot be read or is neither.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise SplitError(f"cannot be read ({fault})", path=path) from fault
    found = _from_csv(text, path) if path.suffix.lower() == ".csv" else _from_json(text, path)
    if not any(cases for parts in found.values() for cases in parts.values()):
        raise SplitError("holds no cases", path=path, expected=_FORMS)
    return found


def _from_json(text: str, path: Path) -> dict[str, Parts]:
    try:
        content = json.loads(text)
    except ValueError as fault:
        raise SplitError(f"is not JSON ({fault})", path=path, expected=_FORMS) from fault
    if isinstance(content, list):
        content = {f"fold{k}": fold for k, fold in enumerate(content)}
    elif isinstance(content, dict) and any(isinstance(v, list) for v in content.values()):
        content = {path.stem: content}
    if not isinstance(content, dict):
        raise SplitError("is no split", path=path, expected=_FORMS)
    return {str(name): _parts(parts, path) for name, parts in content.items()}


def _parts(content: Any, path: Path) -> Parts:
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        raise SplitError(f"has {str(content)[:60]!r} for a split", path=path, expected=_FORMS)
    return {part: [_record(case, path) for case in cases] for part, cases in content.items()}


def _record(case: Any, path: Path) -> CaseRecord:
    if isinstance(case, str):
        before, _, name = case.rpartition("/")
        if before in tasks.DATASETS:
            return _completed({"dataset": before, "case_id": name}, path)
        # A folder, or a dataset that is not known here.
        record = _completed({"case_id": name}, path)
        if record.dataset or _NNUNET_FOLDER.search(before):
            return record
        return dataclasses.replace(record, dataset=before)
    if isinstance(case, dict) and case.keys() <= set(_FIELDS):
        return _completed(case, path)
    raise SplitError(
        f"has the case {str(case)[:80]!r}",
        path=path,
        expected="a case ID, dataset/ID, or a mapping with case_id and any of "
        + ", ".join(_FIELDS),
    )


def _completed(fields: dict[str, Any], path: Path) -> CaseRecord:
    given = {name: str(value).strip() for name, value in fields.items() if value not in (None, "")}
    case_id = re.sub(r"\.nii(\.gz)?$", "", given.pop("case_id", ""))
    if not case_id:
        raise SplitError(f"has a case without an ID: {fields}", path=path)
    # nnU-Net's images carry the number of their channel, its splits do not.
    case_id = published_name(re.sub(r"_0000$", "", case_id))
    dataset = given.pop("dataset", "") or _dataset_of(case_id)
    return CaseRecord(dataset, case_id, **given)


def _dataset_of(case_id: str) -> str:
    known = _datasets_by_case().get(case_id, "")
    return known or next((name for name, called in _CALLED if called.fullmatch(case_id)), "")


# Cases whose names are not published but tell.
_CALLED = (
    ("covid1920", re.compile(r"volume-covid19-[A-Z]{1,3}-\d{3,4}(_\d+)?")),
    ("mosmed", re.compile(r"study_\d{4}")),
)


@cache
def _datasets_by_case() -> dict[str, str]:
    # Slices of COVID-SemiSeg are mere numbers, which anybody's cases may be.
    return {
        case: dataset
        for dataset in tasks.DATASETS
        if dataset != "semiseg"
        for case in canonical_cases(dataset)
    }


def _from_csv(text: str, path: Path) -> dict[str, Parts]:
    try:
        table = csv.DictReader(text.splitlines(), strict=True)
        rows = [(table.line_num, row) for row in table]
    except csv.Error as fault:
        raise SplitError(f"is not CSV ({fault})", path=path, expected=_FORMS) from fault
    columns = set(table.fieldnames or ())
    if not {"part", "case_id"} <= columns:
        raise SplitError(
            "has the columns " + ", ".join(sorted(columns)), path=path, expected=_FORMS
        )
    found: dict[str, Parts] = {}
    for line, row in rows:
        part = (row["part"] or "").strip()
        if not part:
            raise SplitError(f"has no part in line {line}", path=path, expected=_FORMS)
        name = f"fold{row['fold']}" if row.get("fold") else path.stem
        record = _completed({field: row.get(field) for field in _FIELDS}, path)
        found.setdefault(name, {}).setdefault(part, []).append(record)
    return found
