"""Losses against numbers worked by hand, an independent implementation, and properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from covidseg.core.errors import ConfigError
from covidseg.engine.loss_functions import (
    class_map,
    cross_entropy,
    deep_supervision_weights,
    shrink_labels,
    soft_dice_loss,
)
from covidseg.engine.losses import DiceCrossEntropy, LossConfig


def logits_of(foreground):
    """Two-class logits whose softmax gives these foreground probabilities, (B, 2, *spatial)."""
    p = torch.tensor(foreground, dtype=torch.float64)
    return torch.stack([torch.log(1 - p), torch.log(p)], 1).float()


def test_soft_dice_by_hand():
    # Two voxels, p = 0.8 and 0.4, the first true: 2·0.8 / (1.2 + 1) = 8/11.
    loss = soft_dice_loss(logits_of([[0.8, 0.4]]), torch.tensor([[1, 0]]), smooth=0)
    assert loss.item() == pytest.approx(1 - 8 / 11)


def test_batch_dice_sums_before_the_ratio():
    logits = logits_of([[0.5, 0.5], [0.9, 0.1]])
    target = torch.tensor([[1, 1], [0, 0]])
    # Samples: 2·1/(1+2) = 2/3 and 0/(1+0) = 0; whole batch: 2·1/(2+2) = 1/2.
    per_sample = soft_dice_loss(logits, target, batch_dice=False, smooth=0)
    batch = soft_dice_loss(logits, target, batch_dice=True, smooth=0)
    assert per_sample.item() == pytest.approx(1 - 1 / 3)
    assert batch.item() == pytest.approx(1 / 2)


def test_a_class_that_is_absent_and_not_predicted_is_no_loss():
    confident = torch.tensor([[[50.0, 50.0], [-50.0, -50.0]]])
    assert soft_dice_loss(confident, torch.zeros(1, 2, dtype=torch.int64)).item() == 0
    # ... and predicting what is not there costs all of it.
    assert soft_dice_loss(-confident, torch.zeros(1, 2, dtype=torch.int64)).item() > 0.9999


def test_background_does_not_count_in_dice():
    logits = torch.randn(2, 3, 4, 5)
    target = torch.randint(0, 3, (2, 4, 5))
    p = logits.softmax(1)
    expected = [
        2 * p[:, c][target == c].sum() / (p[:, c].sum() + (target == c).sum()) for c in (1, 2)
    ]
    loss = soft_dice_loss(logits, target, smooth=0)
    assert loss.item() == pytest.approx(1 - sum(expected).item() / 2, rel=1e-5)


def reference_dice(p, target, *, batch, smooth, ignore):
    """tp/fp/fn as nnU-Net's first implementation counts them, in numpy."""
    classes = p.shape[1]
    known = np.ones(target.shape) if ignore is None else (target != ignore).astype(float)
    scores = []
    groups = [slice(None)] if batch else [slice(b, b + 1) for b in range(len(p))]
    for group in groups:
        for c in range(1, classes):
            g = (target[group] == c) * known[group]
            q = p[group, c]
            tp = (q * g).sum()
            fp = (q * (1 - g) * known[group]).sum()
            fn = ((1 - q) * g).sum()
            scores.append((2 * tp + smooth) / max(2 * tp + fp + fn + smooth, 1e-8))
    return 1 - np.mean(scores)


@settings(max_examples=60)
@given(
    logits=hnp.arrays(np.float32, (2, 3, 2, 3, 4), elements=st.floats(-5, 5, width=32)),
    target=hnp.arrays(np.int64, (2, 2, 3, 4), elements=st.sampled_from([0, 1, 2, 255])),
    batch=st.booleans(),
    smooth=st.sampled_from([1e-5, 1.0]),
)
def test_soft_dice_is_nnunets(logits, target, batch, smooth):
    tensor = torch.from_numpy(logits)
    loss = soft_dice_loss(
        tensor, torch.from_numpy(target), batch_dice=batch, smooth=smooth, ignore_label=255
    )
    p = tensor.double().softmax(1).numpy()
    expected = reference_dice(p, target, batch=batch, smooth=smooth, ignore=255)
    assert loss.item() == pytest.approx(expected, abs=2e-6)
    assert 0 <= loss.item() <= 1


