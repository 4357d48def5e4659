"""The recorded lists are the published ones, case by case and in their order."""

import json
from pathlib import Path

import pytest

from covidseg.core.errors import SplitError
from covidseg.splits import canonical
from covidseg.splits.canonical import canonical_cases, expected_counts, published

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared/reference/canonical_splits.json"

# sha256 of the compact JSON of each published list of folds, its parts under this project's names.
RECORDED = {
    "task1": "8a4af0611a36bf1a5d76fbae004eed6e4ec773732200187ce0f4cd4b04d6c552",
    "task1-reverse": "869042ad5d74725f03248c8c043d2e6806d52178b8a05fa1fd96b64b1814a4b6",
    "task2-structseg-lung": "3b8e3e46973034aa88ee2cff33857ee07b39b717bfabd014962e436da2a52036",
    "task2-nsclc-lung": "fbcc8490db9d61132a37016e9c8003d636235a16876540992b5ef5d3e46042d3",
    "task2-msd-tumour": "8fa19d96ade05a6183a94a1e9209a1bc80f43050ec465eb3da126a02be2b37d9",
    "task2-structseg-target": "3b8e3e46973034aa88ee2cff33857ee07b39b717bfabd014962e436da2a52036",
    "task2-nsclc-effusion": "fcadee0e14b7c4d66129b32d6084d6c915b147d11600f14c95824fd7e07344f5",
    "task3-structseg-lung": "a5476abc8a393f85d7c20dd2c3cddf39f275200c9deddde80386c3364d65d84d",
    "task3-nsclc-lung": "f34e23cc56850b752f136cdcdd3417fd81cdaaa4a38fba94d4dc21787b6dfe7b",
    "task3-msd-tumour": "5921522b8b13a5e985825a676d34a42e50b466d7452e2212131cf7be166a4d0d",
    "task3-structseg-target": "a5476abc8a393f85d7c20dd2c3cddf39f275200c9deddde80386c3364d65d84d",
    "task3-nsclc-effusion": "f2778ccb35958078d856179b6a49c810ed3f13ff2c298f73431f8c6ea9eb4bc0",
    "covid1920": "66433977ddd29a0352557be3ba3f3e0f406a6ca8365b68f3d0f2bffbbb94f87b",
    "semiseg": "aa9c21d8aa92feb91176b4114182c122d4b90061f6421f491148864f4a9de121",
    "semiseg-folds": "a1bda2dccb542f64bfcc30ffb28afa4ed4b98739a56d2a8f18489af6f559ca97",
    "mosmed": "43a3246b0fa695201e1070604d9987c3371ec399f6bd8813c24b900e0597e87f",
}


def entries():
    return {
        split: entry
        for file in canonical.FILES
        for split, entry in canonical.read(file)["splits"].items()
    }


def test_lists_are_those_recorded():
    assert {split: entry["lists_sha256"] for split, entry in entries().items()} == RECORDED
    assert {s: canonical.lists_sha256(e["folds"]) for s, e in entries().items()} == RECORDED


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"no published splits at {PUBLISHED}")
def test_lists_equal_the_published_file():
    theirs = json.loads(PUBLISHED.read_text())["splits"]
    ours = {entry["original"]: entry for entry in entries().values() if "original" in entry}
    assert ours.keys() == theirs.keys()
    for original, entry in ours.items():
        assert entry["original_sha256"] == theirs[original]["sha256"]
        for mine, published_fold in zip(entry["folds"], theirs[original]["folds"], strict=True):
            lists = [[c for cases in part.values() for c in cases] for part in mine.values()]
            assert lists == list(published_fold.values()), original


def test_every_case_has_the_dataset_of_its_name():
    prefixes = {
        "coronacases_": "covid-ct-seg",
        "radiopaedia_": "covid-ct-seg",
        "LUNG1-": "nsclc",
        "lung_": "msd",
        "train_": "structseg",
        "study_": "mosmed",
        "volume-covid19-": "covid1920",
    }
    for entry in entries().values():
        for fold in entry["folds"]:
            for by_dataset in fold.values():
                for dataset, cases in by_dataset.items():
                    for case in cases:
                        found = [d for p, d in prefixes.items() if case.startswith(p)]
                        assert found == [dataset] or (dataset == "semiseg" and case.isdigit())


@pytest.mark.parametrize(
    ("dataset", "count"),
    [
        ("structseg", 50),
        ("nsclc", 402),
        ("msd", 63),
        ("covid-ct-seg", 20),
        ("mosmed", 50),
        ("covid1920", 50),
        ("semiseg", 50),
    ],
)
def test_number_of_canonical_cases(dataset, count):
    assert len(canonical_cases(dataset)) == count


def test_canonical_cases_are_in_natural_order():
    assert canonical_cases("structseg")[:3] == ("train_1", "train_2", "train_3")
    assert canonical_cases("structseg")[-1] == "train_50"


def test_absent_lung1_numbers():
    absent = "003 014 021 031 058 061 069 074 085 137 180 194 198 201 203 204 207 209 228 272"
    everyone = {f"LUNG1-{n:03d}" for n in range(1, 423)}
    assert everyone - set(canonical_cases("nsclc")) == {f"LUNG1-{n}" for n in absent.split()}
    assert any(absent in note for note in canonical.read("task2")["notes"])


def test_pleural_effusion_is_split_as_in_the_file_not_as_in_the_paper():
    parts = published("task2", "task2-nsclc-effusion")
    assert [len(parts[part]) for part in ("train", "test_in_domain")] == [63, 15]
    assert any("62/16" in note for note in canonical.read("task2")["notes"])


def test_expected_counts_where_names_are_not_published():
    assert expected_counts("covid1920")["train"] == 199
    assert expected_counts("semiseg") == {"train": 50, "test": 48, "unlabelled": 1600}
    assert expected_counts("nsclc") == {}


def test_an_edited_list_is_refused(monkeypatch, tmp_path):
    content = json.loads(json.dumps(canonical.read("task1")))
    fold = content["splits"]["task1"]["folds"][0]
    fold["train"]["covid-ct-seg"][0], fold["test"]["covid-ct-seg"][0] = (
        fold["test"]["covid-ct-seg"][0],
        fold["train"]["covid-ct-seg"][0],
    )
    (tmp_path / "task1.json").write_text(json.dumps(content))
    monkeypatch.setattr(canonical.resources, "files", lambda _: tmp_path)
    with pytest.raises(SplitError, match="not the published ones"):
        canonical.read.__wrapped__("task1")


def test_semiseg_folds_keep_neighbours_and_suspected_patients_together():
    held_out = [
        {c.case_id for c in published("semiseg", "semiseg-folds", fold)["validation"]}
        for fold in range(5)
    ]
    assert [len(fold) for fold in held_out] == [10] * 5
    assert set.union(*held_out) == set(canonical_cases("semiseg"))
    for group in canonical.read("patients")["groups"]:
        if group["dataset"] == "semiseg":
            assert any(set(group["cases"]) <= fold for fold in held_out)
