"""MixStyle by hand, as a property, within a network, and over two processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.engine.losses import LossConfig, build_loss
from covidseg.generalization.mixstyle import (
    MixStyle,
    MixStyleConfig,
    draw_mixing,
    mix_statistics,
    statistics,
)
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig

ALWAYS = MixStyleConfig(p=1.0, alpha=0.5)


def network(norm="batch"):
    torch.manual_seed(0)
    sizes = ((1, 1), (2, 2), (2, 2))
    return build_network(NetworkConfig(dimensions=2, norm=norm, strides=sizes, features=(4, 6, 8),
                                       kernel_sizes=((3, 3),) * 3))  # fmt: skip


def batch(count=4):
    image = torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    seeds = torch.tensor([11, 12, 13, 14][:count])
    return {"image": image, "label": (image[:, 0] > 0).long(), "seed": seeds}


def test_mixing_by_hand():
    # (0, 2) has mean 1 and deviation 1; mixed half and half with mean 5 and deviation 3.
    features = torch.tensor([[[0.0, 2.0]]])
    found = mix_statistics(
        features, torch.tensor([[5.0]]), torch.tensor([[3.0]]), torch.tensor([0.5])
    )
    torch.testing.assert_close(found, torch.tensor([[[1.0, 5.0]]]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 3, 4, 6, 5)])
def test_the_statistics_are_those_wanted(shape):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 3 + 1
    mean, std = statistics(features)
    axes = tuple(range(2, len(shape)))
    np.testing.assert_allclose(mean, features.numpy().mean(axes), atol=1e-5)
    np.testing.assert_allclose(std, features.numpy().std(axes), atol=1e-5)
    weights, order = torch.tensor([0.0, 1.0, 0.3, 0.9]), torch.tensor([2, 3, 0, 1])
    mixed = mix_statistics(features, mean[order], std[order], weights)
    found_mean, found_std = statistics(mixed)
    w = weights[:, None]
    torch.testing.assert_close(found_mean, w * mean + (1 - w) * mean[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_std, w * std + (1 - w) * std[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed[1], features[1], rtol=1e-5, atol=1e-5)


def test_the_published_numbers_are_the_defaults():
    config = MixStyleConfig()
    drawn = [draw_mixing(range(8 * k, 8 * k + 8), config, 0) for k in range(600)]
    assert np.mean([d is not None for d in drawn]) == pytest.approx(0.5, abs=0.07)
    weights = np.concatenate([d.weights for d in drawn if d])
    # Beta(0.1, 0.1) has mean ½ and variance ¼ / 1.2, and lies at its ends.
    assert weights.mean() == pytest.approx(0.5, abs=0.03)
    assert weights.var() == pytest.approx(0.25 / 1.2, abs=0.02)
    assert all(sorted(d.partners) == list(range(8)) for d in drawn if d)


def test_the_network_is_mixed_in_the_step_alone():
    net = network()
    loss = build_loss(LossConfig())
    method = MixStyle(net, loss, ALWAYS)
    keys = list(net.state_dict())
    net.train()
    plain = loss(net(batch()["image"]), batch()["label"])["loss"]
    first = method.step(batch())["loss"]
    assert not torch.isclose(first, plain)
    assert torch.equal(method.step(batch())["loss"], first)
    assert torch.equal(loss(net(batch()["image"]), batch()["label"])["loss"], plain)
    assert list(net.state_dict()) == keys
    never = MixStyle(net, loss, MixStyleConfig(p=0.0))
    assert torch.equal(never.step(batch())["loss"], plain)


def test_no_such_stages():
    loss = build_loss(LossConfig())
    with pytest.raises(ConfigError, match=r"network\.family to plain or residual"):
        MixStyle(nn.Conv2d(1, 2, 3), loss, ALWAYS)
    with pytest.raises(ConfigError, match="3 stages"):
        MixStyle(network(), loss, MixStyleConfig(stages=(0, 3)))


def test_two_processes_mix_what_one_does(monkeypatch):
    """Both halves on their own, with what the other process would have sent them."""
    from covidseg.generalization import mixstyle

    features = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(4))
    mixing = draw_mixing([11, 12, 13, 14], ALWAYS, 0)
    whole = mixstyle._mixed(features, mixing)
    for rank in range(2):
        everyone = statistics(features)
        sent = iter(everyone)
        monkeypatch.setattr(mixstyle, "_everyones", lambda _t, sent=sent: next(sent))
        monkeypatch.setattr(mixstyle, "process_count", lambda: 2)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        half = mixstyle._mixed(features[2 * rank : 2 * rank + 2], mixing)
        torch.testing.assert_close(half, whole[2 * rank : 2 * rank + 2], rtol=0, atol=1e-6)