def test_cross_entropy_by_hand_with_ignored_voxels():
    logits = logits_of([[0.8, 0.4, 0.1]])
    target = torch.tensor([[1, 0, 255]])
    expected = -(math.log(0.8) + math.log(0.6)) / 2
    assert cross_entropy(logits, target, ignore_label=255).item() == pytest.approx(expected)
    everything = torch.full((1, 3), 255)
    assert cross_entropy(logits, everything, ignore_label=255).item() == 0


@settings(max_examples=40)
@given(
    logits=hnp.arrays(np.float32, (2, 3, 3, 4), elements=st.floats(-5, 5, width=32)),
    target=hnp.arrays(np.int64, (2, 3, 4), elements=st.sampled_from([0, 1, 2, 255])),
)
def test_ignored_voxels_are_as_if_they_were_not_there(logits, target):
    """Torch's own mean over the others; and both terms are those of the voxels that are left."""
    tensor, labels = torch.from_numpy(logits), torch.from_numpy(target)
    found = DiceCrossEntropy(LossConfig(ignore_label=255))(tensor, labels)
    known = labels != 255
    if not known.any():
        assert found["loss"].item() == 0
        return
    torchs = torch.nn.functional.cross_entropy(tensor, labels, ignore_index=255)
    assert found["cross_entropy"].item() == pytest.approx(torchs.item(), rel=1e-5, abs=1e-7)
    left = tensor.movedim(1, -1)[known].T[None], labels[known][None]
    without = DiceCrossEntropy(LossConfig())(*left)
    for name, value in without.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6)


def test_ignored_voxels_have_no_gradient():
    logits = torch.randn(1, 2, 4, requires_grad=True)
    target = torch.tensor([[1, 0, 255, 255]])
    DiceCrossEntropy(LossConfig(ignore_label=255))(logits, target)["loss"].backward()
    assert (logits.grad[..., 2:] == 0).all()
    assert (logits.grad[..., :2] != 0).all()


def test_deep_supervision_weights_are_nnunets():
    # Five outputs: 1, 1/2, 1/4, 1/8, 0 over their sum 15/8.
    assert deep_supervision_weights(5) == pytest.approx((8 / 15, 4 / 15, 2 / 15, 1 / 15, 0))
    assert deep_supervision_weights(2) == (1, 0)
    assert deep_supervision_weights(1) == (1,)


def test_deep_supervision_is_the_weighted_sum_of_the_levels():
    loss = DiceCrossEntropy(LossConfig())
    target = torch.randint(0, 2, (2, 1, 8, 8), dtype=torch.uint8)
    levels = [torch.randn(2, 2, size, size) for size in (8, 4, 2)]
    half = shrink_labels(target[:, 0].long(), (4, 4))
    found = loss(levels, target)
    expected = 2 / 3 * loss(levels[0], target)["loss"] + 1 / 3 * loss(levels[1], half)["loss"]
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert found["loss"].item() == pytest.approx(
        (found["dice_loss"] + found["cross_entropy"]).item(), rel=1e-6
    )


def test_labels_shrink_by_nearest_neighbour():
    labels = torch.arange(16).reshape(1, 4, 4)
    assert shrink_labels(labels, (2, 2)).tolist() == [[[5, 7], [13, 15]]]
    assert shrink_labels(labels, (4, 4)) is labels


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="do not fit logits"):
        class_map(torch.zeros(1, 4, 4), torch.zeros(1, 2, 4, 5))


@pytest.mark.parametrize(
    "config",
    [
        LossConfig(dice_weight=0, cross_entropy_weight=0),
        LossConfig(dice_weight=-1),
    ],
)
def test_impossible_weights_are_refused(config):
    with pytest.raises(ConfigError, match="weight"):
        DiceCrossEntropy(config)
