"""Instance normalisation that is no slower on processors than it must be."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


def _normalised(x: Tensor, module: nn.InstanceNorm2d | nn.InstanceNorm3d) -> Tensor:
    # A group of one channel is an instance. torch has a kernel of its own for groups, while it
    # sends instances through batch normalisation with copies around it. Not on channels_last: its
    # kernel for that takes the difference of the mean square and the squared mean, and a mean of
    # ten deviations already costs three digits.
    return functional.group_norm(x.contiguous(), x.shape[1], module.weight, module.bias, module.eps)


class InstanceNorm2d(nn.InstanceNorm2d):
    """`torch.nn.InstanceNorm2d`, by another kernel on processors."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, Y, X), of which each channel of each sample is normalised."""
        return super().forward(x) if x.device.type != "cpu" else _normalised(x, self)


class InstanceNorm3d(nn.InstanceNorm3d):
    """`torch.nn.InstanceNorm3d`, by another kernel on processors."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, Z, Y, X), of which each channel of each sample is normalised."""
        return super().forward(x) if x.device.type != "cpu" else _normalised(x, self)


def preferred_layout(network: nn.Module) -> torch.memory_format:
    """The memory layout that suits a 2D network.

    Convolutions of processors prefer channels_last, two to three times, as long as nothing between
    them turns it back, as instance normalisation does.
    """
    turns = any(isinstance(m, nn.InstanceNorm2d) for m in network.modules())
    return torch.contiguous_format if turns else torch.channels_last
