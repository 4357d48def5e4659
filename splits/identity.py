"""Who is who: which cases are one scan or one patient, within a dataset and across datasets."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, NamedTuple

from covidseg.splits import canonical
from covidseg.splits.records import CaseKey, CaseRecord

Kind = Literal["scan", "content", "series", "patient"]
Certainty = Literal["known", "suspected"]


class Identity(NamedTuple):
    """One thing that two records may share; sharing it makes them the same scan or patient."""

    kind: Kind
    value: str
    certainty: Certainty = "known"


_KAGGLE = re.compile(
    r"(?P<source>coronacases|radiopaedia)_org_(?:covid-19-pneumonia-)?(?P<number>\d+(?:_\d+)*)"
    r"(?:-dcm)?"
)


_COVID1920 = re.compile(r"volume-covid19-(?P<scan>[A-Z]{1,3}-\d{3,4}(?:_\d+)?)", re.IGNORECASE)
# Datasets whose cases bear their patients' names, a further scan's number left out.
_NAMED_BY_PATIENT = ("nsclc", "covid1920")


def published_name(case_id: str) -> str:
    """The published ID of a scan that goes by another name too.

    ``coronacases_org_001``, as the Kaggle mirror of COVID-19-CT-Seg has it, gives
    ``coronacases_001``, as the mirror's own masks are called; a name of COVID-19-20 gets the
    letters' case of the published ones. Any other name comes back as it is.
    """
    if match := _COVID1920.fullmatch(case_id):
        return f"volume-covid19-{match['scan'].upper()}"
    match = _KAGGLE.fullmatch(case_id)
    return f"{match['source']}_{match['number']}" if match else case_id


def patient_of(case: CaseKey) -> str:
    """Patient ID of a scan as far as its name and what is published say, within its dataset.

    ``radiopaedia_10_85902_1`` and ``_3`` are one patient. A suffix of a COVID-19-20 name
    (``volume-covid19-A-0047_1``) counts the scans of one patient. A slice of COVID-SemiSeg's
    unlabelled part has the patient of the COVID-19-CT-Seg scan that it was cut from. Every other
    scan is a patient of its own. Suspected pairs are kept apart here; the audit joins them.
    """
    parent = scan_of(case)
    if parent != case:
        return patient_of(parent)
    for group in _groups():
        if group["kind"] == "patient" and group["certainty"] == "known" and _named(case, group):
            return str(group["cases"][0]).rsplit("_", 1)[0]
    if case.dataset == "covid1920":
        return re.sub(r"(?<=-\d{4})_\d+$", "", case.case_id)
    return case.case_id


def scan_of(case: CaseKey) -> CaseKey:
    """The scan that a case is, or was cut from (an unlabelled slice of COVID-SemiSeg)."""
    if case.dataset == "semiseg" and (cut := _cut_from(case.case_id)):
        return CaseKey("covid-ct-seg", cut)
    for group in _groups():
        if group["kind"] == "scan" and _named(case, group):
            return CaseKey(case.dataset, group["cases"][0])
    return case


def identities(record: CaseRecord) -> list[Identity]:
    """Everything by which ``record`` may turn out to be the same as another record."""
    scan = scan_of(record.key)
    patient = patient_of(record.key)
    # COVID-SemiSeg's labelled slices are mere numbers, which its test part may use again.
    among = scan.dataset
    if among == "semiseg" and record.cohort in ("train", "test"):
        among += f"/{record.cohort}"
    found = [Identity("scan", str(CaseKey(among, scan.case_id)))]
    # A case ID that stands in for a patient's is no second patient where the record states one.
    stands_in = patient == scan.case_id and scan.dataset not in _NAMED_BY_PATIENT
    patients: set[str | None]
    patients = {record.patient_id or patient} if stands_in else {patient, record.patient_id}
    found += [
        Identity("patient", str(CaseKey(among, name))) for name in sorted(filter(None, patients))
    ]
    found += [
        Identity("patient", str(CaseKey(among, "=".join(group["cases"]))), "suspected")
        for group in _groups()
        if group["certainty"] == "suspected" and _named(scan, group)
    ]
    if record.series_uid:
        found.append(Identity("series", record.series_uid))
    if record.content_hash:
        found.append(Identity("content", record.content_hash))
    return found


def _named(case: CaseKey, group: dict) -> bool:
    return case.dataset == group["dataset"] and case.case_id in group["cases"]


@cache
def _groups() -> tuple[dict, ...]:
    return tuple(canonical.read("patients")["groups"])


# Data-1_coronacases_org_001_17, Data-1_radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm_4
_SLICE = re.compile(
    r"(?:^|/)Data-\d+_(?:(?P<corona>coronacases)_org_(?P<number>\d+)"
    r"|radiopaedia_org_covid-19-pneumonia-(?P<radiopaedia>[\d_]+)-dcm)"
)


def _cut_from(case_id: str) -> str | None:
    match = _SLICE.search(case_id)
    if not match:
        return None
    return (
        f"coronacases_{match['number']}"
        if match["corona"]
        else f"radiopaedia_{match['radiopaedia']}"
    )
