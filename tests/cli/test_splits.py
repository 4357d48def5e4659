import errno
import json

import pytest
import typer

from covidseg.cli.main import main


@pytest.fixture
def run(capsys):
    def command(*arguments):
        status = 0
        try:
            main(["splits", *map(str, arguments)])
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def test_list(run):
    status, out, _ = run("list", "task1")
    assert status == 0
    assert len(out.splitlines()) == 15
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    assert ["task1-infection-fold0", "train 4, test 16, test_mosmed 50"] in rows
    assert out.count("also -clean") == 6
    status, out, _ = run("list", "--json")
    assert len(json.loads(out)) == 77
    status, _, err = run("list", "task9")
    assert status == 2
    assert "task1-reverse" in err


def test_a_full_disk_beneath_the_output(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(typer, "echo", full)
    assert run("list") == (2, "", "covidseg: No space left on device.\n")


def test_show(run):
    status, out, _ = run("show", "task2-msd-tumour")
    assert status == 0
    assert "a prediction's values: 1 lesion" in out
    assert "msd tumour (tumour as lesion): 51" in out
    assert "covid-ct-seg infection (infection as lesion): 20" in out
    _, out, _ = run("show", "task1-lung-fold2-clean", "--json")
    shown = json.loads(out)
    assert [case["case_id"] for case in shown["parts"]["train"]] == [
        "coronacases_010",
        "coronacases_001",
    ]
    assert len(shown["removed"]) == 2
    status, _, err = run("show", "covid1920")
    assert status == 2
    assert "--root" in err


def test_audit_of_the_published_splits_finds_known_faults(run):
    status, out, _ = run("audit")
    assert status == 0
    assert "70 splits audited by scans and patients." in out
    assert "radiopaedia_10_85902_1 and covid-ct-seg/radiopaedia_10_85902_3" in out
    assert "and 9 more" in out  # 14 pleural-effusion test cases
    assert "Pairs of cases that leak: 0; known faults: " in out
    status, out, _ = run("audit", "task2", "--json")
    leaks = json.loads(out)["leaks"]
    assert (status, len(leaks)) == (0, 24)
    assert all(leak["known_fault"] for leak in leaks)


def test_audit_of_ones_own_split(run, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"train": ["LUNG1-001"], "test": ["nsclc/LUNG1-001"]}')
    status, out, _ = run("audit", path)
    assert status == 1
    assert "the same scan in train and test" in out
    path.write_text('{"train": ["LUNG1-001"], "test": ["LUNG1-002"]}')
    assert run("audit", path)[0] == 0


def test_what_is_wrong_with_other_datasets_does_not_matter(run, tmp_path):
    for copy in ("a", "b"):
        (tmp_path / copy / "NSCLC").mkdir(parents=True)
        (tmp_path / copy / "NSCLC/LUNG1-001.nii.gz").touch()
    scans = tmp_path / "COVID-19-20_v2/Train"
    scans.mkdir(parents=True)
    for number in range(3, 9):
        (scans / f"volume-covid19-A-{number:04d}_ct.nii.gz").touch()
    status, out, _ = run("show", "covid1920-fold0", "--root", tmp_path)
    assert status == 0
    assert "NOT THE PUBLISHED SPLIT: 6 training scans found instead of 199" in out
    status, _, err = run("show", "task2-nsclc-lung", "--root", tmp_path)
    assert status == 2
    assert "LUNG1-001 is there 2 times" in err


def test_cases_of_ones_own_that_are_not_found_are_counted(run, tmp_path):
    scan = tmp_path / "raw/COVID-19-20_v2/Train/volume-covid19-A-0003_ct.nii.gz"
    scan.parent.mkdir(parents=True)
    scan.touch()
    path = tmp_path / "mine.json"
    path.write_text('{"train": ["volume-covid19-A-0003"], "test": ["LUNG1-001", "b"]}')
    status, out, _ = run("audit", path, "--root", tmp_path / "raw")
    assert status == 0
    assert f"2 cases of {path}: mine" in out
    status, out, _ = run("audit", path, "--root", tmp_path / "raw", "--json")
    assert json.loads(out)["unmatched"] == {f"{path}: mine": ["nsclc/LUNG1-001", "b"]}


def test_a_published_split_says_which_files_were_not_compared(run, tmp_path, monkeypatch):
    from covidseg.registry import tree

    (tmp_path / "locked").mkdir()
    scan = tmp_path / "COVID-19-CT-Seg_20cases/coronacases_001.nii.gz"
    scan.parent.mkdir()
    scan.touch()
    listed = tree.os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(tree.os, "scandir", scandir)
    status, out, _ = run("audit", "task1", "--root", tmp_path, "-j", "1")
    assert status == 0
    assert "and content, the latter two not of all cases (see below)." in out
    assert "locked: cannot be listed (permission denied)" in out
    assert "19 cases of task1-lung-fold*, of which no file is known" in out
    _, out, _ = run("audit", "task1-lung-fold0", "--root", tmp_path, "-j", "1", "--json")
    assert len(json.loads(out)["unmatched"]["task1-lung-fold0"]) == 19


def test_only_the_datasets_of_ones_own_split_are_looked_at(run, tmp_path):
    for copy in ("a", "b"):
        (tmp_path / copy / "NSCLC").mkdir(parents=True)
        (tmp_path / copy / "NSCLC/LUNG1-001.nii.gz").touch()
    (tmp_path / "CT-1").mkdir()
    (tmp_path / "CT-1/study_0255.nii.gz").touch()
    path = tmp_path / "mine.json"
    path.write_text('{"train": ["study_0255"], "test": ["study_0256"]}')
    status, out, _ = run("audit", path, "--root", tmp_path, "-j", "1")
    assert status == 0
    assert "mosmed/study_0256" in out
    path.write_text('{"train": ["study_0255"], "test": ["LUNG1-001"]}')
    status, _, err = run("audit", path, "--root", tmp_path, "-j", "1")
    assert status == 2
    assert "LUNG1-001 is there 2 times" in err
    path.write_text('{"train": ["x"], "test": ["y"]}')
    assert "2 cases of" in run("audit", path, "--root", tmp_path)[1]
    assert run("audit", path, "--root", tmp_path / "nowhere")[0] == 2


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nowhere.json", "no such file"),
        ("task1-lung-fold9", "is not known"),
        ("task1-lung-fold2-clean", "without leaks by construction"),
    ],
)
def test_what_cannot_be_audited(run, what, said):
    status, _, err = run("audit", what)
    assert status == 2
    assert said in err
