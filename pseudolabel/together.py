"""One forward pass over patches of several kinds, and noise that belongs to a sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from covidseg.engine.seeds import derived_seed
from covidseg.engine.stream import Batch

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


def with_noise(image: Tensor, seeds: Sequence[int], *, std: float, limit: float) -> Tensor:
    """``image`` plus clipped Gaussian noise, each sample's a function of its own seed.

    ``image`` ``(B, C, *spatial)``, one of ``seeds`` a sample. The noise is drawn on the device.
    Neither the number of processes nor a sample's place in the batch changes what it gets.
    """
    noise = torch.empty_like(image)
    for sample, seed in zip(noise, seeds, strict=True):
        sample.normal_(generator=torch.Generator(image.device).manual_seed(seed))
    return image + (noise * std).clamp_(-limit, limit)


def seeds_of(batch: Batch, *purpose: int) -> list[int]:
    """One number for each sample of a batch, a function of its seed and of what it is for."""
    return [derived_seed(seed, *purpose) for seed in batch["seed"].tolist()]
