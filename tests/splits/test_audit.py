import pytest

from covidseg.splits import tasks
from covidseg.splits.audit import audit, audit_together, published_fault, side
from covidseg.splits.load import as_records, load_split
from covidseg.splits.records import CaseRecord


def records_of(name):
    split = load_split(name)
    return as_records(split.parts, split.subtask)


def case(name, dataset="mine", **known):
    return CaseRecord(dataset, name, **known)


def test_a_split_without_leaks():
    assert audit({"train": [case("a"), case("b")], "test": [case("c")]}) == []


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("scan", case("a"), case("a")),
        ("patient", case("a", patient_id="p"), case("b", patient_id="p")),
        ("series", case("a", series_uid="1.2"), case("b", series_uid="1.2")),
        ("content", case("a", content_hash="f0"), case("b", content_hash="f0")),
        ("content", case("a", content_hash="f0"), case("b", "other", content_hash="f0")),
        ("series", case("a", series_uid="1.2"), case("b", "other", series_uid="1.2")),
    ],
)
def test_each_kind_of_leak(kind, one, other):
    (leak,) = audit({"train": [one], "test": [other]})
    assert (leak.kind, leak.certainty) == (kind, "known")
    assert (leak.first.part, leak.first.case) == ("train", one.key)
    assert (leak.second.part, leak.second.case) == ("test", other.key)


def test_patients_of_two_datasets_may_bear_the_same_name():
    one, other = case("a", patient_id="1"), case("b", "other", patient_id="1")
    assert audit({"train": [one], "test": [other]}) == []


def test_a_pair_is_reported_once_by_its_strongest_evidence():
    one = case("a", patient_id="p", series_uid="1.2", content_hash="f0")
    other = case("b", patient_id="p", series_uid="1.2", content_hash="f0")
    assert [leak.kind for leak in audit({"train": [one], "test": [other]})] == ["content"]


def test_parts_of_one_side_may_share():
    one = case("a")
    assert audit({"train": [one], "unlabelled": [one]}) == []
    assert audit({"test": [one], "test_seen": [one]}) == []


def test_unlabelled_cases_must_not_be_evaluated():
    (leak,) = audit(
        {"unlabelled": [case("a", content_hash="f0")], "test": [case("b", content_hash="f0")]}
    )
    assert leak.first.part == "unlabelled"


def test_validation_and_test_are_two_sides_whatever_their_order():
    (leak,) = audit({"test": [case("a")], "val": [case("a")]})
    assert (leak.first.part, leak.second.part) == ("val", "test")


def test_other_parts_are_sides_of_their_own():
    assert [side(p) for p in ("training", "valid", "TEST_mosmed", "fold3")] == [0, 1, 2, "fold3"]
    assert len(audit({"fold0": [case("a")], "fold1": [case("a")], "fold2": [case("b")]})) == 1


def test_slices_of_covid_semiseg_leak_into_covid_ct_seg():
    parts = {
        "train": [case("coronacases_002", "covid-ct-seg")],
        "unlabelled": [case("Data-1_coronacases_org_001_17", "semiseg")],
        "test": [case("coronacases_001", "covid-ct-seg")],
    }
    (leak,) = audit(parts)
    assert (leak.kind, leak.first.part) == ("scan", "unlabelled")


def test_suspected_leaks_say_so():
    (leak,) = audit(
        {
            "train": [case("radiopaedia_29_86490_1", "covid-ct-seg")],
            "test": [case("radiopaedia_29_86491_1", "covid-ct-seg")],
        }
    )
    assert leak.certainty == "suspected"
    assert "perhaps the same patient" in str(leak)


def test_lung_and_effusion_of_nsclc_share_scans_across_configurations():
    configurations = {
        name: records_of(name) for name in ("task2-nsclc-lung", "task2-nsclc-effusion")
    }
    leaks = audit_together(configurations)
    from_lung = [leak for leak in leaks if leak.first.configuration == "task2-nsclc-lung"]
    assert (len(from_lung), len(leaks)) == (14, 24)
    assert all(published_fault(leak, "task2", across=True) for leak in leaks)
    assert not any(published_fault(leak, "task2") for leak in leaks)


@pytest.mark.parametrize("task", ["task1", "task1-reverse", "task2", "task3"])
def test_every_leak_of_the_published_lists_is_written_down(task):
    for fold in range(5):
        names = [n for n in tasks.configurations(task) if tasks.configuration(n)[1] in (None, fold)]
        together = {name: records_of(name) for name in names}
        for leak in audit_together(together):
            assert published_fault(leak, task, across=True), leak
