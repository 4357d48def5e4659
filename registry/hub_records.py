"""What splits need to know of the cases below a folder: patients, DICOM series, content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from covidseg.core.errors import CovidsegError
from covidseg.core.parallel import map_cases
from covidseg.registry.cases import Case
from covidseg.registry.find import find_cases
from covidseg.splits.records import CaseRecord


def find_records(
    root: str | os.PathLike[str], datasets: Sequence[str] | None = None
) -> list[CaseRecord]:
    """A record of every case below ``root`` from names alone; no image is opened.

    Raises
    ------
    LayoutError
        Nothing is found, or two scans claim one case of ``datasets``.
    """
    found = find_cases(root, datasets)
    found.require_any()
    found.require_unique()
    return [_named(case) for case in found.cases]


def read_records(
    root: str | os.PathLike[str],
    datasets: Sequence[str] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[list[CaseRecord], list[str]]:
    """Records with DICOM series and a hash of the content, for which every image is read.

    Returns the records and one line for each image that cannot be read, whose record says what its
    name does, and for each folder that may not be listed, whose cases are not known.
    """
    found = find_cases(root, datasets)
    found.require_any()
    found.require_unique()
    records = []
    faults = [f"{path}: cannot be listed ({reason.lower()})" for path, reason in found.unreadable]
    for case, result in map_cases(
        _read, found.cases, workers=workers, description="reading", progress=progress
    ):
        if isinstance(result, Exception):
            records.append(_named(case))
            faults.append(
                str(result) if isinstance(result, CovidsegError) else f"{case.image}: {result!r}"
            )
        else:
            records.append(result)
    return records, faults


def _named(case: Case) -> CaseRecord:
    return CaseRecord(
        case.dataset, case.case_id, case.patient_id, case.cohort, series_uid=case.series_uid
    )


def _read(case: Case) -> CaseRecord:
    from covidseg.imaging.content import oriented_content_hash
    from covidseg.registry.read import ct_series, read_image

    series = ct_series(case)
    return replace(
        _named(case),
        series_uid=series.uid if series else case.series_uid,
        content_hash=oriented_content_hash(read_image(case)),
    )
