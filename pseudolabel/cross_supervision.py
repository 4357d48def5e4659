"""CPS: cross pseudo supervision (Chen et al., CVPR 2021)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from covidseg.engine.loss_functions import cross_entropy
from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.method import Method, Progress
from covidseg.pseudolabel.config import CrossSupervisionConfig
from covidseg.pseudolabel.ramps import sigmoid_ramp
from covidseg.pseudolabel.together import finest, forward_together


class CrossSupervision(Method):
    """Two networks of different first weights; each learns the other's classes by cross-entropy.

    The first one predicts, as in the paper.
    """

    predictor = "first"

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        loss: DiceCrossEntropy,
        config: CrossSupervisionConfig,
    ) -> None:
        self.first, self.second, self.loss = first, second, loss
        self.config, self.weight = config, 0.0

    def modules(self) -> dict[str, nn.Module]:
        return {"first": self.first, "second": self.second}

    def on_step_start(self, progress: Progress) -> None:
        self.weight = self.config.weight * sigmoid_ramp(progress.fraction, self.config.ramp)

    def step(self, batch: Any) -> dict[str, Tensor]:
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        images = labelled["image"], unlabelled["image"]
        seen_1, unseen_1 = forward_together(self.first, *images)
        seen_2, unseen_2 = forward_together(self.second, *images)
        found_1 = self.loss(seen_1, labelled["label"])
        found_2 = self.loss(seen_2, labelled["label"])
        logits_1, logits_2 = finest(unseen_1), finest(unseen_2)
        # An argmax has no gradient: each network is taught, and does not teach to please.
        cross_1 = cross_entropy(logits_1, logits_2.argmax(1))
        cross_2 = cross_entropy(logits_2, logits_1.argmax(1))
        supervised, crossed = found_1["loss"] + found_2["loss"], cross_1 + cross_2
        return {
            "loss": supervised + self.weight * crossed,
            "dice_loss": found_1["dice_loss"],
            "cross_entropy": found_1["cross_entropy"],
            "supervised": supervised,
            "crossed": crossed,
        }
