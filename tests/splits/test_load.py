import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covidseg.core.errors import ConfigError, SplitError
from covidseg.splits.audit import audit
from covidseg.splits.load import as_records, has_clean_variant, load_split
from covidseg.splits.records import CaseKey, CaseRecord
from covidseg.splits.tasks import configuration, configurations

STATIC = [n for n in configurations() if not n.startswith("covid1920") and n != "semiseg"]


def ids(split, part):
    return [case.case_id for case in split.parts[part]]


def covid1920(train=20, **extra):
    return [
        *(
            CaseRecord("covid1920", f"volume-covid19-A-{700 + n:04d}", cohort="train")
            for n in range(train)
        ),
        *(CaseRecord("covid1920", f"test-{n}", cohort="test_seen") for n in range(3)),
        *(CaseRecord("covid1920", f"test-B{n}", cohort="test_unseen") for n in range(2)),
        *extra.get("more", []),
    ]


def test_task1_fold0():
    split = load_split("task1-infection-fold0")
    assert ids(split, "train") == [
        "coronacases_008",
        "coronacases_007",
        "radiopaedia_36_86526_0",
        "radiopaedia_4_85506_1",
    ]
    assert {part: len(cases) for part, cases in split.parts.items()} == {
        "train": 4,
        "test": 16,
        "test_mosmed": 50,
    }
    assert (split.fold, split.configuration, split.faults) == (0, "task1-infection-fold0", ())


@pytest.mark.parametrize("name", STATIC)
def test_parts_are_those_the_subtask_declares(name):
    split = load_split(name)
    assert list(split.parts) == list(split.subtask.parts)
    for part, cases in split.parts.items():
        assert cases
        declared = {annotation.dataset for annotation in split.subtask.parts[part]}
        assert {case.dataset for case in cases} == declared
        assert len(set(cases)) == len(cases)


def test_task2_and_task3_numbers():
    def sizes(name):
        return [len(cases) for cases in load_split(name).parts.values()]

    assert sizes("task2-nsclc-lung") == [322, 80, 20]
    assert sizes("task2-nsclc-effusion") == [63, 15, 20, 50]
    assert sizes("task3-msd-lung-fold3") == [55, 12, 16]
    assert sizes("task3-structseg-target-fold0") == [44, 10, 16, 50]


def test_official_keeps_the_published_faults_and_names_them():
    faults = load_split("task1-union-fold2").faults
    assert [(leak.first.case.case_id, leak.certainty) for leak in faults] == [
        ("radiopaedia_10_85902_1", "known"),
        ("radiopaedia_29_86491_1", "suspected"),
    ]
    assert all(leak.fault for leak in faults)


@pytest.mark.parametrize("name", STATIC)
def test_patient_clean_has_no_leaks_and_a_whole_test_part(name):
    official, clean = load_split(name), load_split(name, "patient-clean")
    assert audit(as_records(clean.parts, clean.subtask)) == []
    for part in official.parts:
        if part.startswith("test"):
            assert clean.parts[part] == official.parts[part]
    assert bool(clean.removed) == bool(official.faults) == has_clean_variant(name)
    assert has_clean_variant(name) == (
        name.endswith(("fold2", "fold4")) and name.startswith(("task1", "task3"))
    )


def test_the_suffix_asks_for_the_clean_variant():
    split = load_split("task1-lung-fold2-clean")
    assert split == load_split("task1-lung-fold2", "patient-clean")
    assert split.configuration == "task1-lung-fold2-clean"
    assert ids(split, "train") == ["coronacases_010", "coronacases_001"]
    assert split.sha256 != load_split("task1-lung-fold2").sha256


def test_content_known_from_the_files_is_audited():
    same = {"content_hash": "f0"}
    records = [
        CaseRecord("covid-ct-seg", "coronacases_008", **same),
        CaseRecord("mosmed", "study_0255", **same),
    ]
    with pytest.raises(SplitError, match="the same pixels") as caught:
        load_split("task1-infection-fold0", records=records)
    assert "coronacases_008" in str(caught.value)
    clean = load_split("task1-infection-fold0", "patient-clean", records)
    assert "coronacases_008" not in ids(clean, "train")
    assert len(clean.parts["train"]) == 3


def test_covid1920_is_made_from_the_cases_found():
    split = load_split("covid1920", records=covid1920())
    assert {part: len(cases) for part, cases in split.parts.items()} == {
        "train": 20,
        "validation": 50,
        "test_seen": 3,
        "test_unseen": 2,
        "unlabelled": 0,
    }
    folds = [load_split(f"covid1920-fold{k}", records=covid1920(), partial=True) for k in range(5)]
    assert sorted(c for f in folds for c in ids(f, "validation")) == sorted(ids(split, "train"))


