"""Predictions under the names that COVID-19-20's site takes, for parts whose labels are not public.

The challenge's validation scans are submitted under the digits of their names without the first
zero: ``volume-covid19-A-0180_0`` as ``180_0.nii.gz``. Test scans keep their own names.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from covidseg.core.files import atomic_file

_VALIDATION = re.compile(r"volume-covid19-A-0(\d{3}(?:_\d+)?)")


def submitted_name(case_id: str, part: str) -> str:
    """File name of a case's label map in a submission."""
    match = _VALIDATION.fullmatch(case_id)
    return f"{match[1] if match and part == 'validation' else case_id}.nii.gz"


def write_submission(
    predictions: Path, case_ids: Iterable[str], part: str, target: Path
) -> list[str]:
    """Put the cases' label maps into the archive ``target``; return those that there is none of."""
    absent = []
    with atomic_file(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for case_id in sorted(case_ids):
            path = predictions / f"{case_id}.nii.gz"
            if path.exists():
                archive.write(path, submitted_name(case_id, part))
            else:
                absent.append(case_id)
    return absent
