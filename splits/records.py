"""What a split is made of: names of cases, and what is known of each for the audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class CaseKey(NamedTuple):
    """The name of a scan: the key of its dataset and its case ID there."""

    dataset: str
    case_id: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.case_id}" if self.dataset else self.case_id


@dataclass(frozen=True)
class CaseRecord:
    """A case that was found, as far as splits and the audit need to know it.

    ``cohort`` is the part of its dataset that the case belongs to where the dataset has parts
    (``train``, ``validation``, ``test_seen``, ``unlabelled``, ...). ``series_uid`` is the DICOM
    series; ``content_hash`` a hash of the voxels, the same for the same pixels in another file.
    """

    dataset: str
    case_id: str
    patient_id: str | None = None
    cohort: str = "labelled"
    series_uid: str | None = None
    content_hash: str | None = None

    @property
    def key(self) -> CaseKey:
        return CaseKey(self.dataset, self.case_id)
