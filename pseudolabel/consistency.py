"""How far a student is from its teacher: pure functions of their predictions.

Means are over the voxels of all processes, as one process with the whole batch would take them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from covidseg.engine.distributed import mean_over_processes


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over voxels and classes of (p − q)², p and q the softmax of both logits.

    Both ``(B, C, *spatial)``; a scalar. Mean Teacher's consistency loss.
    """
    return (student.float().softmax(1) - teacher.float().softmax(1)).square().mean()


def masked_squared_difference(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The same over the voxels where ``mask`` ``(B, *spatial)`` is true; zero where none is.

    UA-MT's Σ mask·(p − q)² / (C · Σ mask).
    """
    difference = (student.float().softmax(1) - teacher.float().softmax(1)).square().mean(1)
    return mean_over_processes((difference * mask).sum(), mask.sum())


def entropy(probabilities: Tensor) -> Tensor:
    """−Σ p·ln(p + 1e-6) over the classes: ``(B, C, *spatial)`` to ``(B, *spatial)``, in nats.

    The 1e-6 is UA-MT's.
    """
    return -(probabilities * torch.log(probabilities + 1e-6)).sum(1)


def greatest_entropy(classes: int) -> float:
    """ln C, that of an even spread over the classes."""
    return math.log(classes)
