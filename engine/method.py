"""What a training method is: the loop in ``loop`` calls these, and knows nothing else of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.stream import Batch


@dataclass(frozen=True)
class Progress:
    """Where a run stands. ``step`` counts optimiser steps from 0."""

    step: int
    steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        """The epoch that ``step`` is in, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """Share of the run that is done before ``step``, in [0, 1)."""
        return self.step / self.steps


class Method(ABC):
    """One way of learning. ``modules`` and ``step`` are its whole obligation.

    Random numbers come from torch's global generator, from ``batch["seed"]`` or from the step's
    number; with those a run resumes bit for bit. State that is not in a module goes through
    ``state_dict``.
    """

    # Name, in `modules()`, of the network whose weights are for prediction.
    predictor: str = "model"
    # False where compiled networks would not do what the method makes of them.
    compiles: bool = True

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """All networks by name, the same ones at each call; each becomes ``<name>.safetensors``.

        A network whose parameters need no gradients (a teacher) is saved and restored, not trained.
        """

    @abstractmethod
    def step(self, batch: Any) -> dict[str, torch.Tensor]:
        """Losses of one micro-batch: ``loss`` is minimised, the others are logged.

        ``batch`` is a dict of tensors on the training device, or, with several streams, one such
        dict a stream under its name. Called in training mode and under mixed precision.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups; ``lr_scale`` in one multiplies the scheduled learning rate."""
        parameters = [p for m in self.modules().values() for p in m.parameters() if p.requires_grad]
        return [{"params": parameters}]

    def on_train_start(self, accelerator: Any) -> None:
        """Called once, with the networks on their device and any checkpoint restored."""

    def on_step_start(self, progress: Progress) -> None:
        """Called before the micro-batches of a step."""

    def on_step_end(self, progress: Progress) -> None:
        """Called after the optimiser's step: the place to move a teacher."""

    def state_dict(self) -> dict[str, Any]:
        """Further state: tensors, numbers, strings, and lists and dicts of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""


class Supervised(Method):
    """Plain supervised learning of one network from images and labels."""

    def __init__(self, network: nn.Module, loss: DiceCrossEntropy) -> None:
        self.network, self.loss = network, loss

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.network}

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self.loss(self.network(batch["image"]), batch["label"])
