"""IPA's blending and the consistency of versions: by hand, and against torch's divergence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st

from covidseg.engine.losses import LossConfig, build_loss
from covidseg.generalization.consistency import (
    Consistent,
    GinIpa,
    ThreeVersions,
    divergence_from_mean,
    divergence_to_mean,
)
from covidseg.generalization.draws import IPA, generator
from covidseg.generalization.random_convolutions import Gin
from covidseg.generalization.splines import basis_matrix

SIZES = {2: (20, 24), 3: (6, 9, 8)}


def batch(dimensions=2, seeds=(5, 6)):
    size = SIZES[dimensions]
    image = torch.randn(len(seeds), 1, *size, generator=torch.Generator().manual_seed(3))
    label = (image[:, 0] > 0).long()
    return {"image": image, "label": label, "seed": torch.tensor(seeds)}


def test_divergence_by_hand():
    # Two versions of one voxel: p = (½, ½) and (¾, ¼); the mean is (⅝, ⅜).
    logits = torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log()[..., None]
    total = sum(
        m * (math.log(m) - math.log(p))
        for p, m in ((0.5, 0.625), (0.5, 0.375), (0.75, 0.625), (0.25, 0.375))
    )
    assert divergence_from_mean(logits, 2).item() == pytest.approx(total / 4, rel=1e-6)


def test_divergence_is_torchs():
    logits = torch.randn(6, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    mean = logits.softmax(1).unflatten(0, (3, 2)).mean(0)
    expected = functional.kl_div(
        logits.log_softmax(1), torch.cat([mean] * 3), reduction="none"
    ).mean()
    torch.testing.assert_close(divergence_from_mean(logits, 3), expected)


def test_randconvs_divergence_by_hand_and_its_bound():
    logits = torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log()[..., None]
    total = sum(
        p * (math.log(p) - math.log(m))
        for p, m in ((0.5, 0.625), (0.5, 0.375), (0.75, 0.625), (0.25, 0.375))
    )
    assert divergence_to_mean(logits, 2).item() == pytest.approx(total, rel=1e-6)
    # Three versions, of which one is sure of another class, however sure they are.
    for size in (20.0, 300.0):
        sure = torch.tensor([[size, -size], [size, -size], [-size, size]])[..., None]
        expected = 2 * math.log(3 / 2) + math.log(3)
        assert divergence_to_mean(sure, 3).item() == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 1000), st.floats(0.1, 300))
@settings(max_examples=25)
def test_divergence_is_not_negative_and_has_a_gradient(seed, size):
    generator = torch.Generator().manual_seed(seed)
    logits = (size * torch.randn(6, 2, 4, generator=generator)).requires_grad_()
    found = divergence_from_mean(logits, 3)
    found.backward()
    assert found.item() >= -1e-6
    assert torch.isfinite(logits.grad).all()
    same = divergence_from_mean(logits[:2].repeat(3, 1, 1), 3)
    assert same.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_ipa_blends_two_versions_by_a_mask(dimensions):
    made = GinIpa(Gin())(one := batch(dimensions))
    a, b, c = (Gin().versions(one["image"], [5, 6], place) for place in range(3))
    torch.testing.assert_close(made["versions"][0] + made["versions"][1], a + b)
    assert torch.equal(made["versions"][2], c)
    assert torch.equal(made["image"], made["versions"][0])
    # The mask, worked out once more from its control points.
    control = generator(5, IPA).standard_normal([7] * dimensions)
    field = control / np.linalg.norm(control)
    for axis, size in enumerate(SIZES[dimensions]):
        field = np.moveaxis(np.tensordot(basis_matrix(7, size), field, (1, axis)), 0, axis)
    field = np.exp(field)
    mask = torch.from_numpy((field - field.min()) / (field.max() - field.min())).float()
    torch.testing.assert_close(
        made["image"][0], mask * a[0] + (1 - mask) * b[0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("make", [GinIpa(Gin()), ThreeVersions(Gin())])
def test_versions_do_not_depend_on_the_batch(dimensions, make):
    whole = make(batch(dimensions, (5, 6, 7)))
    for number, seed in enumerate((5, 6, 7)):
        image = batch(dimensions, (5, 6, 7))["image"][number : number + 1]
        alone = make({"image": image, "seed": torch.tensor([seed])})
        for version in range(3):
            assert torch.equal(whole["versions"][version][number], alone["versions"][version][0])
    assert len({v[0].sum().item() for v in whole["versions"]}) == 3


def test_the_step_is_the_first_versions_loss_plus_the_weighted_divergence():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    loss = build_loss(LossConfig())
    made = ThreeVersions(Gin())(batch())
    found = Consistent(network, loss, 10.0).step(made)
    first = loss(network(made["versions"][0]), made["label"])
    divergence = divergence_from_mean(torch.cat([network(v) for v in made["versions"]]), 3)
    torch.testing.assert_close(found["loss"], first["loss"] + 10 * divergence)
    torch.testing.assert_close(found["consistency"], divergence)
    found["loss"].backward()
    assert network.weight.grad.abs().sum() > 0


def test_deep_supervision_is_of_the_first_version_too():
    class Two(torch.nn.Module):
        def forward(self, image):
            logits = torch.cat([image, -image], 1)
            return [logits, logits[..., ::2, ::2]]

    made = ThreeVersions(Gin())(batch())
    loss = build_loss(LossConfig())
    found = Consistent(Two(), loss, 0.0).step(made)
    torch.testing.assert_close(found["loss"], loss(Two()(made["image"]), made["label"])["loss"])
