"""Lungs of scans that have no label of them, as files."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from covidseg.core.errors import ConfigError, CovidsegError, IntensityError
from covidseg.engine.cache import TrainingCase, content_of, read_training_case
from covidseg.generalization.painted import cases_with_lungs
from covidseg.registry.cases import HU, Intensity


def put(folder, name, *, air=True, axes=(0, 1, 2), intensity=HU, values=None):
    """A chest of two lungs whose array axes are stored in the order ``axes``."""
    hu = np.full((40, 36, 6), -1000, np.int16)
    hu[6:34, 6:30] = 30
    if air:
        hu[8:15, 10:26] = hu[25:32, 10:26] = -850
    data = hu if values is None else values(hu)
    affine = np.diag([-5.0, -5.0, 10.0, 1.0])
    path = folder / f"{name}.nii"
    nib.save(nib.Nifti1Image(data.transpose(axes), affine[:, [*axes, 3]]), path)
    return TrainingCase(name, path, path, intensity, {7: 1}, source="msd")


def test_lungs_become_the_label_whatever_the_axes(tmp_path):
    cases = [put(tmp_path, "plain"), put(tmp_path, "sagittal", axes=(1, 2, 0))]
    labelled, without = cases_with_lungs(cases, tmp_path / "lungs", workers=1, progress=False)
    assert without == {}
    assert [case.case_id for case in labelled] == ["plain", "sagittal"]
    for case in labelled:
        image, lungs = read_training_case(case)
        np.testing.assert_array_equal(lungs.data, image.data == -850)
        assert np.allclose(image.affine, lungs.affine)


def test_a_windowed_scan_is_understood(tmp_path):
    def windowed(hu):
        return np.rint((np.clip(hu, -1250, 250) + 1250) / 1500 * 255).astype(np.int16)

    case = put(tmp_path, "w", intensity=Intensity("windowed", (-1250.0, 250.0)), values=windowed)
    labelled, _ = cases_with_lungs([case], tmp_path / "lungs", progress=False)
    image, lungs = read_training_case(labelled[0])
    np.testing.assert_array_equal(lungs.data, image.data == 68)


def test_a_scan_without_lungs_is_left_out_and_said(tmp_path):
    cases = [put(tmp_path, "solid", air=False), put(tmp_path, "chest")]
    labelled, without = cases_with_lungs(cases, tmp_path / "lungs", progress=False)
    assert [case.case_id for case in labelled] == ["chest"]
    assert "too little air inside the body" in str(without["solid"])
    with pytest.raises(ConfigError, match=r"found in no scan.*too little air"):
        cases_with_lungs(cases[:1], tmp_path / "lungs", progress=False)


def test_what_is_written_is_kept(tmp_path):
    case = put(tmp_path, "chest")
    (before,), _ = cases_with_lungs([case], tmp_path / "lungs", progress=False)
    time = before.label.stat().st_mtime_ns
    (after,), _ = cases_with_lungs([case], tmp_path / "lungs", progress=False)
    assert after == before
    assert after.label.stat().st_mtime_ns == time
    assert after.content != content_of(case)  # which is of another label


def test_another_scan_of_the_same_name_has_lungs_of_its_own(tmp_path):
    def swollen(hu):
        return np.where(np.arange(36)[:, None] < 11, 30, hu).astype(np.int16)

    case = put(tmp_path, "chest")
    (first,), _ = cases_with_lungs([case], tmp_path / "lungs", progress=False)
    case = put(tmp_path, "chest", values=swollen)
    (second,), _ = cases_with_lungs([case], tmp_path / "lungs", progress=False)
    image, lungs = read_training_case(second)
    np.testing.assert_array_equal(lungs.data, image.data == -850)
    assert first.content != second.content


def test_what_cannot_be_read_or_understood_is_refused(tmp_path):
    picture = put(tmp_path, "p", intensity=Intensity("picture", None))
    with pytest.raises(IntensityError, match="no known relation to Hounsfield"):
        cases_with_lungs([put(tmp_path, "chest"), picture], tmp_path / "lungs", progress=False)
    broken = put(tmp_path, "broken")
    broken.image.write_bytes(broken.image.read_bytes()[:400])
    with pytest.raises(CovidsegError, match=r"broken\.nii"):
        cases_with_lungs([put(tmp_path, "chest"), broken], tmp_path / "lungs", progress=False)
