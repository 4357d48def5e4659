"""The registry's commands as a user types them: what they print, and their exit status."""

import json
import os

import numpy as np
import pytest

from covidseg.cli.main import main
from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.volume import Volume


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")

    def command(*words):
        try:
            main([str(word) for word in words])
            status = 0
        except SystemExit as end:
            status = end.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return command


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    scan = rng.normal(-700, 300, (12, 10, 8)).astype(np.int16)
    mask = (scan > -500).astype(np.uint8)
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    for name, voxels in (
        ("CT-1/study_0255.nii.gz", scan),
        ("masks/study_0255_mask.nii.gz", mask),
    ):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        write_nifti(path, Volume(voxels, affine))
    return tmp_path / "data"


def test_datasets_lists_all(run):
    status, out, _ = run("datasets")
    assert status == 0
    for words in ("covid-ct-seg", "402 labelled", "CC BY-NC-ND 3.0", "not to be passed on"):
        assert words in out


def test_datasets_counts_what_is_found(run, data):
    status, out, _ = run("datasets", data)
    assert status == 0
    assert "1 of 50 labelled" in out
    assert "0 of 63 labelled" in out


def test_datasets_says_what_was_not_counted(run, data, monkeypatch):
    (data / "CT-2").mkdir()
    (data / "1.3.6").mkdir()
    (data / "1.3.6/1-1.dcm").touch()
    (data / "hub/.covidseg").mkdir(parents=True)
    for name in ("Lung_Mask", "Infection_Mask"):
        (data / f"{name}.zip").touch()
    (data / "Lung_Mask").mkdir()  # extracted
    listed = os.scandir

    def scandir(path="."):
        if str(path).endswith("CT-2"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setenv("COLUMNS", "999")
    status, out, _ = run("datasets", data)
    assert status == 0
    told = [
        f"cannot be listed: {data}/CT-2 (Permission denied)",
        f"damaged DICOM: {data}/1.3.6/1-1.dcm",
        f"archive, only what is extracted counts: {data}/Infection_Mask.zip",
        f"repository, passed over: {data}/hub",
    ]
    assert out.splitlines()[-4:] == told
    status, out, err = run("datasets", data, "--json")
    assert json.loads(out)["mosmed"]["found"]["cases"] == {"labelled": 1}
    assert err.splitlines() == told


def test_datasets_as_json(run, data):
    status, out, _ = run("datasets", data, "--json")
    assert status == 0
    listed = json.loads(out)
    assert list(listed)[:2] == ["covid-ct-seg", "mosmed"]
    assert listed["mosmed"]["found"] == {
        "cases": {"labelled": 1},
        "layouts": {"flat": 1},
        "duplicates": 0,
    }
    assert listed["mosmed"]["licence"]["redistributable"] is False
    status, out, _ = run("datasets", "--json")
    assert "found" not in json.loads(out)["mosmed"]


def test_check_of_sound_data(run, data, tmp_path):
    report = tmp_path / "report.json"
    status, out, _ = run("check", data, "--no-progress", "--report", report)
    assert status == 0
    assert "1 case read whole; no errors." in out
    assert json.loads(report.read_text())["ok"] is True


def test_check_of_a_damaged_file(run, data):
    (data / "CT-1/study_0255.nii.gz").write_text("<html>")
    status, out, _ = run("check", data, "--no-progress")
    assert status == 1
    assert "1 error" in out
    assert "CT-1/study_0255.nii.gz" in out
    assert "is named .gz but is not gzip" in " ".join(out.split())
    assert "-> download or extract it again" in out


def test_check_of_chosen_datasets(run, data):
    assert run("check", data, "--no-progress", "-d", "msd,mosmed")[0] == 0
    status, _, err = run("check", data, "--no-progress", "-d", "msd")
    assert status == 2
    assert "none of the datasets looked for" in err
    status, _, err = run("check", data, "-d", "mnist")
    assert (status, "dataset 'mnist' is not known" in err) == (2, True)


def test_check_of_nothing(run, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, err = run("check", tmp_path / "empty")
    assert (status, out) == (2, "")
    assert "Task06_Lung/imagesTr/lung_001.nii.gz" in err
    assert run("check", tmp_path / "absent")[0] == 2


def test_download_of_what_needs_registration_prints_the_steps(run, tmp_path):
    status, out, _ = run("download", "structseg", "--out", tmp_path / "raw")
    assert status == 0
    assert "1. Register at https://structseg2019.grand-challenge.org" in out
    assert "Redistribution is not permitted" in out
    assert not (tmp_path / "raw").exists()


def test_download_that_fails_is_said(run, tmp_path, monkeypatch):
    from covidseg.registry.datasets import DATASETS
    from covidseg.registry.msd import Download

    monkeypatch.setattr("covidseg.registry.download._ATTEMPTS", 1)
    monkeypatch.setattr(
        type(DATASETS["msd"]), "downloads", (Download("http://127.0.0.1:9/x.tar", "x.tar"),)
    )
    status, _, err = run("download", "msd", "--out", tmp_path, "--no-progress")
    assert status == 2
    assert "keeps breaking off" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["check", "datasets", "download"])
def test_help_has_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"covidseg {command} " in out


def test_check_says_what_it_found_before_a_report_that_cannot_be_written(run, data, tmp_path):
    status, out, err = run("check", data, "--report", tmp_path)
    assert status == 2
    assert "study_0255" in out or "mosmed" in out
    assert str(tmp_path) in err


def test_what_the_operating_system_refuses_is_no_traceback(run):
    status, _, err = run("leaderboard", "x" * 300)
    assert status == 2
    assert "File name too long" in err
