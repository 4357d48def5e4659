"""Who must not be learnt from, and by which evidence."""

from __future__ import annotations

from covidseg.pseudolabel.deny import LABELLED, Denied, as_if_of, refusals
from covidseg.splits.records import CaseRecord

TEST = Denied(
    CaseRecord("covid1920", "volume-covid19-A-0003", cohort="test_seen", series_uid="1.2",
               content_hash="aa"),
    "test_seen",
    "values-of-3",
)  # fmt: skip
LEARNT = Denied(
    CaseRecord("covid1920", "volume-covid19-A-0010_0", cohort="train", content_hash="bb"),
    LABELLED,
    "values-of-10",
)


def refused(record, value="", names=("covid1920", "mosmed")):
    known = [record] if record.dataset else as_if_of(record, names)
    values = {"case": value} if value else {}
    return refusals({"case": known}, values, [TEST, LEARNT]).get("case")


def scan(case_id="x", dataset="", **known):
    return CaseRecord(dataset, case_id, cohort="unlabelled", **known)


def test_an_unrelated_scan_is_taken():
    assert refused(scan("volume-covid19-A-0700", "covid1920", content_hash="cc"), "v") is None
    assert refused(scan("anything", content_hash="cc"), "v") is None


def test_each_kind_of_evidence():
    for found, kind in (
        (refused(scan("volume-covid19-A-0003")), "scan"),
        (refused(scan("other", content_hash="aa")), "content"),
        (refused(scan("other", series_uid="1.2")), "series"),
        (refused(scan("volume-covid19-A-0003_1")), "patient"),
        (refused(scan("other", patient_id="volume-covid19-A-0003")), "patient"),
        (refused(scan("other"), "values-of-3"), "values"),
    ):
        assert found is not None
        assert found.kind == kind
        assert found.part == "test_seen"
        assert "covid1920/volume-covid19-A-0003 in test_seen" in found.reason
        assert found.of_evaluation == (kind != "patient")


def test_a_labelled_scan_again_is_refused_and_its_patient_is_not():
    found = refused(scan("other", content_hash="bb"))
    assert found.part == LABELLED
    assert not found.of_evaluation
    assert refused(scan("volume-covid19-A-0010_1")) is None


def test_a_scan_of_another_data_set_with_a_like_name_is_taken():
    assert refused(scan("volume-covid19-A-0003", "mosmed")) is None


def test_slices_cut_from_an_evaluated_scan_are_refused():
    evaluated = Denied(CaseRecord("covid-ct-seg", "coronacases_001"), "test")
    slice_ = scan("Data-1_coronacases_org_001_17", "semiseg")
    found = refusals({"slice": [slice_]}, {}, [evaluated])["slice"]
    assert found.kind == "scan"