def test_folds_of_fewer_scans_are_not_given_for_the_published_ones():
    with pytest.raises(SplitError, match="20 training scans found instead of 199"):
        load_split("covid1920-fold0", records=covid1920())
    with pytest.raises(SplitError, match="0 training scans found instead of 199"):
        load_split("covid1920-fold0-clean", records=[])
    assert load_split("covid1920-fold0", records=covid1920(), partial=True).incomplete
    assert not load_split("covid1920-fold0", records=covid1920(train=199)).incomplete


def test_covid1920_folds_keep_the_patients_that_nnunet_splits():
    more = [
        CaseRecord("covid1920", f"volume-covid19-A-{700 + n:04d}_1", cohort="train")
        for n in range(20)
    ]
    records = covid1920(more=more)
    official = load_split("covid1920-fold0", records=records, partial=True)
    assert official.faults
    assert {leak.kind for leak in official.faults} == {"patient"}
    clean = load_split("covid1920-fold0", "patient-clean", records, partial=True)
    assert audit(as_records(clean.parts, clean.subtask)) == []
    assert clean.parts["validation"] == official.parts["validation"]


def test_the_pool_is_without_the_scans_of_the_other_parts():
    def pool(case, **known):
        return CaseRecord("covid1920", case, cohort="unlabelled", **known)

    more = [
        pool("pool-series", series_uid="1.2.3"),
        pool("pool-content", content_hash="f0"),
        pool("volume-covid19-A-0004"),  # a validation scan, by its name
        pool("volume-covid19-A-0026_1"),  # another scan of a validation patient
        pool("volume-covid19-A-0700"),  # a training scan
        pool("volume-covid19-A-0701_1"),  # another scan of a training patient
        pool("volume-covid19-A-0999"),
        CaseRecord("covid1920", "test-9", cohort="test_seen", series_uid="1.2.3"),
        CaseRecord("covid1920", "test-8", cohort="test_unseen", content_hash="f0"),
    ]
    split = load_split("covid1920", records=covid1920(more=more))
    assert ids(split, "unlabelled") == ["volume-covid19-A-0701_1", "volume-covid19-A-0999"]
    assert {leak.first.case.case_id for leak in split.refused} == {
        "pool-series",
        "pool-content",
        "volume-covid19-A-0004",
        "volume-covid19-A-0026_1",
        "volume-covid19-A-0700",
    }
    assert any("pool-series" in str(leak) and "DICOM series" in str(leak) for leak in split.refused)
    # In fold 0 the held-out training scans are evaluated, so their patients leave the pool too.
    fold = next(
        split
        for k in range(5)
        if CaseKey("covid1920", "volume-covid19-A-0701")
        in (
            split := load_split(f"covid1920-fold{k}", records=covid1920(more=more), partial=True)
        ).parts["validation"]
    )
    assert ids(fold, "unlabelled") == ["volume-covid19-A-0999"]


@pytest.mark.parametrize("name", ["covid1920", "covid1920-fold1", "semiseg"])
def test_names_that_are_not_published_need_the_cases_found(name):
    with pytest.raises(SplitError, match="not published"):
        load_split(name)


def test_semiseg_takes_test_and_unlabelled_from_the_cases_found():
    records = [
        CaseRecord("semiseg", "6", cohort="test"),
        CaseRecord("semiseg", "Data-1_coronacases_org_001_17", cohort="unlabelled"),
    ]
    split = load_split("semiseg", records=records)
    assert [len(cases) for cases in split.parts.values()] == [50, 1, 1]
    assert split.parts["test"] == (CaseKey("semiseg", "6"),)


def test_one_case_in_two_files_is_refused():
    with pytest.raises(SplitError, match="covid1920/volume-covid19-A-0703 is there twice"):
        load_split("covid1920", records=covid1920() + covid1920()[3:4])


def test_unknown_names():
    with pytest.raises(ConfigError, match="task1-bone-fold0"):
        load_split("task1-bone-fold0")
    with pytest.raises(ConfigError, match="variant 'clean' is not known"):
        load_split("task1-lung-fold0", "clean")


@settings(max_examples=40)
@given(st.sampled_from(STATIC), st.data())
def test_an_injected_duplicate_is_always_refused_and_always_cleaned(name, data):
    """Property: give one training and one test case the same pixels, and they never both stay."""
    split = load_split(name)
    learnt = data.draw(st.sampled_from(split.parts["train"]))
    part = data.draw(st.sampled_from([p for p in split.parts if p != "train"]))
    measured = data.draw(st.sampled_from(split.parts[part]))
    records = [
        CaseRecord(
            *case,
            cohort=split.subtask.annotation(where, case.dataset).cohort,
            content_hash="same",
        )
        for where, case in (("train", learnt), (part, measured))
    ]
    with pytest.raises(SplitError, match="leaks"):
        load_split(name, records=records)
    clean = load_split(name, "patient-clean", records)
    assert learnt not in clean.parts["train"]
    assert measured in clean.parts[part]
    assert configuration(name)[0] == clean.subtask
