"""There and back: what a network says about the resampled scan lands on the scan's own voxels."""

from __future__ import annotations

import itertools
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from covidseg.core.errors import ConfigError
from covidseg.imaging.resample import reorient
from covidseg.imaging.volume import Volume
from covidseg.inference.preprocessing import Preprocessing
from covidseg.inference.restore import restore, scan_planes
from covidseg.inference.sliding import Slab, Sliding
from covidseg.registry.cases import HU, Intensity

CPU = torch.device("cpu")
WINDOW = Preprocessing(low=-1250, high=250, mean=-1250, std=1500)


def scan(shape=(20, 18, 14), spacing=(1.5, 1.5, 3.0), orientation="RAS", seed=0):
    """A smooth random scan in HU, stored with the axes that ``orientation`` says."""
    rng = np.random.default_rng(seed)
    data = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    data = (data / np.abs(data).max() * 700 - 500).astype(np.int16)
    volume = nib.Nifti1Image(data, np.diag([*spacing, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    )
    turned = volume.as_reoriented(turn)
    return Volume(np.asarray(turned.dataobj), turned.affine)


def threshold(windows):
    """Probabilities of two classes, monotonous in the intensity."""
    foreground = torch.sigmoid((windows - 0.5) * 30)
    return torch.cat([1 - foreground, foreground], dim=1)


def segment(volume, settings, window=(4, 8, 8)):
    prepared = settings.image(volume, HU)
    slabs = Sliding(window).slabs(
        torch.from_numpy(prepared.image)[None], threshold, pad_value=settings.air, device=CPU
    )
    return restore(slabs, prepared)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "ASL"])
def test_without_resampling_every_voxel_is_decided_by_its_own_value(orientation):
    volume = scan(orientation=orientation)
    result = segment(volume, WINDOW)
    np.testing.assert_array_equal(result.data, volume.data > -500)
    np.testing.assert_allclose(result.affine, volume.affine)
    assert result.data.dtype == np.uint8


@pytest.mark.parametrize(
    ("degrees", "spacing"),
    [
        ((-90, 135, 90), (1.5, 0.8, 3.0)),
        ((0, 135, 90), (1.5, 0.8, 3.0)),
        ((45, -45, -90), (1, 1, 1)),
    ],
)
def test_axes_at_exactly_45_degrees_come_back(degrees, spacing):
    """Which axis is which is a tie there, and may fall otherwise on the way back."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * spacing
    for signs in itertools.product((-1, 1), repeat=3):
        turned = affine @ np.diag([*signs, 1])
        # NIfTI keeps an affine in single precision.
        for rounded in (turned, turned.astype(np.float32).astype(float)):
            volume = Volume(scan().data, rounded)
            np.testing.assert_array_equal(segment(volume, WINDOW).data, volume.data > -500)


@pytest.mark.parametrize("spacing", [(2.0, 1.2, 1.7), (4.0, 1.0, 1.0), (1.0, 3.0, 3.0)])
@pytest.mark.parametrize("orientation", ["RAS", "SPL"])
def test_through_another_spacing_only_the_border_moves(spacing, orientation):
    volume = scan((30, 28, 24), orientation=orientation)
    settings = Preprocessing(low=-1250, high=250, mean=-1250, std=1500, spacing_mm=spacing)
    result = segment(volume, settings)
    expected = volume.data > -500
    assert result.shape == volume.shape
    dice = 2 * (expected & (result.data > 0)).sum() / (expected.sum() + result.data.sum())
    assert dice > 0.97


@pytest.mark.parametrize("orientation", ["RAS", "SPL"])
def test_the_scans_own_planes_stay_as_they_are(orientation):
    volume = scan((30, 28, 24), (0.7, 0.7, 3.3), orientation)
    settings = replace(WINDOW, spacing_mm=(None, 1.4, 1.0))
    prepared = settings.image(volume, HU)
    spacing = np.linalg.norm(prepared.affine[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, (1.0, 1.4, 3.3))
    assert prepared.image.shape == (24, 14, 21)
    assert settings.label(volume.with_data(volume.data > -500)).shape == (24, 14, 21)
    # Each plane comes from its own alone.
    upright = reorient(volume, "LPS")
    for plane in (0, 11, 23):
        alone = Volume(upright.data[..., plane : plane + 1], upright.affine)
        single = settings.image(alone, HU).image[0]
        np.testing.assert_allclose(prepared.image[plane], single, atol=1e-5)


def test_probabilities_are_interpolated_then_decided_worked_by_hand():
    """Two network planes of 2 mm with foreground 0 and 1; the scan's planes are 1 mm."""
    volume = Volume(np.zeros((1, 1, 4), np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))
    settings = Preprocessing(low=-1, high=1, mean=0, std=1, spacing_mm=(2.0, 1.0, 1.0))
    prepared = settings.image(volume, HU)
    assert prepared.image.shape == (2, 1, 1)

    def planes(values):
        foreground = torch.tensor(values)[:, None, None]
        return torch.stack([1 - foreground, foreground])

    # Scan planes lie at network coordinates -0.25, 0.25, 0.75, 1.25: 0, 0.22, 0.67, 0.89.
    slabs = [Slab(0, 1, planes([0.0])), Slab(1, 2, planes([0.89]))]
    assert restore(slabs, prepared).data.ravel().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("network", "thickness", "nearest"),
    [
        ((2.0, 1.0, 1.0), 5.0, True),  # the scan's planes alone are far apart
        ((4.0, 1.0, 1.0), 1.5, True),  # the network's alone
        ((2.0, 1.0, 1.0), 3.0, False),
        ((1.0, 1.0, 3.5), 4.0, False),  # the network's grid has another coarse axis
    ],
)
def test_across_coarse_planes_the_nearest_is_taken(network, thickness, nearest):
    """nnU-Net's determine_do_sep_z_and_axis: of the current spacing, else of the new one."""
    volume = Volume(np.zeros((8, 8, 12), np.float32), np.diag([1.0, 1.0, thickness, 1.0]))
    settings = Preprocessing(low=-1, high=1, mean=0, std=1, spacing_mm=network)
    prepared = settings.image(volume, HU)
    planes, *size = prepared.image.shape
    numbers = torch.arange(planes, dtype=torch.float32)[:, None, None].expand(planes, *size)
    slabs = [Slab(n, n + 1, numbers[None, n : n + 1]) for n in range(planes)]
    found = torch.cat([slab.probabilities for slab in scan_planes(slabs, prepared)], dim=1)
    values = found[0, :, 0, 0].numpy()
    places = ((np.arange(12) + 0.5) * thickness / network[0] - 0.5).clip(0, planes - 1)
    expected = np.floor(places + 0.5) if nearest else places
    np.testing.assert_allclose(values, expected, atol=1e-4)
    assert (np.abs(values - np.rint(values)) < 1e-4).all() == nearest


