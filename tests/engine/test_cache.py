"""The training cache: whole or absent, keyed by content and settings, safe in every accident."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from covidseg.core.errors import (
    ConfigError,
    GeometryError,
    IntensityError,
    LabelError,
    StorageError,
    UnreadableFileError,
)
from covidseg.engine import cache as cache_module
from covidseg.engine.cache import TrainingCase, prepare
from covidseg.engine.fingerprint import fingerprint
from covidseg.engine.patches import Patches
from covidseg.imaging.nifti import read_nifti, write_nifti
from covidseg.imaging.volume import Volume
from covidseg.inference.preprocessing import Preprocessing
from covidseg.registry.cases import HU

WINDOW = Preprocessing(low=-1250, high=250, mean=-1250, std=1500)


def make_case(folder, name="a", shape=(12, 10, 8), spacing=(1.0, 1.0, 2.0), seed=0, values=None):
    rng = np.random.default_rng(seed)
    affine = np.diag([*spacing, 1.0])
    image = rng.integers(-1000, 200, shape).astype(np.int16)
    label = np.zeros(shape, np.uint8)
    label[3:6, 2:5, 1:4] = 1
    label[8:10, 6:9, 4:7] = 2
    write_nifti(folder / f"{name}.nii.gz", Volume(image, affine))
    write_nifti(folder / f"{name}_seg.nii.gz", Volume(label, affine))
    return TrainingCase(
        name, folder / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz", HU,
        values or {1: 1, 2: 2},
    )  # fmt: skip


def test_what_comes_out_is_what_preprocessing_gives(tmp_path):
    case = make_case(tmp_path)
    [cached] = prepare([case], WINDOW, tmp_path / "cache", workers=1, progress=False)
    image, label = cache_module.read_training_case(case)
    np.testing.assert_array_equal(cached.image(), WINDOW.image(image, HU).image.astype(np.float16))
    np.testing.assert_array_equal(cached.label(), WINDOW.label(label))
    assert cached.shape == (8, 10, 12)
    assert cached.foreground == {1: 27, 2: 18}
    voxels = cached.voxels(2)
    assert len(voxels) == 18
    assert (cached.label()[tuple(voxels.T)] == 2).all()
    assert isinstance(cached.image(), np.memmap)


def test_what_is_ignored_is_kept_and_is_no_foreground(tmp_path):
    case = make_case(tmp_path, values={1: 1, 2: cache_module.IGNORE_LABEL})
    [cached] = prepare([case], WINDOW, tmp_path / "cache", workers=1, progress=False)
    assert np.unique(cached.label()).tolist() == [0, 1, cache_module.IGNORE_LABEL]
    assert cached.foreground == {1: 27}


def test_a_second_call_keeps_the_files_and_other_settings_do_not_meet_them(tmp_path):
    case = make_case(tmp_path)
    root = tmp_path / "cache"
    [first] = prepare([case], WINDOW, root, workers=1, progress=False)
    written = (first.folder / "image.npy").stat().st_mtime_ns
    [again] = prepare([case], WINDOW, root, workers=1, progress=False)
    assert (again.folder / "image.npy").stat().st_mtime_ns == written
    other = dataclasses.replace(WINDOW, std=1.0)
    assert prepare([case], other, root, workers=1, progress=False)[0].folder != first.folder
    merged = dataclasses.replace(case, values={1: 1, 2: 1})
    [lesion] = prepare([merged], WINDOW, root, workers=1, progress=False)
    assert lesion.foreground == {1: 45}


def test_changed_content_under_the_same_name_is_another_case(tmp_path):
    root = tmp_path / "cache"
    [first] = prepare([make_case(tmp_path)], WINDOW, root, workers=1, progress=False)
    [second] = prepare([make_case(tmp_path, seed=1)], WINDOW, root, workers=1, progress=False)
    assert first.folder != second.folder


@pytest.mark.parametrize("damage", ["cut", "flip", "meta", "missing"])
def test_a_damaged_folder_is_built_again_and_said(tmp_path, caplog, damage):
    case = make_case(tmp_path)
    root = tmp_path / "cache"
    [first] = prepare([case], WINDOW, root, workers=1, progress=False)
    expected = np.array(first.image())
    path = first.folder / "image.npy"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "flip":
        content[-3] ^= 0xFF
        path.write_bytes(content)
    elif damage == "meta":
        (first.folder / "meta.json").write_text("{")
    else:
        path.unlink()
    [again] = prepare([case], WINDOW, root, workers=1, progress=False)
    np.testing.assert_array_equal(again.image(), expected)
    assert "building it again" in caplog.text


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    case = make_case(tmp_path)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module.np, "save", full)
    with pytest.raises(StorageError, match="No space left"):
        prepare([case], WINDOW, tmp_path / "cache", workers=1, progress=False)
    assert list((tmp_path / "cache").iterdir()) == []


def test_others_may_read_what_one_user_prepared(tmp_path):
    [cached] = prepare([make_case(tmp_path)], WINDOW, tmp_path / "cache", workers=1, progress=False)
    (tmp_path / "new").mkdir()
    assert cached.folder.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_folder_that_may_not_be_read_is_said(tmp_path, monkeypatch):
    case = make_case(tmp_path)
    [cached] = prepare([case], WINDOW, tmp_path / "cache", workers=1, progress=False)
    read_text = Path.read_text

    def private(path, *arguments, **options):
        if path.parent == cached.folder:  # root, who may read all, runs tests too
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", private)
    known = dataclasses.replace(case, content=cached.content)
    for one in (case, known):
        with pytest.raises(StorageError, match=r"Permission denied.*chmod -R a\+rX") as raised:
            prepare([one], WINDOW, tmp_path / "cache", workers=1, progress=False)
        assert raised.value.path == cached.folder


def test_a_damaged_folder_that_cannot_be_replaced_is_not_used(tmp_path, monkeypatch):
    case = make_case(tmp_path)
    [cached] = prepare([case], WINDOW, tmp_path / "cache", workers=1, progress=False)
    image = cached.folder / "image.npy"
    image.write_bytes(image.read_bytes()[:-5])
    rmtree = cache_module.shutil.rmtree

    def of_another_user(path, **options):
        if path != cached.folder:
            rmtree(path, **options)

    monkeypatch.setattr(cache_module.shutil, "rmtree", of_another_user)
    with pytest.raises(StorageError, match="cannot be written"):
        prepare([case], WINDOW, tmp_path / "cache", workers=1, progress=False)


def _prepare_in_a_process(case, root, barrier):
    barrier.wait()
    prepare([case], WINDOW, root, workers=1, progress=False)


def test_two_builders_at_once_leave_one_whole_folder(tmp_path):
    case = make_case(tmp_path, shape=(40, 40, 40))
    root = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    builders = [
        context.Process(target=_prepare_in_a_process, args=(case, root, barrier)) for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0]
    assert len(list(root.iterdir())) == 1
    [cached] = prepare([case], WINDOW, root, workers=1, progress=False)
    assert cached.shape == (40, 40, 40)


def test_one_bad_case_is_named_and_the_others_are_kept(tmp_path):
    good, bad = make_case(tmp_path, "good"), make_case(tmp_path, "bad", seed=2)
    bad.image.write_bytes(bad.image.read_bytes()[:200])
    with pytest.raises(UnreadableFileError, match=r"bad\.nii\.gz"):
        prepare([bad, good], WINDOW, tmp_path / "cache", workers=1, progress=False)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_image_and_a_label_of_two_grids_are_refused(tmp_path):
    a, b = make_case(tmp_path, "a"), make_case(tmp_path, "b", spacing=(1.0, 1.0, 3.0))
    mixed = dataclasses.replace(a, label=b.label)
    with pytest.raises(GeometryError, match=r"b_seg\.nii\.gz"):
        prepare([mixed], WINDOW, tmp_path / "cache", workers=1, progress=False)


def test_fingerprint_worked_by_hand(tmp_path):
    cases = []
    for number, (spacing, value) in enumerate([((1, 1, 2), -800), ((2, 2, 2), -600)]):
        shape = (10, 10, 10)
        image = np.full(shape, 100, np.int16)
        label = np.zeros(shape, np.uint8)
        label[2:4, 2:4, 2:4] = 1
        image[label > 0] = value
        affine = np.diag([*map(float, spacing), 1.0])
        write_nifti(tmp_path / f"{number}.nii.gz", Volume(image, affine))
        write_nifti(tmp_path / f"{number}_seg.nii.gz", Volume(label, affine))
        cases.append(
            TrainingCase(str(number), tmp_path / f"{number}.nii.gz",
                         tmp_path / f"{number}_seg.nii.gz", HU, {1: 1})
        )  # fmt: skip
    for _ in range(2):  # measured, then read from what was kept
        found = fingerprint(cases, tmp_path / "cache", workers=1, progress=False)
        assert found.spacing_mm == (2.0, 1.5, 1.5)
        # 10 voxels of 1 mm and 10 of 2 mm are 7 and 13 of 1.5 mm; half a voxel is dropped.
        assert found.shape == (10, 10, 10)
        assert (found.mean, found.std) == (-700.0, 100.0)
        assert (found.low, found.high) == (-800.0, -600.0)


def test_a_coarse_axis_takes_its_tenth_percentile(tmp_path):
    cases = []
    for number, depth in enumerate([4.0, 5.0, 6.0]):
        case = make_case(tmp_path, str(number), (40, 40, 10), (0.7, 0.7, depth), seed=number)
        cases.append(case)
    found = fingerprint(cases, tmp_path / "cache", workers=1, progress=False)
    assert found.spacing_mm == pytest.approx((4.2, 0.7, 0.7))


def test_no_foreground_at_all_is_an_error(tmp_path):
    case = dataclasses.replace(make_case(tmp_path), values={7: 1})
    with pytest.raises(LabelError, match="no training case has a foreground voxel"):
        fingerprint([case], tmp_path / "cache", workers=1, progress=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_before_it_spreads(tmp_path, bad):
    case = make_case(tmp_path)
    volume = read_nifti(case.image)
    values = volume.data.astype(np.float32)
    values[3, 2, 1] = bad
    write_nifti(case.image, volume.with_data(values))
    with pytest.raises(IntensityError, match=r"1 (NaN|infinite) of .*\(3, 2, 1\)") as raised:
        prepare([case], WINDOW, tmp_path / "cache", workers=1, progress=False)
    assert raised.value.path == case.image


def cached_cases(tmp_path, **options):
    cases = [make_case(tmp_path, f"c{n}", seed=n, **options) for n in range(3)]
    return prepare(cases, WINDOW, tmp_path / "cache", workers=1, progress=False)


def test_a_patch_is_a_function_of_its_number_alone(tmp_path):
    cases = cached_cases(tmp_path)
    one = Patches(cases, (4, 6, 6), pad_value=0, seed=5)
    two = Patches(cases, (4, 6, 6), pad_value=0, seed=5)
    backwards = {number: one[number] for number in reversed(range(20))}
    for number in range(20):
        sample = two[number]
        assert sample["case_id"] == backwards[number]["case_id"]
        np.testing.assert_array_equal(sample["image"], backwards[number]["image"])
    other = Patches(cases, (4, 6, 6), pad_value=0, seed=6)
    assert any(not np.array_equal(other[n]["image"], one[n]["image"]) for n in range(3))


def test_patches_are_cut_from_image_and_label_alike(tmp_path):
    cases = {case.case_id: case for case in cached_cases(tmp_path)}
    patches = Patches(list(cases.values()), (4, 6, 6), pad_value=-1, seed=0)
    for number in range(10):
        sample = patches[number]
        case = cases[sample["case_id"]]
        image, label = np.array(case.image(), np.float32), case.label()
        places = [
            (z, y, x)
            for z in range(5) for y in range(5) for x in range(7)
            if np.array_equal(image[z : z + 4, y : y + 6, x : x + 6], sample["image"][0])
        ]  # fmt: skip
        assert len(places) == 1
        z, y, x = places[0]
        np.testing.assert_array_equal(label[z : z + 4, y : y + 6, x : x + 6], sample["label"])


def test_the_share_of_foreground_patches_is_exact(tmp_path):
    patches = Patches(cached_cases(tmp_path), (2, 3, 3), foreground_share=1, pad_value=0, seed=1)
    assert all((patches[n]["label"] > 0).any() for n in range(50))
    never = Patches(cached_cases(tmp_path), (1, 1, 1), foreground_share=0, pad_value=0, seed=1)
    share = np.mean([(never[n]["label"] > 0).any() for n in range(400)])
    assert share == pytest.approx(45 / 960, abs=0.04)


@pytest.mark.parametrize("size", [(20, 16, 30), (1, 40, 40)])
def test_a_scan_smaller_than_the_patch_stands_in_its_middle(tmp_path, size):
    cases = cached_cases(tmp_path)
    sample = Patches(cases, size, pad_value=-9, seed=0, foreground_share=0)[3]
    assert sample["image"].shape == (1, *size)
    inside = np.argwhere(sample["image"][0].numpy() > -9)
    if size[0] == 20:
        assert inside.min(0).tolist() == [6, 3, 9]
        assert (inside.max(0) - inside.min(0) + 1).tolist() == [8, 10, 12]


@pytest.mark.parametrize("share", [0, 1])
def test_what_is_cut_around_a_patch_reaches_beyond_the_scan_and_the_patch_does_not(tmp_path, share):
    cases = cached_cases(tmp_path)
    size, cut = (4, 6, 6), (9, 11, 12)
    patches = Patches(cases, size, cut=cut, pad_value=-9, seed=0, foreground_share=share)
    by_name = {case.case_id: np.array(case.image(), np.float32) for case in cases}
    seen = np.zeros(cases[0].shape, bool)
    for number in range(1000):
        sample = patches[number]
        assert sample["image"].shape == (1, *cut)
        # What augmentation leaves where nothing is turned.
        middle = tuple(
            slice((c - s) // 2, (c - s) // 2 + s) for c, s in zip(cut, size, strict=True)
        )
        image, label = sample["image"][0][middle].numpy(), sample["label"][middle]
        assert image.min() > -9
        if share:
            assert (label > 0).any()
        whole = by_name[sample["case_id"]]
        z, y, x = next(
            place
            for place in np.argwhere(whole == image[0, 0, 0]).tolist()
            if np.array_equal(whole[tuple(map(slice, place, np.add(place, size)))], image)
        )
        seen[z : z + 4, y : y + 6, x : x + 6] = True
    # No rim is left out.
    assert share or seen.all()


def test_a_patch_larger_than_what_is_cut_for_it(tmp_path):
    with pytest.raises(ConfigError, match="in a cut of"):
        Patches(cached_cases(tmp_path), (4, 6, 6), cut=(4, 5, 6), pad_value=0, seed=0)


def test_a_2d_network_gets_planes(tmp_path):
    sample = Patches(cached_cases(tmp_path), (6, 7), pad_value=0, seed=0)[0]
    assert sample["image"].shape == (1, 6, 7)
    assert sample["label"].shape == (6, 7)


def test_a_small_source_is_not_drowned(tmp_path):
    cases = cached_cases(tmp_path)
    cases = [dataclasses.replace(cases[0], source="small")] + [
        dataclasses.replace(cases[1], source="large", case_id=f"l{n}") for n in range(9)
    ]
    patches = Patches(cases, (2, 2, 2), pad_value=0, seed=0, by_source=True)
    share = np.mean([patches[n]["case_id"] == "c0" for n in range(300)])
    assert share == pytest.approx(0.5, abs=0.1)
