"""Partly labelled datasets: by hand, against sums of probabilities, and where gradients go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covidseg.engine.cache import TrainingCase
from covidseg.engine.losses import LossConfig, build_loss
from covidseg.engine.task_data import Row
from covidseg.generalization.heterogeneous import (
    Channels,
    OfDataset,
    PartlyLabelled,
    as_annotated,
)
from covidseg.registry.cases import HU
from covidseg.splits.records import CaseRecord

LESION = Channels.plan(["msd", "covid-ct-seg", "msd"], {1: "lesion"})
LUNGS = Channels.plan(["nsclc", "covid-ct-seg"], {1: "left_lung", 2: "right_lung"})


def test_every_dataset_has_channels_of_its_own():
    assert LESION.of == {"msd": {1: 1}, "covid-ct-seg": {1: 2}}
    assert LUNGS.targets == {
        1: "nsclc_left_lung", 2: "nsclc_right_lung",
        3: "covid-ct-seg_left_lung", 4: "covid-ct-seg_right_lung",
    }  # fmt: skip
    assert LUNGS.annotated("covid-ct-seg").tolist() == [True, False, False, True, True]
    case = TrainingCase("a", Path("a"), Path("a"), HU, {1: 1, 5: 2, 3: 0}, "covid-ct-seg")
    row = Row(case, "covid-ct-seg", "a", "", CaseRecord("covid-ct-seg", "a"))
    assert LUNGS.relabelled([row])[0].values == {1: 3, 5: 4, 3: 0}


def test_by_hand():
    # p = (½, ⅓, ⅙); the dataset annotates channel 2 alone.
    logits = torch.tensor([[1 / 2, 1 / 3, 1 / 6]]).log()[..., None]
    annotated = torch.tensor([[True, False, True]])
    heads = as_annotated(logits, annotated, "heads").softmax(1)[0, :, 0]
    torch.testing.assert_close(heads, torch.tensor([3 / 4, 0, 1 / 4]))
    marginal = as_annotated(logits, annotated, "marginal").softmax(1)[0, :, 0]
    torch.testing.assert_close(marginal, torch.tensor([5 / 6, 0, 1 / 6]))


@given(st.integers(0, 999), st.floats(0.1, 30))
@settings(max_examples=25)
def test_marginal_is_the_sum_of_probabilities(seed, size):
    generator = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(3, 5, 4, 3, generator=generator)
    annotated = torch.rand(3, 5, generator=generator) > 0.5
    annotated[:, 0] = True
    p = logits.double().softmax(1)
    shown = annotated[:, :, None, None]
    expected = torch.where(shown, p, 0.0)
    expected[:, 0] = p[:, 0] + torch.where(shown, 0.0, p).sum(1)
    found = as_annotated(logits, annotated, "marginal").softmax(1)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-6)
    heads = as_annotated(logits, annotated, "heads").softmax(1)
    own = torch.where(shown, p, 0.0)
    expected = (own / own.sum(1, keepdim=True)).float()
    torch.testing.assert_close(heads, expected, rtol=1e-4, atol=1e-6)


def batch():
    image = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    label = torch.stack([(image[0, 0] > 0) * 1, (image[1, 0] > 0) * 2])
    return {"image": image, "label": label, "case_id": ["lung_001", "coronacases_001"]}


@pytest.mark.parametrize("mode", ["heads", "marginal"])
def test_a_sample_moves_its_own_channels(mode):
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 3, 3, padding=1)
    datasets = {"lung_001": "msd", "coronacases_001": "covid-ct-seg"}
    method = PartlyLabelled(network, build_loss(LossConfig()), LESION, datasets, mode)
    one = {name: value[:1] for name, value in batch().items()}
    found = method.step(one)
    assert torch.isfinite(found["loss"])
    found["loss"].backward()
    untouched = network.weight.grad[2].abs().sum() == 0
    assert untouched == (mode == "heads")
    if mode == "heads":
        # What is annotated is learnt as a network of background and tumour alone would.
        alone = torch.nn.Conv2d(1, 2, 3, padding=1)
        alone.weight.data[:], alone.bias.data[:] = network.weight[:2].data, network.bias[:2].data
        expected = build_loss(LossConfig())(alone(one["image"]), one["label"])
        torch.testing.assert_close(found["cross_entropy"], expected["cross_entropy"])
        # Of the two channels' Dice, the absent one's is no loss.
        torch.testing.assert_close(found["dice_loss"] * 2, expected["dice_loss"])


@pytest.mark.parametrize("mode", ["heads", "marginal"])
def test_a_network_as_one_dataset_sees_it(mode):
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 5, 1)
    image = batch()["image"]
    seen = OfDataset(network, LUNGS, "covid-ct-seg", mode)(image).softmax(1)
    p = network(image).softmax(1)
    own = p[:, [0, 3, 4]]
    if mode == "marginal":
        expected = torch.cat([1 - own[:, 1:].sum(1, keepdim=True), own[:, 1:]], 1)
    else:
        expected = own / own.sum(1, keepdim=True)
    torch.testing.assert_close(seen, expected)
    assert not OfDataset(network, LUNGS, "nsclc", mode).state_dict().keys() - {
        "network.weight", "network.bias",
    }  # fmt: skip
