"""Losses as recipes name them; each a class over the pure functions of ``loss_functions``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.engine.loss_functions import (
    class_map,
    cross_entropy,
    deep_supervision_weights,
    shrink_labels,
    soft_dice_loss,
)


@dataclass(frozen=True)
class LossConfig:
    """Soft Dice plus cross-entropy, as nnU-Net trains with.

    Parameters
    ----------
    dice_weight
        Weight of one minus soft Dice over the foreground classes.
    cross_entropy_weight
        Weight of the voxels' mean cross-entropy.
    batch_dice
        Take Dice over the whole batch, over all processes, as one volume; otherwise per sample.
    smooth
        Added to Dice's numerator and denominator.
    ignore_label
        Voxels with this label count nowhere; null for none.
    """

    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    batch_dice: bool = True
    smooth: float = 1e-5
    ignore_label: int | None = None

    def check(self) -> None:
        """Raise ConfigError for numbers that cannot be."""
        for name in ("dice_weight", "cross_entropy_weight", "smooth"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"loss.{name} is {value}", expected="a number from zero up")
        if not self.dice_weight and not self.cross_entropy_weight:
            raise ConfigError("both weights in loss are zero", expected="one of them above zero")


class DiceCrossEntropy(nn.Module):
    """Weighted sum of soft Dice loss and cross-entropy, each also on its own for the log.

    ``forward(logits, labels)`` takes logits ``(B, C, *spatial)``, or a list of them from deep
    supervision with the highest resolution first, and labels ``(B, *spatial)`` or
    ``(B, 1, *spatial)``; it returns ``{"loss", "dice_loss", "cross_entropy"}``, scalars. With deep
    supervision the labels are shrunk to each output and the levels weighted 1, 1/2, 1/4, ..., the
    lowest zero.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        config.check()
        self.config = config

    def forward(
        self, logits: torch.Tensor | Sequence[torch.Tensor], labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        levels = [logits] if isinstance(logits, torch.Tensor) else list(logits)
        target = class_map(labels, levels[0])
        dice = torch.zeros((), device=target.device)
        entropy = torch.zeros((), device=target.device)
        for weight, level in zip(deep_supervision_weights(len(levels)), levels, strict=True):
            if not weight:
                continue
            shrunk = shrink_labels(target, level.shape[2:])
            if self.config.dice_weight:
                dice = dice + weight * soft_dice_loss(
                    level,
                    shrunk,
                    batch_dice=self.config.batch_dice,
                    smooth=self.config.smooth,
                    ignore_label=self.config.ignore_label,
                )
            if self.config.cross_entropy_weight:
                entropy = entropy + weight * cross_entropy(
                    level, shrunk, ignore_label=self.config.ignore_label
                )
        total = self.config.dice_weight * dice + self.config.cross_entropy_weight * entropy
        return {"loss": total, "dice_loss": dice, "cross_entropy": entropy}


def build_loss(config: LossConfig) -> DiceCrossEntropy:
    """The loss that a recipe's ``loss`` section names."""
    return DiceCrossEntropy(config)
