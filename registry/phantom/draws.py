"""Random numbers and noise that depend on names and millimetres, never on workers or voxels."""

from __future__ import annotations

import hashlib

import numpy as np

from covidseg.registry.phantom.grid import Grid

# Lattice points along an axis, after which noise repeats: not to be seen in a patient.
_PERIOD = 36


def generator(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for whatever ``names`` name: dataset, patient, organ, ...

    Two calls with equal arguments give equal draws in any process and in any order.
    """
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


class Noise:
    """Smooth Gaussian noise that is fixed in a patient: the same place has the same value.

    Drawn on lattices by name and interpolated by cubic B-splines, so every sampling, and every
    part of a grid, sees the same noise.
    """

    def __init__(self, seed: int, *names: str) -> None:
        self._seed, self._names = seed, names
        self._lattices: dict[str, np.ndarray] = {}

    def __call__(self, grid: Grid, name: str, scale_mm: float) -> np.ndarray:
        """Noise of about unit variance, smooth over ``scale_mm``, as float32 on ``grid``."""
        if name not in self._lattices:
            rng = generator(self._seed, *self._names, "noise", name)
            self._lattices[name] = rng.standard_normal((_PERIOD,) * 3, dtype=np.float32)
        wx, wy, wz = (_spline_weights(grid.axis(axis), scale_mm) for axis in range(3))
        field = np.matmul(wy, self._lattices[name] @ wz.T)
        field = (wx @ field.reshape(_PERIOD, -1)).reshape(grid.shape)
        # The variance of cubic B-splines over unit noise is 151/315 an axis, on average.
        field *= np.float32((315 / 151) ** 1.5)
        return field


def _spline_weights(points: np.ndarray, step: float) -> np.ndarray:
    """Weights of cubic B-splines on a periodic lattice, (points, lattice), float32."""
    place = points / step
    below = np.floor(place).astype(int)
    part = place - below
    weights = np.zeros((len(points), _PERIOD), np.float32)
    rows = np.arange(len(points))
    for offset, weight in (
        (-1, (1 - part) ** 3 / 6),
        (0, 2 / 3 - part**2 + part**3 / 2),
        (1, 2 / 3 - (1 - part) ** 2 + (1 - part) ** 3 / 2),
        (2, part**3 / 6),
    ):
        weights[rows, (below + offset) % _PERIOD] = weight
    return weights
