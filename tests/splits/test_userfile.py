import json

import pytest

from covidseg.core.errors import SplitError
from covidseg.splits.findings import audit_files, audit_tasks
from covidseg.splits.records import CaseRecord
from covidseg.splits.userfile import read_split_file


def write(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_json_of_parts(tmp_path):
    path = write(
        tmp_path,
        "mine.json",
        {
            "train": ["LUNG1-001.nii.gz", "other/x", {"case_id": "y", "patient_id": "p"}],
            "test": ["nsclc/LUNG1-002"],
        },
    )
    assert read_split_file(path) == {
        "mine": {
            "train": [
                CaseRecord("nsclc", "LUNG1-001"),
                CaseRecord("other", "x"),
                CaseRecord("", "y", patient_id="p"),
            ],
            "test": [CaseRecord("nsclc", "LUNG1-002")],
        }
    }


def test_nnunets_splits_final_json(tmp_path):
    path = write(tmp_path, "splits_final.json", [{"train": ["a"], "val": ["b"]}] * 2)
    assert list(read_split_file(path)) == ["fold0", "fold1"]


def test_csv_with_folds(tmp_path):
    path = write(
        tmp_path,
        "mine.csv",
        "fold,part,case_id,patient_id\n0,train,a,p\n0,test,b,p\n1,train,a,\n1,test,c,\n",
    )
    splits = read_split_file(path)
    assert splits["fold0"]["test"] == [CaseRecord("", "b", patient_id="p")]
    findings = audit_files(splits)
    assert [(leak.kind, leak.first.configuration) for leak in findings.unexpected] == [
        ("patient", "fold0")
    ]


@pytest.mark.parametrize(
    ("name", "content", "finding"),
    [
        ("a.json", "{", "not JSON"),
        ("a.json", '"text"', "no split"),
        ("a.json", {"train": 5}, "for a split"),
        ("a.json", {"train": [5]}, "has the case .5."),
        ("a.json", {"train": [{"name": "x"}]}, "has the case"),
        ("a.json", {"train": [], "test": []}, "holds no cases"),
        ("a.json", {"train": [{"patient_id": "p"}]}, "without an ID"),
        ("a.csv", "case,split\na,train\n", "has the columns case, split"),
        ("a.csv", "", "has the columns"),
        ("a.csv", "case_id,part\na,train\nb\n", "has no part in line 3"),
    ],
)
def test_what_is_no_split_is_refused(tmp_path, name, content, finding):
    path = write(tmp_path, name, content)
    with pytest.raises(SplitError, match=finding) as caught:
        read_split_file(path)
    assert str(path) in str(caught.value)


def test_an_absent_file(tmp_path):
    with pytest.raises(SplitError, match="cannot be read"):
        read_split_file(tmp_path / "none.json")


def test_what_was_found_on_disk_completes_a_users_file():
    splits = {"mine": {"train": [CaseRecord("nsclc", "a")], "test": [CaseRecord("msd", "b")]}}
    assert not audit_files(splits).leaks
    found = [
        CaseRecord("nsclc", "a", content_hash="f0"),
        CaseRecord("msd", "b", content_hash="f0"),
    ]
    assert [leak.kind for leak in audit_files(splits, found).unexpected] == ["content"]


def test_a_case_is_completed_by_the_file_of_its_own_cohort():
    train = CaseRecord("semiseg", "0", cohort="train")
    test = CaseRecord("semiseg", "0", cohort="test")
    found = [
        CaseRecord("semiseg", "0", cohort="train", content_hash="a"),
        CaseRecord("semiseg", "0", cohort="test", content_hash="b"),
    ]
    assert not audit_files({"mine": {"train": [train], "test": [test]}}, found).leaks
    same = [found[0], CaseRecord("semiseg", "1", cohort="test", content_hash="a")]
    other = CaseRecord("semiseg", "1")
    findings = audit_files({"mine": {"train": [train], "test": [other]}}, same)
    assert [leak.kind for leak in findings.unexpected] == ["content"]
    assert not findings.unmatched


def test_cases_of_which_no_file_is_known_are_named():
    splits = {"mine": {"train": [CaseRecord("", "a")], "test": [CaseRecord("semiseg", "0")]}}
    found = [CaseRecord("semiseg", "0", cohort=cohort) for cohort in ("train", "test")]
    # Which of the two slices of that name is meant cannot be told.
    assert audit_files(splits, found).unmatched == {"mine": ["a", "semiseg/0"]}
    assert not audit_files(splits).unmatched


def test_cases_of_a_published_split_of_which_no_file_is_known_are_named():
    found = [CaseRecord("covid-ct-seg", "coronacases_001"), CaseRecord("mosmed", "study_0255")]
    findings = audit_tasks(["task1-lung-fold0", "task1-union-fold0"], found)
    assert len(findings.unmatched["task1-lung-fold0"]) == 19
    assert "covid-ct-seg/coronacases_001" not in findings.unmatched["task1-lung-fold0"]
    assert len(findings.unmatched["task1-union-fold0"]) == 19 + 49
    assert not audit_tasks(["task1-lung-fold0"]).unmatched


def test_all_published_tasks_have_known_faults_alone():
    from covidseg.splits import tasks

    findings = audit_tasks(tasks.configurations())
    assert findings.unexpected == []
    assert len(findings.audited) == 70
    assert len(findings.skipped) == 7
    across = [
        leak for leak in findings.leaks if leak.first.configuration != leak.second.configuration
    ]
    assert {leak.kind for leak in across} == {"scan"}
    assert sum(leak.first.configuration == "task2-nsclc-lung" for leak in across) == 14


def test_content_found_on_disk_is_unexpected():
    found = [
        CaseRecord("covid-ct-seg", "coronacases_008", content_hash="f0"),
        CaseRecord("mosmed", "study_0255", content_hash="f0"),
    ]
    findings = audit_tasks(["task1-infection-fold0"], found)
    assert [leak.kind for leak in findings.unexpected] == ["content"]


@pytest.mark.parametrize(
    ("name", "dataset", "case_id"),
    [
        ("volume-covid19-A-1199", "covid1920", "volume-covid19-A-1199"),
        ("volume-covid19-a-1199", "covid1920", "volume-covid19-A-1199"),
        ("covid1920/volume-covid19-A-0003", "covid1920", "volume-covid19-A-0003"),
        ("study_0001", "mosmed", "study_0001"),
        ("coronacases_org_001", "covid-ct-seg", "coronacases_001"),
        ("imagesTr/lung_001_0000.nii.gz", "msd", "lung_001"),
        ("imagesTr/a.nii.gz", "", "a"),
        ("mine/a", "mine", "a"),
    ],
)
def test_who_a_case_is(tmp_path, name, dataset, case_id):
    (tmp_path / "s.json").write_text(json.dumps({"train": [name]}))
    [[record]] = read_split_file(tmp_path / "s.json")["s"].values()
    assert (record.dataset, record.case_id) == (dataset, case_id)
