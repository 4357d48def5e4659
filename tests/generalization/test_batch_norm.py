"""Adapted batch normalisation: statistics by numpy, and the network as it was afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.generalization.batch_norm import AdaptationConfig, AdaptedPredictor, adapted
from covidseg.imaging.volume import Volume
from covidseg.inference.predictor import Predictor
from covidseg.inference.preprocessing import Preprocessing
from covidseg.inference.sliding import Sliding


def network(dimensions=3):
    torch.manual_seed(1)
    conv, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dimensions]
    layers = [conv(1, 3, 1), norm(3), nn.ReLU(), conv(3, 2, 1), norm(2), nn.Dropout(0.5)]
    return nn.Sequential(*layers).eval()


def states(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize(("prior", "share"), [(0.0, 1.0), (6.0, 0.5), (18.0, 0.25)])
def test_statistics_are_the_windows_own(prior, share):
    net = network()
    windows = [torch.randn(3, 1, 4, 5, 6) * 4 + 2, torch.randn(3, 1, 4, 5, 6)]
    before = states(net)
    with torch.no_grad():
        seen = net[0](torch.cat(windows)).double().numpy()
    with adapted(net, windows, prior):
        mean = share * seen.mean((0, 2, 3, 4)) + (1 - share) * 0
        variance = share * seen.var((0, 2, 3, 4)) + (1 - share) * 1
        np.testing.assert_allclose(net[1].running_mean, mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(net[1].running_var, variance, rtol=1e-4)
        assert not net.training
        assert not any(module.training for module in net.modules())
    for name, value in states(net).items():
        assert torch.equal(value, before[name]), name


def test_an_error_leaves_the_network_as_it_was():
    net = network()
    before = states(net)

    def broken():
        yield torch.randn(2, 1, 4, 4, 4)
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"), adapted(net, broken()):
        pass
    assert all(torch.equal(v, before[k]) for k, v in states(net).items())
    assert not any(module.training or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_scan_on_another_scale_is_predicted_as_on_its_own(dimensions):
    """What adaptation is for: a linear change of intensity is undone."""
    conv, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dimensions]
    net = nn.Sequential(norm(1), conv(1, 2, 1))
    net[1].weight.data[:, 0] = torch.tensor([-1.0, 1.0]).reshape(2, *[1] * dimensions)
    net[1].bias.data[:] = 0
    net[0].running_mean[:], net[0].running_var[:] = -0.5, 0.04
    values = np.random.default_rng(0).normal(-500, 200, (8, 9, 6)).astype(np.float32)
    wide = Preprocessing(-3000, 3000, 0, 1000)
    window = (1, 8, 8) if dimensions == 2 else (4, 8, 8)
    predictor = Predictor([net], wide, Sliding(window, batch_size=100), dimensions)

    def volume(data):
        return Volume(data, np.eye(4))

    follows = AdaptedPredictor(predictor, AdaptationConfig())
    one = follows.predict(volume(values)).data
    other = follows.predict(volume(0.5 * values + 300)).data
    assert (one != other).mean() < 0.02
    plain = [predictor.predict(volume(v)).data for v in (values, 0.5 * values + 300)]
    assert (plain[0] != plain[1]).mean() > 0.1
    assert 0 < one.mean() < 1


def test_a_network_without_batch_normalisation_is_refused():
    net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.InstanceNorm3d(2))
    predictor = Predictor([net], Preprocessing(0, 1, 0, 1), Sliding((4, 4, 4)))
    with pytest.raises(ConfigError, match=r"network\.norm batch"):
        AdaptedPredictor(predictor)


def test_a_scan_of_one_value():
    predictor = Predictor([network()], Preprocessing(0, 1, 0, 1), Sliding((4, 4, 4)))
    found = AdaptedPredictor(predictor).predict(Volume(np.full((5, 5, 5), 0.3), np.eye(4)))
    assert found.shape == (5, 5, 5)
