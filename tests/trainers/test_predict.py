"""`covidseg predict` as typed: what may be given, what comes out, what is refused."""

from __future__ import annotations

import errno
import os
import shutil

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from covidseg.cli.main import main
from covidseg.core.errors import (
    ConfigError,
    IntensityError,
    LayoutError,
    StorageError,
    UnreadableFileError,
)
from covidseg.engine.runs import (
    EARLIER_STAGES,
    chosen_device,
    open_run,
    open_runs,
    read_run,
    runs_in,
    unfinished,
)
from covidseg.imaging.dicom import write_series
from covidseg.imaging.nifti import read_nifti, write_nifti
from covidseg.imaging.volume import Volume
from covidseg.inference import files
from covidseg.inference.ensemble import Ensemble
from covidseg.inference.files import find_inputs, read_input, refuse_sources
from covidseg.inference.predictor import Predictor


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
    printed = capsys.readouterr()
    assert "2 segmented, 0 kept. Labels: 1 left_lung, 2 right_lung." in printed.out
    assert "phantoms alone have been learnt from" in printed.err
    assert call("predict", "--run", run, folder, "--out", out) == 0
    assert "0 segmented, 2 kept" in capsys.readouterr().out
    # Other options, another scan of the name, or a file of which nothing is known: not kept.
    assert call("predict", "--run", run, folder, "--out", out, "--no-mirror") == 2
    assert "and 1 more, made by other weights or options" in capsys.readouterr().err
    first, last = sorted(folder.iterdir())
    before = (out / first.name).read_bytes()
    first.unlink()
    first.symlink_to(last.resolve())
    assert call("predict", "--run", run, first, "--out", out) == 2
    assert (
        f"holds {first.name} already, made by other weights or options" in capsys.readouterr().err
    )
    assert call("predict", "--run", run, first, "--out", out, "--overwrite") == 0
    assert (out / first.name).read_bytes() != before
    assert call("predict", "--run", run, folder, "--out", out) == 0
    (out / "predictions.json").unlink()
    assert call("predict", "--run", run, folder, "--out", out) == 2


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
    assert [path.name for path in out.glob("*.nii.gz")] == [scans(raw)[0].name]


def test_a_scan_that_fails_anew_leaves_no_label_map_of_other_options(
    run, raw, tmp_path, capsys, monkeypatch
):
    first, second = scans(raw)[:2]
    out, predict, seen = tmp_path / "out", Predictor.predict, []
    words = ["predict", "--run", run, first, second, "--out", out, "--device", "cpu"]
    assert call(*words) == 0

    def first_of_two_fails(*arguments):
        seen.append(arguments)
        if len(seen) % 2:
            raise MemoryError
        return predict(*arguments)

    monkeypatch.setattr(Predictor, "predict", first_of_two_fails)
    # What the same weights and options made of the same scan is no worse for it.
    assert call(*words, "--overwrite") == 1
    assert "is removed" not in capsys.readouterr().out
    assert (out / first.name).exists()
    assert call(*words, "--overwrite", "--mirror") == 1
    assert capsys.readouterr().out.count("Its earlier label map is removed.") == 1
    assert not (out / first.name).exists()
    monkeypatch.undo()
    assert call(*words, "--mirror") == 0
    assert "1 segmented, 1 kept" in capsys.readouterr().out


def test_without_leave_to_overwrite_nothing_is_removed(run, raw, tmp_path, monkeypatch):
    def other_call_was_faster(self, *_):
        (tmp_path / "out" / scans(raw)[0].name).write_text("its label map")
        raise MemoryError

    monkeypatch.setattr(Predictor, "predict", other_call_was_faster)
    assert call("predict", "--run", run, scans(raw)[0], "--out", tmp_path / "out") == 1
    assert (tmp_path / "out" / scans(raw)[0].name).exists()


@pytest.mark.parametrize("words", [[], ["--overwrite"]])
@pytest.mark.parametrize("way", ["itself", "link", "links inside"])
def test_no_result_takes_the_place_of_a_scan(run, raw, tmp_path, capsys, words, way):
    folder = tmp_path / "scans"
    folder.mkdir()
    scan = folder / scans(raw)[0].name
    shutil.copy(scans(raw)[0], scan)
    before = scan.read_bytes()
    given, out = folder, folder
    if way == "link":
        out = tmp_path / "out"
        out.symlink_to(folder)
    elif way == "links inside":
        given = tmp_path / "given"
        given.mkdir()
        (given / scan.name).symlink_to(scan)
    assert call("predict", "--run", run, given, "--out", out, *words) == 2
    assert "a scan that is to be segmented" in capsys.readouterr().err
    assert scan.read_bytes() == before


