"""UA-MT: Mean Teacher that learns where its teacher is certain (Yu et al., MICCAI 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.method import Progress
from covidseg.engine.stream import Batch
from covidseg.pseudolabel.config import UncertaintyConfig
from covidseg.pseudolabel.consistency import (
    entropy,
    greatest_entropy,
    masked_squared_difference,
)
from covidseg.pseudolabel.mean_teacher import MeanTeacher
from covidseg.pseudolabel.ramps import sigmoid_ramp
from covidseg.pseudolabel.together import finest, forward_together


class UncertaintyAwareMeanTeacher(MeanTeacher):
    """Mean Teacher whose consistency counts where the teacher's entropy is below a threshold.

    The entropy is that of the mean prediction of several noisy passes. The student predicts, as
    the authors' code has it.
    """

    predictor = "student"
    config: UncertaintyConfig

    def __init__(
        self, student: nn.Module, loss: DiceCrossEntropy, config: UncertaintyConfig
    ) -> None:
        super().__init__(student, loss, config)
        self.share = config.threshold[0]

    def on_step_start(self, progress: Progress) -> None:
        super().on_step_start(progress)
        low, high = self.config.threshold
        self.share = low + (high - low) * sigmoid_ramp(progress.fraction, 1.0)

    def step(self, batch: Any) -> dict[str, Tensor]:
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        seen, unseen = forward_together(self.student, labelled["image"], unlabelled["image"])
        found = self.loss(seen, labelled["label"])
        target = self.taught(unlabelled, 0)
        certain = self.certain(unlabelled)
        consistency = masked_squared_difference(finest(unseen), target, certain)
        return {
            **found,
            "loss": found["loss"] + self.weight * consistency,
            "supervised": found["loss"],
            "consistency": consistency,
            "certain": certain.float().mean(),
        }

    @torch.no_grad()
    def certain(self, batch: Batch) -> Tensor:
        """Where the teacher is certain now: ``(B, *spatial)`` bool."""
        passes = self.config.passes
        mean = sum(self.taught(batch, 1 + i).float().softmax(1) for i in range(passes)) / passes
        assert isinstance(mean, Tensor)
        return entropy(mean) < self.share * greatest_entropy(mean.shape[1])
