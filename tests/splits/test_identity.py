import pytest

from covidseg.splits.identity import identities, patient_of, scan_of
from covidseg.splits.records import CaseKey, CaseRecord


@pytest.mark.parametrize(
    ("dataset", "case", "patient"),
    [
        ("covid-ct-seg", "radiopaedia_10_85902_1", "radiopaedia_10_85902"),
        ("covid-ct-seg", "radiopaedia_10_85902_3", "radiopaedia_10_85902"),
        ("covid-ct-seg", "radiopaedia_29_86490_1", "radiopaedia_29_86490_1"),
        ("covid-ct-seg", "coronacases_001", "coronacases_001"),
        ("covid1920", "volume-covid19-A-0047_1", "volume-covid19-A-0047"),
        ("covid1920", "volume-covid19-A-0047", "volume-covid19-A-0047"),
        ("structseg", "train_1", "train_1"),
        ("semiseg", "Data-1_coronacases_org_001_17", "coronacases_001"),
        (
            "semiseg",
            "Data-1_radiopaedia_org_covid-19-pneumonia-10_85902_3-dcm_4",
            "radiopaedia_10_85902",
        ),
        ("semiseg", "10", "10"),
    ],
)
def test_patient_of(dataset, case, patient):
    assert patient_of(CaseKey(dataset, case)) == patient


def test_unlabelled_slices_are_of_scans_of_covid_ct_seg():
    slice_ = CaseKey("semiseg", "Data-1_radiopaedia_org_covid-19-pneumonia-4_85506_1-dcm_12")
    assert scan_of(slice_) == CaseKey("covid-ct-seg", "radiopaedia_4_85506_1")
    assert scan_of(CaseKey("msd", "lung_001")) == CaseKey("msd", "lung_001")


def test_a_slice_that_is_there_twice():
    assert scan_of(CaseKey("semiseg", "43")) == scan_of(CaseKey("semiseg", "10"))


def test_identities_hold_what_the_record_knows():
    record = CaseRecord(
        "nsclc", "LUNG1-001", patient_id="P7", series_uid="1.2.3", content_hash="ab"
    )
    assert {(i.kind, i.value) for i in identities(record)} == {
        ("scan", "nsclc/LUNG1-001"),
        ("patient", "nsclc/LUNG1-001"),
        ("patient", "nsclc/P7"),
        ("series", "1.2.3"),
        ("content", "ab"),
    }


def test_a_case_id_is_no_patient_where_one_is_stated():
    def patients(*arguments):
        return {i.value for i in identities(CaseRecord(*arguments)) if i.kind == "patient"}

    assert patients("", "1", "2") == {"2"}
    assert patients("mine", "1", "2") == {"mine/2"}
    assert patients("mine", "1") == {"mine/1"}
    # These names tell the patient, whatever else is stated.
    assert patients("covid1920", "volume-covid19-A-0047", "P7") == {
        "covid1920/volume-covid19-A-0047",
        "covid1920/P7",
    }
    assert patients("covid-ct-seg", "radiopaedia_10_85902_1", "P7") == {
        "covid-ct-seg/radiopaedia_10_85902",
        "covid-ct-seg/P7",
    }


def test_suspected_patients_share_a_suspected_identity():
    def suspected(case):
        return {i for i in identities(CaseRecord("covid-ct-seg", case)) if i[2] == "suspected"}

    assert suspected("radiopaedia_29_86490_1") == suspected("radiopaedia_29_86491_1") != set()
    assert not suspected("coronacases_001")


def test_slices_of_covid_semiseg_are_numbered_anew_in_each_part():
    def slice_of(cohort):
        return set(identities(CaseRecord("semiseg", "7", cohort=cohort)))

    assert not slice_of("train") & slice_of("test")