def test_label_maps_do_not_go_among_the_scans(tmp_path):
    write_series(
        tmp_path / "raw/LUNG1-001/study/series",
        Volume(np.zeros((4, 4, 2), np.int16), np.eye(4)),
        patient_id="LUNG1-001",
        study_uid="1.2.3",
        series_uid="1.2.3.4",
        frame_of_reference_uid="1.2.3.5",
    )
    write_nifti(tmp_path / "scans/a.nii", Volume(np.zeros((2, 2, 2)), np.eye(4)))
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    series, scan = (
        find_inputs([tmp_path / "raw/LUNG1-001"]),
        find_inputs([tmp_path / "scans/a.nii"]),
    )
    for inputs, out in (
        # Given as an input, raw would stand for LUNG1-001.nii.gz in it, and no series any more.
        (series, "raw"),
        (series, "link"),
        (series, "raw/LUNG1-001"),
        (series, "raw/LUNG1-001/study/series"),
        (scan, "scans"),  # with a.nii.gz beside a.nii
    ):
        with pytest.raises(ConfigError, match=rf"{out}: holds scans .*such as .*/predictions"):
            refuse_sources(inputs, tmp_path / out)
    for inputs, out in (
        (series, "raw/predictions"),
        (series, "raw/LUNG1-001/predictions"),
        (scan, "scans/predictions"),
        (scan, "."),  # which stands for files directly in it
        (scan, "raw"),
        (series, "scans"),
    ):
        refuse_sources(inputs, tmp_path / out)


