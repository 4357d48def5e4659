"""Pasting patches into each other: boxes drawn from seeds, then applied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from covidseg.core.errors import ConfigError
from covidseg.engine.cache import IGNORE_LABEL


def draw_box(seed: int, patch: Sequence[int], share: float) -> tuple[slice, ...]:
    """A box of ``share`` of the patch's edge along each axis, rounded down, anywhere in the patch.

    ``patch`` is (Z, Y, X) or (Y, X). BCP's box, with a share of 2/3.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    box = []
    for size in patch:
        # A product that is whole on paper may be just below it.
        edge = int(size * share + 1e-9)
        start = int(rng.integers(size - edge + 1))
        box.append(slice(start, start + edge))
    return tuple(box)


def inside_boxes(
    seeds: Sequence[int], patch: Sequence[int], share: float, device: torch.device
) -> Tensor:
    """``(B, *patch)`` bool, true within each sample's box."""
    inside = torch.zeros(len(seeds), *patch, dtype=torch.bool)
    for sample, seed in zip(inside, seeds, strict=True):
        sample[draw_box(seed, patch, share)] = True
    return inside.to(device, non_blocking=True)


def paste(inner: Tensor, outer: Tensor, inside: Tensor) -> Tensor:
    """``inner`` where ``inside``, else ``outer``: both ``(B, C, *spatial)``."""
    return torch.where(inside.unsqueeze(1), inner, outer)


def only(labels: Tensor, where: Tensor) -> Tensor:
    """Labels ``(B, *spatial)`` where ``where`` is true, ``IGNORE_LABEL`` elsewhere."""
    return torch.where(where, labels, IGNORE_LABEL)


def neighbours(batch: Tensor) -> Tensor:
    """The batch with the samples of each pair 2k, 2k + 1 in the other's place.

    Raises
    ------
    ConfigError
        The number of samples is odd.
    """
    require_pairs(len(batch))
    return batch.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def require_pairs(count: int) -> None:
    """Raise ConfigError where so many patches on one process are no pairs of neighbours in the
    stream.

    Processes share out a batch in order, so that pairs are the same whatever their number is.
    """
    if count % 2:
        raise ConfigError(
            f"patches are mixed in pairs, and a process has {count} at once",
            expected="an even number",
            remedy="change the batch size, train.accumulate or the number of processes, or set "
            "method.bcp.pretraining or method.unimatch.p_cutmix to 0",
        )
