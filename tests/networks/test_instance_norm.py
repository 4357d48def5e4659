"""Instance normalisation by the groups' kernel is torch's own, and layouts suit what a net has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.instance_norm import InstanceNorm2d, InstanceNorm3d, preferred_layout


@settings(max_examples=30)
@example(shape=[6, 6, 9], channels=4, offset=0.0, last=False, seed=85)
@given(
    shape=st.lists(st.integers(2, 9), min_size=2, max_size=3),
    channels=st.integers(1, 5),
    offset=st.sampled_from([0.0, 10.0, 100.0]),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_torch_in_double_precision(
    shape, channels, offset, last, seed
):
    three = len(shape) == 3
    layout = torch.channels_last_3d if three else torch.channels_last
    x = torch.randn(2, channels, *shape, generator=torch.Generator().manual_seed(seed)) + offset
    x = x.contiguous(memory_format=layout) if last else x
    own = (InstanceNorm3d if three else InstanceNorm2d)(channels, affine=True)
    torch.manual_seed(seed)
    nn.init.normal_(own.weight)
    nn.init.normal_(own.bias)
    exact = (nn.InstanceNorm3d if three else nn.InstanceNorm2d)(channels, affine=True).double()
    exact.load_state_dict(own.state_dict())
    a, b = x.clone().requires_grad_(), x.double().requires_grad_()
    found, expected = own(a), exact(b)
    # As exact as the input: its rounding against its deviation, which is about one.
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * (1 + offset))
    # Not their squares: of a sum of these, what the norm passes back cancels to next to nothing.
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1))
    (found * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    scale = float(b.grad.abs().max()) + 1
    torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-5 * (1 + offset) * scale)


def test_a_large_plane_far_from_zero_keeps_its_digits():
    # Where torch's kernel for groups on channels_last loses three digits.
    x = torch.randn(1, 4, 256, 256, generator=torch.Generator().manual_seed(0)) + 10
    x = x.contiguous(memory_format=torch.channels_last)
    exact = nn.functional.instance_norm(x.double())
    assert (InstanceNorm2d(4)(x).double() - exact).abs().max() < 1e-5


PLAIN = NetworkConfig(
    dimensions=2, strides=((1, 1), (2, 2)), kernel_sizes=((3, 3),) * 2, features=(4, 8)
)


@pytest.mark.parametrize(
    ("config", "last"),
    [
        (PLAIN, False),
        (NetworkConfig(**{**PLAIN.__dict__, "norm": "batch"}), True),
        (NetworkConfig(family="smp", dimensions=2, encoder="resnet18"), True),
    ],
)
def test_the_layout_suits_what_is_between_the_convolutions(config, last):
    layout = preferred_layout(build_network(config))
    assert layout == (torch.channels_last if last else torch.contiguous_format)
