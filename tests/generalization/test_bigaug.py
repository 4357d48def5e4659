"""BigAug's stack against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from covidseg.engine.augmentation import AugmentationConfig
from covidseg.generalization.bigaug import BigAug, BigAugConfig, deform, spatial_augmentation

SIZES = {2: (24, 20), 3: (10, 12, 9)}


def batch(dimensions=2, seeds=(5, 6, 7)):
    generator = torch.Generator().manual_seed(9)
    image = torch.randn(len(seeds), 1, *SIZES[dimensions], generator=generator).clamp(-2, 2)
    label = (image[:, 0] > 0.4).long() + (image[:, 0] > 1)
    return {"image": image, "label": label, "seed": torch.tensor(seeds)}


def only(**happens):
    """A drawn stack with nothing but what is named."""
    stack = BigAug(BigAugConfig(p=0), -2, 2).draw(1, 2)
    for name, value in happens.items():
        setattr(stack, name, value)
    return stack


def test_each_transform_by_an_independent_formula():
    aug = BigAug(BigAugConfig(), -2, 2)
    x = batch()["image"][0]
    unit = (x.numpy() + 2) / 4

    def blur(v, sigma):
        return ndimage.gaussian_filter(v, (0, sigma, sigma), mode="nearest", truncate=4)

    soft = blur(x.numpy(), 1.0)
    expected = {
        ("blur", 1.2): blur(x.numpy(), 1.2),
        ("sharpen", (1.0, 10.0)): soft + 10 * (soft - blur(soft, 1.0)),
        ("brightness", 0.1): x.numpy() + 0.4,
        ("gamma", 2.5): unit**2.5 * 4 - 2,
        ("perturbation", (0.1, -0.05)): (1.1 * unit - 0.05) * 4 - 2,
    }
    for (name, value), wanted in expected.items():
        found = aug._intensity(x[None], [only(**{name: value})])[0]
        np.testing.assert_allclose(found.numpy(), np.clip(wanted, -2, 2), atol=1e-4, err_msg=name)
    assert torch.equal(aug._intensity(x[None], [only()])[0], x)
    wide = BigAug(BigAugConfig(), -1e3, 1e3)
    noise = wide._intensity(torch.zeros(1, 1, 300, 300), [only(noise=0.7)])
    assert noise.std().item() == pytest.approx(0.7, rel=0.02)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_uniform_displacement_is_a_shift(dimensions):
    one = batch(dimensions)
    control = np.zeros((dimensions, *[7] * dimensions), np.float32)
    # Towards larger indices along the last axis, by three voxels.
    size = SIZES[dimensions][-1]
    control[-1] = 3 / (size - 1)
    image, label = deform(one["image"][:1], one["label"][:1], control[None])
    torch.testing.assert_close(image[..., :-4], one["image"][:1, ..., 3:-1], rtol=0, atol=1e-4)
    assert torch.equal(label[..., :-4], one["label"][:1, ..., 3:-1])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_sample_does_not_depend_on_its_batch(dimensions):
    aug = BigAug(BigAugConfig(), -2, 2)
    one = batch(dimensions)
    kept = {name: value.clone() for name, value in one.items()}
    whole = aug(one)
    for number in range(3):
        alone = aug({name: value[number : number + 1] for name, value in one.items()})
        assert torch.equal(whole["image"][number], alone["image"][0])
        assert torch.equal(whole["label"][number], alone["label"][0])
    for name, value in kept.items():
        assert torch.equal(one[name], value)
    assert whole["image"].min() >= -2 - 1e-5
    assert whole["image"].max() <= 2 + 1e-5
    assert set(whole["label"].unique().tolist()) <= {0, 1, 2}


def test_every_transform_happens_half_the_time():
    draws = [BigAug(BigAugConfig(), 0, 1).draw(seed, 2) for seed in range(1500)]
    for name in ("sharpen", "blur", "noise", "brightness", "gamma", "perturbation", "deformation"):
        share = np.mean([getattr(draw, name) is not None for draw in draws])
        assert share == pytest.approx(0.5, abs=0.05), name
    strengths = [draw.sharpen[1] for draw in draws if draw.sharpen]
    assert 10 <= min(strengths) < 11
    assert 29 < max(strengths) <= 30


def test_rotation_and_scaling_are_left_to_the_engine():
    own = AugmentationConfig(mirror_axes=(0,), in_plane_only=True)
    found = spatial_augmentation(own, BigAugConfig())
    assert (found.p_rotation, found.rotation_degrees, found.scale) == (0.5, 20.0, (0.4, 1.6))
    assert (found.mirror_axes, found.in_plane_only, found.p_mirror) == ((0,), True, 0.5)
    assert found.p_gamma == found.p_noise == found.p_blur == found.p_contrast == 0