def test_an_output_folder_that_cannot_be_written_is_said_first(run, raw, tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert call("predict", "--run", run, *scans(raw)[:2], "--out", tmp_path / "out") == 2
    shown = capsys.readouterr()
    assert "out: cannot be written" in shown.err
    assert "not segmented" not in shown.out


def test_a_full_disk_ends_the_call(run, raw, tmp_path, capsys, monkeypatch):
    tried = []

    def full(target, volume):
        tried.append(target)
        raise StorageError(f"cannot be written ({os.strerror(errno.ENOSPC)})", path=target)

    monkeypatch.setattr(files, "write_nifti", full)
    assert call("predict", "--run", run, *scans(raw)[:2], "--out", tmp_path / "out") == 2
    assert "No space left" in capsys.readouterr().err
    assert len(tried) == 1


def test_a_scan_too_large_for_the_device_is_named_and_the_others_are_done(
    run, raw, tmp_path, capsys, monkeypatch
):
    predict, seen = Predictor.predict, []

    def first_too_large(self, *arguments):
        seen.append(arguments)
        if len(seen) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict(self, *arguments)

    monkeypatch.setattr(Predictor, "predict", first_too_large)
    assert call("predict", "--run", run, *scans(raw)[:2], "--out", tmp_path / "out") == 1
    shown = capsys.readouterr().out
    assert "1 segmented" in shown
    assert "smaller --batch-size" in shown


def test_a_scan_whose_forms_differ_is_segmented_with_a_warning(run, raw, tmp_path, capsys):
    scan = read_nifti(scans(raw)[0])
    for name, qform in (("alike", scan.affine), ("apart", scan.affine @ np.diag([-1, -1, 1, 1]))):
        image = nibabel.Nifti1Image(scan.data.astype(np.int16), None)
        image.set_sform(scan.affine, 2)
        image.set_qform(qform, 1)
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out"
    paths = [tmp_path / "alike.nii.gz", tmp_path / "apart.nii.gz"]
    assert call("predict", "--run", run, *paths, "-o", out) == 0
    shown = capsys.readouterr()
    assert "2 segmented" in shown.out
    [warning] = [line for line in shown.err.splitlines() if line.startswith("warning: ")]
    assert warning.startswith(f"warning: {paths[1]}: sform and qform place voxels up to ")
    assert "Check that its label map lies on it" in warning
    np.testing.assert_allclose(read_nifti(out / "apart.nii.gz").affine, scan.affine, atol=1e-5)


@pytest.mark.parametrize("where", ["reading", "numpy", "torch"])
def test_a_scan_too_large_for_the_machine_is_named_and_the_others_are_done(
    run, raw, tmp_path, capsys, monkeypatch, where
):
    function, owner = ("read_input", files) if where == "reading" else ("predict", Predictor)
    real, seen = getattr(owner, function), []

    def first_too_large(*arguments):
        seen.append(arguments)
        if len(seen) > 1:
            return real(*arguments)
        if where == "torch":
            torch.empty(2**50)
        elif where == "numpy":
            np.empty(2**50)
        raise MemoryError

    monkeypatch.setattr(owner, function, first_too_large)
    chosen = scans(raw)[:2]
    assert call("predict", "--run", run, *chosen, "-o", tmp_path / "out", "--device", "cpu") == 1
    shown = capsys.readouterr().out
    assert "1 segmented" in shown
    assert f"{chosen[0]}: segmenting it takes more memory than this machine has" in shown


def test_another_fault_of_torch_is_not_taken_for_want_of_memory(run, raw, tmp_path, monkeypatch):
    def faulty(*_):
        raise RuntimeError("a fault of the code")

    monkeypatch.setattr(Predictor, "predict", faulty)
    [one] = find_inputs([scans(raw)[0]])
    with pytest.raises(RuntimeError, match="a fault of the code"):
        files.segment(open_runs([run], device="cpu"), one, tmp_path)


def test_a_scan_of_an_absurd_spacing_is_named_and_the_others_are_done(run, raw, tmp_path, capsys):
    scan = read_nifti(scans(raw)[0])
    wrong = tmp_path / "metres.nii.gz"
    write_nifti(wrong, Volume(scan.data, scan.affine @ np.diag([1000.0, 1000, 1000, 1])))
    assert call("predict", "--run", run, wrong, scans(raw)[0], "--out", tmp_path / "out") == 1
    shown = capsys.readouterr().out
    assert "1 segmented" in shown
    spacing = " x ".join(f"{1000 * size:.6g}" for size in scan.spacing_mm)
    assert f"{wrong}: " in shown
    assert f"voxels of {spacing} mm" in shown


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there(run, raw, tmp_path, capsys, name):
    with pytest.raises(ConfigError, match=rf"'{name}' cannot be used.*expected cpu.*--device"):
        chosen_device(name)
    assert call("predict", "--run", run, scans(raw)[0], "-o", tmp_path, "--device", name) == 2
    assert "cannot be used" in capsys.readouterr().err


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


def test_a_run_in_its_first_stage_is_not_taken_for_a_folder_of_runs(run, tmp_path):
    from covidseg.pseudolabel.rounds import ROUNDS
    from covidseg.trainers.transfer import PRETRAINED

    assert {PRETRAINED, ROUNDS} <= set(EARLIER_STAGES)
    folds = [tmp_path / "lung" / f"fold{number}" for number in range(3)]
    shutil.copytree(run, folds[0])
    shutil.copytree(run, folds[1] / PRETRAINED)
    with pytest.raises(ConfigError, match=r"fold1: is not trained to its last.*pretrained alone"):
        runs_in([folds[1]])
    with pytest.raises(ConfigError, match="fold1: is not trained to its end"):
        runs_in([tmp_path / "lung"])
    # Named itself it is a run; and so is the whole run, beside its first stage.
    assert runs_in([folds[1] / PRETRAINED]) == [folds[1] / PRETRAINED]
    for file in ("config.yaml", "manifest.json"):
        shutil.copy(run / file, folds[1] / file)
    assert runs_in([folds[1], tmp_path / "lung"]) == [folds[1], *folds[:2]]
    (folds[2] / ROUNDS).mkdir(parents=True)
    with pytest.raises(ConfigError, match="it holds rounds alone"):
        runs_in([folds[2]])


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_a_run_that_stopped_half_way_predicts_with_a_warning(run, raw, tmp_path, capsys, status):
    half = tmp_path / "half"
    shutil.copytree(run, half, symlinks=True)
    (half / "checkpoints" / "step-00000006").rename(half / "checkpoints" / "step-00000003")
    for file in (half / "manifest.json", half / "checkpoints/step-00000003/checkpoint.json"):
        text = file.read_text().replace('"complete"', f'"{status}"')
        file.write_text(text.replace('"step": 6', '"step": 3'))
    assert unfinished(run) is None
    assert call("predict", "--run", run, "--run", half, scans(raw)[0], "-o", tmp_path / "out") == 0
    [warning] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warning.startswith(f"warning: {half}: is not trained to its end")
    assert f"step 3 of 6 (status '{status}'). " in warning
    # Without a manifest the step alone tells.
    (half / "manifest.json").unlink()
    assert "step 3 of 6 (no manifest)" in unfinished(half)
    whole = tmp_path / "whole"
    shutil.copytree(run, whole, symlinks=True)
    (whole / "manifest.json").unlink()
    assert unfinished(whole) is None


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


def test_annotations_beside_scans_are_no_scans(tmp_path):
    for name in ("volume-A-1_ct", "volume-A-1_seg", "label", "data", "labelled"):
        write_nifti(tmp_path / f"{name}.nii.gz", Volume(np.zeros((2, 2, 2)), np.eye(4)))
    assert [one.name for one in find_inputs([tmp_path])] == ["data", "labelled", "volume-A-1_ct"]
    # One that is named is taken at the user's word.
    assert [one.name for one in find_inputs([tmp_path / "label.nii.gz"])] == ["label"]
    for name in ("volume-A-1_ct", "data", "labelled"):
        (tmp_path / f"{name}.nii.gz").unlink()
    with pytest.raises(LayoutError, match=r"holds annotations alone, such as label\.nii\.gz"):
        find_inputs([tmp_path])


def test_a_link_to_a_scan_that_is_not_there_is_told_of(tmp_path, capsys):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "b.nii.gz").symlink_to(tmp_path / ".git/annex/objects/b.nii.gz")
    assert [one.name for one in find_inputs([tmp_path])] == ["a"]
    assert "b.nii.gz: is a link to a file that is not there" in capsys.readouterr().err


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