def test_one_plane_and_one_column():
    for shape in [(9, 9, 1), (1, 9, 9)]:
        volume = scan(shape)
        np.testing.assert_array_equal(segment(volume, WINDOW).data, volume.data > -500)


def test_windowed_scans_become_what_the_window_kept_of_hu():
    volume = scan()
    window = (-1250.0, 250.0)
    stored = np.clip((volume.data + 1250.0) / 1500 * 255, 0, 255)
    ours = WINDOW.normalise(stored, Intensity("windowed", window))
    np.testing.assert_allclose(ours, WINDOW.normalise(volume.data, HU), atol=1e-5)


def test_normalisation_worked_by_hand():
    settings = Preprocessing(low=-1000, high=400, mean=-200, std=400)
    values = settings.normalise(np.array([-2000, -200, 200, 3000], np.int16), HU)
    assert values.tolist() == [-2.0, 0.0, 1.0, 1.5]
    assert settings.air == -2.0


def test_pictures_of_two_windows_become_one():
    greys = np.random.default_rng(0).choice([20, 30, 50, 100, 180, 200, 230], (16, 16, 1))
    settings = Preprocessing(low=0, high=255, mean=0, std=1, lung_and_tissue=(32, 208))
    bright, dark = (settings.normalise(values, HU) for values in (greys, 10 + greys * 0.4))
    np.testing.assert_allclose(bright, dark, atol=1)
    # Lung is 20, the tenth percentile of what is dark, and tissue 200.
    np.testing.assert_allclose(bright[greys == 20], 32, rtol=1e-5)
    np.testing.assert_allclose(bright[greys == 200], 208, rtol=1e-5)
    np.testing.assert_allclose(bright[greys == 100], 32 + 80 / 180 * 176, rtol=1e-5)
    flat = np.full((4, 4, 1), 9.0)
    np.testing.assert_array_equal(settings.normalise(flat, HU), flat)


def test_pictures_are_stretched_and_come_back_in_their_own_size():
    volume = scan((37, 50, 1), orientation="LPS")
    settings = Preprocessing(low=-1250, high=250, mean=-1250, std=1500, plane_size=(64, 64))
    prepared = settings.image(volume, HU)
    assert prepared.image.shape == (1, 64, 64)
    result = segment(volume, settings, window=(1, 64, 64))
    expected = volume.data > -500
    dice = 2 * (expected & (result.data > 0)).sum() / (expected.sum() + result.data.sum())
    assert dice > 0.97


def test_labels_follow_the_image():
    volume = scan((30, 28, 24), orientation="LAS")
    settings = Preprocessing(low=-1250, high=250, mean=-1250, std=1500, spacing_mm=(3, 2, 2))
    label = settings.label(volume.with_data((volume.data > -500).astype(np.uint8)))
    image = settings.image(volume, HU).image
    assert label.shape == image.shape
    assert ((label > 0) == (image > 0.5)).mean() > 0.95


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 1, "high": 0, "mean": 0, "std": 1}, "not below high"),
        ({"low": 0, "high": 1, "mean": 0, "std": 0}, "std is 0"),
        (
            {
                "low": 0,
                "high": 1,
                "mean": 0,
                "std": 1,
                "spacing_mm": (1, 1, 1),
                "plane_size": (8, 8),
            },
            "both spacing_mm and plane_size",
        ),
        (
            {"low": 0, "high": 1, "mean": 0, "std": 1, "lung_and_tissue": (208, 32)},
            "lung darker than tissue",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**settings)
