"""Where windows stand and what their voxels weigh."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from covidseg.core.errors import ConfigError


def window_starts(size: int, window: int, overlap: float = 0.5) -> list[int]:
    """First voxels of the windows along one axis, the first at 0 and the last ending at ``size``.

    The windows are spread evenly so that neighbours share at least ``overlap`` of a window, as
    nnU-Net does (``compute_steps_for_sliding_window``).

    Raises
    ------
    ConfigError
        ``window`` is larger than ``size`` (pad first) or ``overlap`` is not in [0, 1).
    """
    if not 0 <= overlap < 1:
        raise ConfigError(f"a window overlap of {overlap}", expected="at least 0 and below 1")
    if not 0 < window <= size:
        raise ConfigError(f"a window of {window} voxels on an axis of {size}")
    last = size - window
    count = math.ceil(last / (window * (1 - overlap))) + 1
    if count == 1:
        return [0]
    # Rounding can put two windows of few voxels on one place; one of them is enough.
    return sorted({round(last / (count - 1) * number) for number in range(count)})


def gaussian_weights(window: int, sigma_share: float = 1 / 8) -> NDArray[np.float32]:
    """(window,) weights of a window's voxels along one axis, 1 at the centre, never 0.

    A Gaussian with a standard deviation of ``sigma_share`` of the window, nnU-Net's 1/8; a voxel
    weighs the product of its axes' weights. Because the weights are such products, and windows
    stand on a lattice, the sum of weights over windows is a product too, and no array of sums is
    needed.
    """
    offsets = np.arange(window) - (window - 1) / 2
    weights = np.exp(-0.5 * (offsets / (window * sigma_share)) ** 2)
    return (weights / weights.max()).astype(np.float32)


def summed_weights(
    size: int, starts: Sequence[int], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(size,) sum over the windows of the weight that each gives a voxel, along one axis."""
    total = np.zeros(size, np.float64)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total.astype(np.float32)
