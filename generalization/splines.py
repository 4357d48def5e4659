"""Smooth fields: uniform quadratic B-splines over few control points, in any dimension."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def basis_matrix(points: int, size: int) -> np.ndarray:
    """Weights of ``points`` control points at ``size`` places along an axis, (size, points).

    The uniform quadratic B-spline, centred on the control points, which are one apart. The first
    place is at the second control point and the last at the last but one, so that every place has
    all its three neighbours: rows sum to 1. A single place is at the middle.

    Source: Unser, Splines: a perfect fit for signal and image processing, 1999, eq. 3.
    """
    if points < 3:
        raise ValueError(f"{points} control points, at least 3 are needed")
    places = np.linspace(1, points - 2, size) if size > 1 else np.array([(points - 1) / 2])
    distance = np.abs(places[:, None] - np.arange(points)[None])
    near = 0.75 - distance**2
    far = 0.5 * np.clip(1.5 - distance, 0, None) ** 2
    return np.where(distance <= 0.5, near, far)


@functools.lru_cache(64)
def _basis(points: int, size: int, device: torch.device) -> Tensor:
    return torch.from_numpy(basis_matrix(points, size)).float().to(device)


def spline_field(control: Tensor, size: Sequence[int]) -> Tensor:
    """A field of ``size`` voxels from ``control``, whose outermost points lie beyond the field.

    ``control`` is float (..., *points) with at least 3 points an axis; the result is (..., *size)
    on its device.
    """
    axes = len(size)
    if control.ndim == axes:
        return spline_field(control[None], size)[0]
    for axis, voxels in enumerate(size):
        moved = control.movedim(control.ndim - axes + axis, -1)
        weights = _basis(moved.shape[-1], voxels, control.device).to(control.dtype)
        # A product for each along the first axis: how one is rounded depends on how much is taken
        # together, and a sample's field must not depend on its batch.
        made = torch.stack([one @ weights.T for one in moved])
        control = made.movedim(-1, control.ndim - axes + axis)
    return control


def to_unit_range(field: Tensor, dimensions: int) -> Tensor:
    """Each sample's field, (..., *spatial) with ``dimensions`` axes, stretched onto [0, 1].

    A constant field becomes 0.
    """
    axes = tuple(range(-dimensions, 0))
    low, high = field.amin(axes, keepdim=True), field.amax(axes, keepdim=True)
    return (field - low) / (high - low).clamp_min(1e-20)