def test_a_scan_and_a_picture_of_one_name_are_told_apart_by_their_endings(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", Volume(np.zeros((2, 2, 2)), np.eye(4)))
    for name in ("a.png", "a.jpg"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    both = find_inputs([tmp_path / "a.nii.gz", tmp_path / "a.png"])
    assert [one.result for one in both] == ["a.nii.gz", "a.png"]
    with pytest.raises(LayoutError, match=r"both be written as a\.png"):
        find_inputs([tmp_path])


@pytest.mark.parametrize(
    ("patient_id", "name"),
    [
        ("../../evil/12/345", "_.._evil_12_345"),
        ("12/345", "12_345"),
        ("LUNG1-001 b", "LUNG1-001_b"),
        ("..", "series"),
        ("", "series"),
    ],
)
def test_a_patient_id_is_no_path(tmp_path, patient_id, name):
    for number in range(2):
        write_series(
            tmp_path / str(number) / "series",
            Volume(np.zeros((4, 4, 2), np.int16), np.eye(4)),
            patient_id=patient_id,
            study_uid="1.2.3",
            series_uid=f"1.2.3.{number}",
            frame_of_reference_uid="1.2.3.5",
        )
        found = [one.name for one in find_inputs([tmp_path])]
        # Several series of a patient are told apart by their UIDs.
        assert found == ([name] if number == 0 else [f"{name}_1.2.3.0", f"{name}_1.2.3.1"])


def test_a_scout_is_no_scan_and_the_scan_keeps_its_plain_name(tmp_path, capsys):
    uids = {"patient_id": "P1", "study_uid": "1.2.3", "frame_of_reference_uid": "1.2.3.9"}
    for name, uid in (("ct", "1.2.3.5"), ("scout", "1.2.3.4")):
        volume = Volume(np.zeros((4, 4, 2), np.int16), np.eye(4))
        for path in write_series(tmp_path / name, volume, series_uid=uid, **uids):
            if name == "scout":
                image = pydicom.dcmread(path)
                image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
                image.save_as(path)
    [found] = find_inputs([tmp_path])
    assert found.name == "P1"
    assert found.source.folder == tmp_path / "ct"
    assert "scout: series 1.2.3.4 is a localiser (scout), no scan" in capsys.readouterr().err
    with pytest.raises(LayoutError, match=r"scout: holds localisers \(scouts\) alone"):
        find_inputs([tmp_path / "scout"])


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
