"""SLAug's maps against numpy, its regions and percentiles, and the saliency's mixture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BPoly

from covidseg.engine.losses import LossConfig, build_loss
from covidseg.generalization.slaug import (
    LocationScale,
    SaliencyBalanced,
    Slaug,
    SlaugConfig,
    bezier_table,
    saliency_map,
)

SIZES = {2: (20, 24), 3: (8, 9, 10)}
SLAUG = Slaug(SlaugConfig(), 0.0, 1.0, 3)
STRAIGHT = np.linspace(0, 1, 512).astype(np.float32)


def batch(dimensions=2, seeds=(5, 6)):
    generator = torch.Generator().manual_seed(9)
    image = torch.rand(len(seeds), 1, *SIZES[dimensions], generator=generator)
    label = (image[:, 0] > 0.4).long() + (image[:, 0] > 0.7)
    return {"image": image, "label": label, "seed": torch.tensor(seeds)}


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.booleans())
@settings(max_examples=25)
def test_bezier_is_scipys(numbers, inverse):
    inner = np.array(numbers).reshape(2, 2)
    points = np.array([[0, 0], *inner, [1, 1]], float)
    x, y = BPoly(points[:, None], [0, 1])(np.linspace(0, 1, 5000)).T
    x, y = np.sort(x), y[::-1] if inverse else np.sort(y)
    table = bezier_table(inner, inverse)
    np.testing.assert_allclose(table, np.interp(np.linspace(0, 1, 512), x, y), atol=0.02)
    assert (table[0], table[-1]) == ((1, 0) if inverse else (0, 1))
    if not inverse:
        assert (np.diff(table) >= 0).all()


def test_a_straight_curve_is_the_identity():
    table = bezier_table(np.array([[1 / 3, 1 / 3], [2 / 3, 2 / 3]]), False)
    np.testing.assert_allclose(table, STRAIGHT, atol=1e-4)


def test_location_and_scale_by_hand():
    image = torch.linspace(0.2, 0.6, 101).reshape(1, 1, 1, 101)
    # Percentiles 20 and 80 are 0.28 and 0.52: a shift of -0.1 is within the limits.
    found = SLAUG._moved(image, None, [LocationScale(STRAIGHT, 0.9, -0.1)])
    torch.testing.assert_close(found, image * 0.9 - 0.1, rtol=0, atol=1e-3)
    # -2 is not: it is held at -0.28, and what falls below the range is clipped.
    found = SLAUG._moved(image, None, [LocationScale(STRAIGHT, 1.0, -2.0)])
    torch.testing.assert_close(found, (image - 0.28).clamp(0), rtol=0, atol=3e-3)
    found = SLAUG._moved(image, None, [LocationScale(STRAIGHT, 1.0, 2.0)])
    torch.testing.assert_close(found, (image + 0.48).clamp(max=1), rtol=0, atol=3e-3)
    inverted = SLAUG._moved(image, None, [LocationScale(STRAIGHT[::-1].copy(), 1.0, 0.0)])
    torch.testing.assert_close(inverted, image.flip(-1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_percentiles_are_numpys_within_a_bin(dimensions):
    one = batch(dimensions)
    value, region = one["image"], one["label"][:, None] == 1
    found = SLAUG._percentiles(value, region)
    expected = [np.percentile(v[r].numpy(), [20, 80]) for v, r in zip(value, region, strict=True)]
    np.testing.assert_allclose(torch.stack(found, 1).reshape(-1, 2), expected, atol=0.02)
    # Many voxels of one value: more than all the others, but spread over a third of the image.
    value = torch.linspace(0, 1, 900).repeat(2, 1).reshape(2, 1, 30, 30)
    value[:, :, ::3] = 0.25
    found = SLAUG._percentiles(value, None)
    expected = np.percentile(value.flatten(1).numpy(), [20, 80], axis=1).T
    np.testing.assert_allclose(torch.stack(found, 1).reshape(-1, 2), expected, atol=0.01)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_region_moves_by_its_own_statistics_and_air_stays(dimensions):
    one = batch(dimensions)
    one["image"][one["image"] < 0.05] = 0.0
    kept = one["image"].clone()
    made = SLAUG(one)
    air = one["image"] <= 0.01
    assert air.any()
    assert torch.equal(made["local_image"][air], one["image"][air])
    assert torch.equal(one["image"], kept)
    _, changes = SLAUG.draw(5)
    image, region = one["image"][:1], one["label"][:1, None] == 2
    alone = SLAUG._moved(image, region, [changes[2]])
    assert torch.equal(made["local_image"][:1][region], alone[region])
    # What lies outside the region plays no part.
    other = torch.where(region, image, 0.5)
    assert torch.equal(SLAUG._moved(other, region, [changes[2]])[region], alone[region])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_sample_does_not_depend_on_its_batch(dimensions):
    whole = SLAUG(batch(dimensions, (5, 6, 7)))
    one = {k: v[1:2] for k, v in batch(dimensions, (5, 6, 7)).items()}
    alone = SLAUG(one)
    for name in ("image", "global_image", "local_image"):
        assert torch.equal(whole[name][1], alone[name][0])
        assert torch.isfinite(whole[name]).all()
        assert whole[name].min() >= 0
        assert whole[name].max() <= 1


def test_the_range_is_given_back():
    shifted = Slaug(SlaugConfig(), -2.0, 3.0, 3)
    one = batch()
    moved = {**one, "image": one["image"] * 5 - 2}
    torch.testing.assert_close(
        shifted(moved)["global_image"], SLAUG(one)["global_image"] * 5 - 2, rtol=0, atol=1e-4
    )


def test_a_class_that_is_absent_is_no_trouble():
    one = {**batch(), "label": torch.zeros(2, 20, 24, dtype=torch.long)}
    assert torch.isfinite(SLAUG(one)["local_image"]).all()


def test_the_published_numbers_are_the_defaults():
    draws = [Slaug(SlaugConfig(), 0, 1, 2).draw(seed) for seed in range(400)]
    scales = np.array([d[0].scale for d in draws])
    assert scales.min() == 0.9
    assert scales.max() == 1.1
    assert np.std([d[0].location for d in draws]) == pytest.approx(0.5, abs=0.06)
    assert all(d[0].table[0] == 0 for d in draws)  # the global map never inverts
    assert all(d[1][0].table[0] == 1 for d in draws)  # the background's always does
    assert np.mean([d[1][1].table[0] for d in draws]) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_saliency_is_where_the_gradient_is(dimensions):
    gradient = torch.zeros(2, 1, *[12] * dimensions)
    gradient[(0, 0, *[slice(0, 4)] * dimensions)] = 1e-6
    gradient[1] = 1.0
    found = saliency_map(gradient, 3)
    corner, opposite = (0, 0, *[0] * dimensions), (0, 0, *[11] * dimensions)
    assert found[corner] == 1
    assert found[opposite] == 0
    assert (found[1] == 0).all()  # even: nothing stands out
    middle = found[(0, 0, *[slice(None)] + [0] * (dimensions - 1))]
    assert (middle.diff() <= 0).all()


def test_the_step_adds_the_loss_of_the_mixture():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 3, 3, padding=1)
    loss = build_loss(LossConfig())
    made = SLAUG(batch())
    found = SaliencyBalanced(network, loss, 3).step(made)
    image = made["global_image"].requires_grad_()
    first = loss(network(image), made["label"])["loss"]
    first.backward()
    share = saliency_map(image.grad, 3)
    mixed = share * image.detach() + (1 - share) * made["local_image"]
    network.zero_grad()
    expected = (
        loss(network(made["global_image"].detach()), made["label"])["loss"]
        + loss(network(mixed), made["label"])["loss"]
    )
    torch.testing.assert_close(found["loss"], expected)
    expected.backward()
    gradient = network.weight.grad.clone()
    network.zero_grad()
    found["loss"].backward()
    torch.testing.assert_close(network.weight.grad, gradient)
