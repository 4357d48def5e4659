"""A network in two halves is the network."""

import pytest
import torch
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.features import decode, encode

PLAIN = NetworkConfig(strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), features=(4, 6, 8), classes=3)
CONFIGS = {
    "plain 3D": PLAIN,
    "deeply supervised": NetworkConfig(**{**vars(PLAIN), "deep_supervision": True}),
    "residual 2D": NetworkConfig(
        family="residual", dimensions=2, strides=((1, 1), (2, 2)), features=(4, 6), norm="batch"
    ),
    "Unet": NetworkConfig(family="smp", dimensions=2, encoder="resnet18"),
    "narrow Unet": NetworkConfig(
        family="smp", dimensions=2, encoder="resnet18", decoder_channels=(32, 16, 8, 8, 4)
    ),
    "DeepLabV3Plus": NetworkConfig(
        family="smp", dimensions=2, encoder="resnet18", architecture="DeepLabV3Plus"
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("training", [True, False])
def test_decoding_what_was_encoded_is_the_networks_output(name, training):
    network = build_network(CONFIGS[name]).train(training)
    shape = (4, 8, 12) if CONFIGS[name].dimensions == 3 else (32, 64)
    image = torch.randn(2, 1, *shape)
    torch.manual_seed(0)  # some have dropout
    whole = network(image)
    torch.manual_seed(0)
    features = encode(network, image)
    assert len(features) > 1
    halves = decode(network, features)
    if isinstance(whole, list):
        assert training
        assert len(halves) == len(whole)
        assert all(map(torch.equal, halves, whole))
    else:
        assert torch.equal(halves, whole)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Identity()
        self.encoder.forward = lambda image: ([image], [None])


@pytest.mark.parametrize("network", [nn.Conv2d(1, 2, 3), Tokens()])
def test_networks_of_another_kind_are_refused(network):
    with pytest.raises(ConfigError, match="has no encoder"):
        encode(network, torch.zeros(1, 1, 8, 8))
