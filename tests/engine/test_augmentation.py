"""Augmentation: replayable, applied as drawn, image and label together."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from covidseg.engine.augmentation import (
    Augmentation,
    AugmentationConfig,
    Draw,
    gaussian_blur,
    planned_augmentation,
)

OFF = AugmentationConfig(
    p_rotation=0, p_scale=0, p_noise=0, p_blur=0, p_brightness=0, p_contrast=0,
    p_low_resolution=0, p_inverted_gamma=0, p_gamma=0, p_mirror=0,
)  # fmt: skip


def batch(count=4, size=(10, 12, 14), channels=1):
    generator = torch.Generator().manual_seed(7)
    image = torch.randn(count, channels, *size, generator=generator)
    label = (image[:, 0] > 0.3).to(torch.int64) + (image[:, 0] > 1)
    return image, label


@pytest.mark.parametrize(
    ("patch", "in_plane_only", "degrees"),
    [
        ((96, 160, 160), False, 30),
        ((28, 256, 256), True, 180),
        ((160, 160), False, 180),
        ((160, 241), False, 15),
        ((240, 160), False, 180),
    ],
)
def test_angles_that_are_not_given_are_nnunets(patch, in_plane_only, degrees):
    config = AugmentationConfig(in_plane_only=in_plane_only)
    assert Augmentation(config, patch).rotation_degrees == degrees
    planned = planned_augmentation(AugmentationConfig(), patch)
    assert (planned.in_plane_only, planned.rotation_degrees) == (in_plane_only, degrees)
    given = dataclasses.replace(config, rotation_degrees=20)
    assert Augmentation(given, patch).rotation_degrees == 20
    assert planned_augmentation(given, patch).rotation_degrees == 20


def test_the_same_seed_gives_the_same_sample_whatever_stands_beside_it():
    image, label = batch()
    augment = Augmentation(AugmentationConfig(), (8, 8, 8))
    whole = augment(image, label, [3, 14, 15, 92])
    for number, seed in enumerate([3, 14, 15, 92]):
        alone = augment(image[number : number + 1], label[number : number + 1], [seed])
        torch.testing.assert_close(whole[0][number], alone[0][0], rtol=0, atol=0)
        torch.testing.assert_close(whole[1][number], alone[1][0], rtol=0, atol=0)
    other = augment(image, label, [4, 14, 15, 92])
    torch.testing.assert_close(other[0][1:], whole[0][1:], rtol=0, atol=0)


def test_images_without_labels_become_what_they_become_with_them():
    image, label = batch()
    augment = Augmentation(AugmentationConfig(p_rotation=1, p_mirror=1), (8, 8, 8))
    alone, nothing = augment(image, None, range(4))
    assert nothing is None
    torch.testing.assert_close(alone, augment(image, label, range(4))[0], rtol=0, atol=0)


def test_the_inputs_stay_as_they_are():
    image, label = batch()
    kept = image.clone(), label.clone()
    Augmentation(AugmentationConfig(), (10, 12, 14))(image, label, [1, 2, 3, 4])
    torch.testing.assert_close((image, label), kept, rtol=0, atol=0)


def test_switched_off_it_cuts_the_centre():
    image, label = batch()
    new_image, new_label = Augmentation(OFF, (6, 6, 8))(image, label, range(4))
    torch.testing.assert_close(new_image, image[:, :, 2:8, 3:9, 3:11], rtol=0, atol=0)
    torch.testing.assert_close(new_label, label[:, 2:8, 3:9, 3:11], rtol=0, atol=0)


def test_every_transform_happens_as_often_as_its_probability_says():
    augment = Augmentation(AugmentationConfig(), (8, 8, 8))
    draws = [augment.draw(seed) for seed in range(4000)]
    expected = {
        "linear": 1 - 0.8 * 0.8, "noise": 0.1, "blur": 0.1, "brightness": 0.15, "contrast": 0.15,
        "low_resolution": 0.125, "inverted_gamma": 0.1, "gamma": 0.3,
    }  # fmt: skip
    for name, probability in expected.items():
        share = np.mean([getattr(draw, name) is not None for draw in draws])
        assert share == pytest.approx(probability, abs=4 * np.sqrt(0.25 / 4000)), name
    for axis in range(3):
        assert np.mean([axis in draw.mirror for draw in draws]) == pytest.approx(0.5, abs=0.04)
    assert all(0.7 <= draw.gamma <= 1.5 for draw in draws if draw.gamma is not None)


def test_half_of_the_factors_weaken_and_half_strengthen_as_in_nnunet():
    augment = Augmentation(AugmentationConfig(p_gamma=1, p_inverted_gamma=1), (8, 8))
    for name in ("gamma", "inverted_gamma"):
        drawn = np.array([getattr(augment.draw(seed), name) for seed in range(4000)])
        # Evenly over [0.7, 1.5] it would be 0.375 of them, and a mean of 1.1.
        assert np.mean(drawn < 1) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 4000))
        assert drawn.mean() == pytest.approx((0.85 + 1.25) / 2, abs=0.02)
        assert drawn.min() >= 0.7
        assert drawn.max() <= 1.5
    narrow = Augmentation(AugmentationConfig(p_gamma=1, gamma=(0.7, 0.8)), (8, 8))
    assert all(0.7 <= narrow.draw(seed).gamma <= 0.8 for seed in range(100))


def test_switching_one_transform_off_leaves_the_draws_of_the_others():
    whole = Augmentation(AugmentationConfig(), (8, 8))
    less = Augmentation(dataclasses.replace(AugmentationConfig(), p_gamma=0, p_noise=0), (8, 8))
    for seed in range(50):
        a, b = whole.draw(seed), less.draw(seed)
        assert (a.blur, a.mirror, a.contrast) == (b.blur, b.mirror, b.contrast)
        assert b.gamma is None


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_quarter_turn_is_exact(dimensions):
    size = (9,) * dimensions
    image, label = batch(1, size)
    linear = np.eye(dimensions)
    linear[-2:, -2:] = [[0, -1], [1, 0]]
    augment = Augmentation(OFF, size)
    turned, turned_label = augment.apply(image, label, [Draw(linear=linear)])
    # Out (y, x) takes from in (-x, y).
    expected = torch.rot90(image, -1, dims=(-2, -1))
    label = torch.rot90(label, -1, dims=(-2, -1))
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turned_label, label)


def test_turning_and_zooming_agree_with_scipy():
    image, label = batch(1, (20, 22, 24))
    augment = Augmentation(OFF, (12, 12, 12))
    angle = 0.3
    linear = np.eye(3) * 1.2
    linear[1:, 1:] = 1.2 * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    ours, _ = augment.apply(image, label, [Draw(linear=linear)])
    centre = np.array([4, 5, 6]) + 5.5
    scipys = ndimage.affine_transform(
        image[0, 0].numpy(), linear, centre - linear @ np.full(3, 5.5), (12, 12, 12), order=1,
        mode="nearest",
    )  # fmt: skip
    np.testing.assert_allclose(ours[0, 0].numpy(), scipys, atol=2e-4)


def test_in_plane_only_keeps_planes_apart():
    config = AugmentationConfig(p_rotation=1, p_scale=1, in_plane_only=True)
    for seed in range(20):
        linear = Augmentation(config, (8, 16, 16)).draw(seed).linear
        assert linear[0].tolist() == [1, 0, 0]
        assert linear[:, 0].tolist() == [1, 0, 0]


def test_blur_agrees_with_scipy():
    # Among them none, and one that reaches beyond the shortest axis.
    sigmas = [0.8, None, 1.5, 0.3]
    image, label = batch(4, (5, 17, 18), channels=2)
    draws = [Draw(blur=sigma) for sigma in sigmas]
    ours, _ = Augmentation(OFF, (5, 17, 18)).apply(image, label, draws)
    for sample, sigma in enumerate(sigmas):
        for channel in range(2):
            expected = image[sample, channel].numpy()
            if sigma is not None:
                expected = ndimage.gaussian_filter(expected, sigma, mode="nearest")
            np.testing.assert_allclose(ours[sample, channel].numpy(), expected, atol=1e-5)
    together = gaussian_blur(image[[0, 2, 3]], [0.8, 1.5, 0.3])
    assert torch.equal(together, ours[[0, 2, 3]])
    assert torch.equal(together[2:], gaussian_blur(image[3:], [0.3]))


def test_intensities_worked_by_hand():
    image = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(1, 1, 2, 2)
    label = torch.zeros(1, 2, 2, dtype=torch.int64)
    augment = Augmentation(OFF, (2, 2))

    def after(**what):
        return augment.apply(image, label, [Draw(**what)])[0].flatten().tolist()

    assert after(brightness=2.0) == [0, 2, 4, 6]
    # About the mean 1.5, kept within what the image had.
    assert after(contrast=0.5) == pytest.approx([0.75, 1.25, 1.75, 2.25])
    assert after(contrast=2.0) == pytest.approx([0, 0.5, 2.5, 3])
    # (v / 3) ** 2 * 3 = 0, 1/3, 4/3, 3, then mean and standard deviation restored.
    raw = np.array([0, 1 / 3, 4 / 3, 3])
    std = np.std([0, 1, 2, 3], ddof=1)
    expected = (raw - raw.mean()) / raw.std(ddof=1) * std + 1.5
    assert after(gamma=2.0) == pytest.approx(expected.tolist(), abs=1e-5)
    inverted = [3 - value for value in reversed(expected.tolist())]
    mirrored = after(inverted_gamma=2.0)
    assert mirrored == pytest.approx([3 - v for v in expected[::-1]], abs=1e-5)
    assert inverted == pytest.approx(mirrored, abs=1e-5)


def test_what_is_drawn_of_noise_is_its_standard_deviation_as_in_nnunet():
    # batchgeneratorsv2 0.3.6: GaussianNoiseTransform((0.09, 0.09))(image=zeros).std() is 0.09.
    image, label = torch.zeros(1, 1, 40, 40, 40), torch.zeros(1, 40, 40, 40, dtype=torch.int64)
    ours, _ = Augmentation(OFF, (40, 40, 40)).apply(image, label, [Draw(noise=(0.09, 5))])
    assert ours.std().item() == pytest.approx(0.09, rel=0.02)


def test_low_resolution_loses_detail_and_keeps_the_size():
    image, label = batch(1, (16, 16))
    ours, _ = Augmentation(OFF, (16, 16)).apply(image, label, [Draw(low_resolution=0.5)])
    assert ours.shape == image.shape
    assert (ours[0, 0].diff(dim=0) ** 2).mean() < 0.6 * (image[0, 0].diff(dim=0) ** 2).mean()


def test_in_plane_only_low_resolution_leaves_planes_as_they_are():
    # nnU-Net: SimulateLowResolutionTransform(ignore_axes=(0,)) with its "dummy 2D" augmentation.
    planes = torch.arange(4.0)[:, None, None].expand(1, 1, 4, 16, 16)
    flat = dataclasses.replace(OFF, in_plane_only=True)
    ours, _ = Augmentation(flat, (4, 16, 16)).apply(planes, None, [Draw(low_resolution=0.5)])
    assert torch.equal(ours, planes)
    cubic, _ = Augmentation(OFF, (4, 16, 16)).apply(planes, None, [Draw(low_resolution=0.5)])
    assert not torch.equal(cubic, planes)
    image, label = batch(1, (16, 16))
    ours, _ = Augmentation(flat, (16, 16)).apply(image, label, [Draw(low_resolution=0.5)])
    assert not torch.equal(ours, image)


def test_mirrors_image_and_label_together():
    image, label = batch(2)
    ours, ours_label = Augmentation(OFF, (10, 12, 14)).apply(
        image, label, [Draw(mirror=(0, 2)), Draw()]
    )
    torch.testing.assert_close(ours[0], image[0].flip([1, 3]))
    torch.testing.assert_close(ours_label[0], label[0].flip([0, 2]))
    torch.testing.assert_close(ours[1], image[1])


def test_the_margin_is_nnunets():
    # nnU-Net v2: get_patch_size((64, 64), (-pi/6, pi/6), (0, 0), (0, 0), (0.85, 1.25)).
    side = int(64 * (np.cos(np.pi / 6) + np.sin(np.pi / 6)) / 0.85)
    tilted = AugmentationConfig(rotation_degrees=30)
    assert Augmentation(tilted, (64, 64)).input_size == (side, side)
    flat = dataclasses.replace(tilted, in_plane_only=True)
    assert Augmentation(flat, (16, 64, 64)).input_size == (16, side, side)
    assert Augmentation(OFF, (16, 64, 64)).input_size == (16, 64, 64)
    # By any angle: nnU-Net reckons with a quarter turn.
    assert Augmentation(AugmentationConfig(), (64, 64)).input_size == (75, 75)
