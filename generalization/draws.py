"""Random numbers of a sample: functions of its seed and of what they are for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from covidseg.engine.seeds import derived_seed

# What a generator is for. Each purpose has its own numbers, none of them nnU-Net's (which are
# drawn from the seed itself), so that one method switched on leaves the draws of the others.
GIN, IPA, SLAUG, RANDCONV, MIXSTYLE, BIGAUG, LESIONS = range(1, 8)


def generator(seed: int, purpose: int, place: int = 0) -> np.random.Generator:
    """Generator of one sample's numbers for one purpose; ``place`` counts its versions."""
    return np.random.Generator(np.random.Philox(key=derived_seed(seed, purpose, place)))


def device_noise(
    shape: Sequence[int], rng: np.random.Generator, like: Tensor
) -> Tensor:  # fmt: skip
    """Standard normal numbers of ``shape`` on the device and of the dtype of ``like``.

    The seed is drawn from ``rng``; the numbers themselves are drawn where they are needed, since
    there is one a voxel. They differ between kinds of device, as every generator's there do.
    """
    source = torch.Generator(like.device).manual_seed(int(rng.integers(2**63)))
    return torch.randn(tuple(shape), generator=source, device=like.device, dtype=like.dtype)


def on_device(numbers: ArrayLike, like: Tensor) -> Tensor:
    """``numbers`` on the device of ``like``, for which the processor does not wait."""
    return torch.from_numpy(np.asarray(numbers)).to(like.device, non_blocking=True)


def each_sample(image: Tensor, function: Callable[[int], Tensor]) -> Tensor:
    """``function(number)`` of every sample, stacked.

    Samples go one by one, although a grouped convolution could take them together: its rounding
    depends on how many there are, and a sample's result must not depend on its batch.
    """
    return torch.stack([function(number) for number in range(len(image))])
