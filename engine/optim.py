"""The optimiser, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from covidseg.core.errors import ConfigError
from covidseg.engine.config import OptimConfig


def build_optimizer(config: OptimConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW over parameter groups (``lr_scale`` in each optional).

    Raises
    ------
    ConfigError
        Nothing is to be trained, or a number is out of range.
    """
    config.check()
    groups = [{**group, "lr_scale": group.get("lr_scale", 1.0)} for group in groups]
    if not any(group["params"] for group in groups):
        raise ConfigError("the method has no parameters to train")
    # One fused kernel over all parameters instead of several a parameter; Apple's GPUs have none.
    devices = {p.device.type for group in groups for p in group["params"]}
    fused = devices <= {"cpu", "cuda"}
    if config.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate of optimiser step ``step`` (from 0) of ``steps``.

    nnU-Net changes it once an epoch by (1 - epoch/epochs)^0.9; here it falls a little each step,
    which is the same at each epoch's start and does not jump in short runs.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    rest = max(1, steps - config.warmup_steps)
    done = (step - config.warmup_steps) / rest
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * (1 - done) ** config.power


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every group ``value`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_scale"]
