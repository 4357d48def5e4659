"""Exponential moving average of a network: a steadier last network, or Mean Teacher's teacher."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """A copy of a network whose state follows that of the original.

    Parameters and floating-point buffers (batch normalisation's running statistics) move by
    ``1 - decay`` towards the original's at each update; integer and boolean buffers (its count of
    batches) are copied, since their average means nothing.

    Parameters
    ----------
    network
        The network to follow. The copy, ``self.network``, has no gradients and is in evaluation
        mode.
    decay
        The most of the past that is kept.
    warm_up
        Keep ``min(1 - 1 / (t + 1), decay)`` at update t = 0, 1, ..., as Mean Teacher does: the
        first update copies the original, and early random weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float, *, warm_up: bool = True) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay, self.warm_up, self.updates = decay, warm_up, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards ``network`` by one step."""
        decay = min(1 - 1 / (self.updates + 1), self.decay) if self.warm_up else self.decay
        own, other, exact = [], [], []
        for mine, theirs in zip(_tensors(self.network), _tensors(network), strict=True):
            if mine.is_floating_point():
                own.append(mine)
                other.append(theirs)
            else:
                exact.append((mine, theirs))
        torch._foreach_lerp_(own, other, 1 - decay)
        for mine, theirs in exact:
            mine.copy_(theirs)
        self.updates += 1


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*(p.detach() for p in network.parameters()), *network.buffers()]
