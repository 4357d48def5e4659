"""One forward pass over patches of several kinds, and noise that belongs to a sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# What a network returns: logits, or with deep supervision a list of them, full resolution first.
Outputs = Tensor | list[Tensor]


def forward_together(network: nn.Module, *images: Tensor) -> list[Outputs]:
    """The network's outputs for each of several batches, from one pass over all of them.

    Batch normalisation sees them as one batch, and the pass costs no more than that many patches.
    """
    return apart(network(torch.cat(images)), [len(image) for image in images])


def apart(outputs: Outputs, sizes: Sequence[int]) -> list[Outputs]:
    """Outputs of a batch as those of its consecutive parts."""
    if isinstance(outputs, Tensor):
        return list(outputs.split(list(sizes)))
    levels = [level.split(list(sizes)) for level in outputs]
    return [[level[number] for level in levels] for number in range(len(sizes))]


def finest(outputs: Outputs) -> Tensor:
    """The logits at full resolution."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def with_noise(image: Tensor, seeds: Tensor, *, std: float, limit: float) -> Tensor:
    """``image`` plus clipped Gaussian noise, each sample's a function of its own seed.

    ``image`` ``(B, C, *spatial)``, ``seeds`` ``(B,)`` int64; the device's own generator is used, so
    that a GPU does not wait for the processor. Neither the number of processes nor a sample's place
    in the batch changes what it gets.
    """
    noise = torch.empty_like(image)
    for sample, seed in zip(noise, seeds.tolist(), strict=True):
        sample.normal_(generator=torch.Generator(image.device).manual_seed(seed))
    return image + (noise * std).clamp_(-limit, limit)
