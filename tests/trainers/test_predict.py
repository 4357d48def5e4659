"""`covidseg predict` as typed: what may be given, what comes out, what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from covidseg.cli.main import main
from covidseg.core.errors import ConfigError, IntensityError, LayoutError, UnreadableFileError
from covidseg.engine.runs import open_run, open_runs, read_run, runs_in
from covidseg.imaging.dicom import write_series
from covidseg.imaging.nifti import read_nifti, write_nifti
from covidseg.imaging.volume import Volume
from covidseg.inference.ensemble import Ensemble
from covidseg.inference.files import find_inputs, read_input


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code or 0


def scans(raw):
    return sorted((raw / "COVID-19-CT-Seg" / "COVID-19-CT-Seg_20cases").glob("*.nii.gz"))


def test_a_folder_of_scans_and_a_second_call_that_keeps_them(run, raw, tmp_path, capsys):
    folder = tmp_path / "scans"
    folder.mkdir()
    for path in (scans(raw)[0], scans(raw)[-1]):  # in Hounsfield units, and windowed
        (folder / path.name).symlink_to(path)
    out = tmp_path / "out"
    assert call("predict", "--run", run, folder, "--out", out) == 0
    for path in folder.iterdir():
        scan, result = read_nifti(path), read_nifti(out / path.name)
        assert result.data.dtype == np.uint8
        assert result.shape == scan.shape
        np.testing.assert_allclose(result.affine, scan.affine, atol=1e-5)
        assert set(np.unique(result.data)) <= {0, 1, 2}
    assert "2 segmented, 0 kept. Labels: 1 left_lung, 2 right_lung." in capsys.readouterr().out
    assert call("predict", "--run", run, folder, "--out", out) == 0
    assert "0 segmented, 2 kept" in capsys.readouterr().out


def test_dicom_and_nifti_of_one_scan_give_one_result(run, raw, tmp_path):
    scan = read_nifti(scans(raw)[0])
    whole = Volume(np.rint(scan.data).astype(np.int16), scan.affine)
    write_series(
        tmp_path / "dicom",
        whole,
        patient_id="LUNG1-999",
        study_uid="1.2.3",
        series_uid="1.2.3.4",
        frame_of_reference_uid="1.2.3.5",
    )
    write_nifti(tmp_path / "scan.nii.gz", whole)
    out = tmp_path / "out"
    assert call("predict", "--run", run, tmp_path / "dicom", tmp_path / "scan.nii.gz",
                "-o", out) == 0  # fmt: skip
    series, nifti = read_nifti(out / "LUNG1-999.nii.gz"), read_nifti(out / "scan.nii.gz")
    from covidseg.imaging.resample import reorient

    a, b = reorient(series, "RAS"), reorient(nifti, "RAS")
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-3)
    assert (a.data != b.data).mean() < 1e-3


def test_a_bad_scan_is_named_and_the_others_are_done(run, raw, tmp_path, capsys):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"not a scan")
    out = tmp_path / "out"
    assert call("predict", "--run", run, bad, scans(raw)[0], "--out", out) == 1
    printed = capsys.readouterr().out
    assert "1 segmented" in printed
    assert "bad.nii.gz" in printed
    assert [path.name for path in out.iterdir()] == [scans(raw)[0].name]


def test_a_scan_of_one_slice_and_one_of_one_voxel(run, tmp_path):
    predictor = open_runs([run], device="cpu")
    for shape in ((40, 40, 1), (1, 1, 1)):
        volume = Volume(np.full(shape, -700, np.int16), np.diag([7.0, 7.0, 8.0, 1.0]))
        assert predictor.predict(volume).shape == shape


def test_an_ensemble_of_a_run_with_itself_is_that_run(run, raw):
    volume = read_nifti(scans(raw)[0])
    one = open_runs([run], device="cpu").predict(volume)
    two = open_runs([run, run], device="cpu").predict(volume)
    assert (one.data != two.data).mean() < 1e-3


def test_folds_with_intensities_of_their_own_make_an_ensemble(run, options, raw, tmp_path):
    from covidseg.trainers.supervised import main as train

    other = tmp_path / "fold1"
    train(["--recipe", "task1-lung-2d", "--out", str(other), *options, "--data.fold=1",
           "--train.steps_per_epoch=2"])  # fmt: skip
    assert read_run(other).grid.mean != read_run(run).grid.mean
    volume = read_nifti(scans(raw)[0])
    both = open_runs([run, other, run], device="cpu")
    assert isinstance(both, Ensemble)
    assert [len(member.networks) for member in both.members] == [2, 1]
    a, b = (
        torch.cat([slab.probabilities for slab in open_run(one, device="cpu").on_scan(volume)], 1)
        for one in (run, other)
    )
    torch.testing.assert_close(both.foreground(volume), ((2 * a + b) / 3)[1:])
    out = tmp_path / "out"
    assert call("predict", "--run", run, "--run", other, scans(raw)[0], "-o", out) == 0
    assert read_nifti(out / scans(raw)[0].name).shape == volume.shape


def test_a_folder_of_runs_stands_for_them(run, tmp_path, capsys):
    for name in ("fold1", "fold0"):
        (tmp_path / "lung" / name).mkdir(parents=True)
        for file in ("config.yaml", "manifest.json"):
            shutil.copy(run / file, tmp_path / "lung" / name)
    (tmp_path / "lung" / "logs").mkdir()
    folds = [tmp_path / "lung" / "fold0", tmp_path / "lung" / "fold1"]
    assert runs_in([run, tmp_path / "lung"]) == [run, *folds]
    assert runs_in([tmp_path / "absent"]) == [tmp_path / "absent"]
    manifest = folds[1] / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete"', '"running"'))
    with pytest.raises(ConfigError, match=r"fold1.*not trained to its end.*name the runs"):
        runs_in([tmp_path / "lung"])


def test_runs_of_other_labels_make_no_ensemble(run, options, tmp_path):
    from covidseg.trainers.supervised import main as train

    train(["--recipe", "task1-infection-2d", "--out", str(tmp_path / "other"), *options,
           "--train.steps_per_epoch=1"])  # fmt: skip
    with pytest.raises(ConfigError, match="its labels are infection; expected left_lung"):
        open_runs([run, tmp_path / "other"])


def test_a_picture_is_not_for_a_run_of_volumes(run, tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "slice.png")
    assert call("predict", "--run", run, tmp_path / "slice.png", "--out", tmp_path / "out") == 1
    assert "the run segments CT volumes" in capsys.readouterr().out


def test_what_cannot_be_an_input(tmp_path):
    with pytest.raises(LayoutError, match="does not exist"):
        find_inputs([tmp_path / "absent"])
    with pytest.raises(LayoutError, match="holds no scan"):
        find_inputs([tmp_path])
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(LayoutError, match="is no scan"):
        find_inputs([tmp_path / "notes.txt"])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_nifti(tmp_path / folder / "same.nii.gz", Volume(np.zeros((2, 2, 2)), np.eye(4)))
    with pytest.raises(LayoutError, match="would both be written as same"):
        find_inputs([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UnreadableFileError, match="is no run's folder"):
        open_runs([tmp_path])


def test_intensities_are_judged_or_told(tmp_path):
    shape = (4, 4, 4)
    rng = np.random.default_rng(0)
    for name, values, scale in (
        ("hu", rng.integers(-1000, 300, shape), "hu"),
        ("windowed", rng.integers(0, 256, shape), "windowed"),
    ):
        write_nifti(tmp_path / f"{name}.nii.gz", Volume(values.astype(np.int16), np.eye(4)))
        [one] = find_inputs([tmp_path / f"{name}.nii.gz"])
        assert read_input(one)[1].scale == scale
    write_nifti(tmp_path / "odd.nii.gz", Volume(np.full(shape, 900.0) + rng.random(shape),
                                                np.eye(4)))  # fmt: skip
    [odd] = find_inputs([tmp_path / "odd.nii.gz"])
    with pytest.raises(IntensityError, match="--intensity hu"):
        read_input(odd)
    assert read_input(odd, "hu")[1].scale == "hu"
