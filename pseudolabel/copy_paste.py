"""BCP: bidirectional copy-paste (Bai et al., CVPR 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from covidseg.core.errors import ConfigError
from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.method import Progress
from covidseg.engine.stream import Batch
from covidseg.pseudolabel.config import CopyPasteConfig
from covidseg.pseudolabel.mean_teacher import TeacherStudent
from covidseg.pseudolabel.mixing import inside_boxes, neighbours, only, paste
from covidseg.pseudolabel.together import Outputs, forward_together, seeds_of

_BOX = 2  # apart from the other draws that are made from a sample's seed


class CopyPaste(TeacherStudent):
    """A box of each unlabelled patch goes into a labelled one, and that one's box the other way.

    Each mixed patch has a region with true labels (weight 1) and one with the teacher's (weight
    ½); the loss is the sum of both regions' losses over both mixtures. The first part of the run
    pastes labelled patches into each other, and its student is the first teacher. The teacher's
    labels are taken as they are: the authors keep the largest component, but COVID-19 lesions are
    many. The student predicts, as in the authors' code.

    ``loss`` must leave out ``IGNORE_LABEL``.
    """

    def __init__(self, student: nn.Module, loss: DiceCrossEntropy, config: CopyPasteConfig) -> None:
        super().__init__(student, loss, config.decay, warm_up=False)
        self.config, self.pretrains = config, False

    def on_step_start(self, progress: Progress) -> None:
        self.pretrains = progress.fraction < self.config.pretraining

    def on_step_end(self, progress: Progress) -> None:
        if self.pretrains:
            self.teacher.network.load_state_dict(self.student.state_dict())
        else:
            super().on_step_end(progress)

    def step(self, batch: Any) -> dict[str, Tensor]:
        labelled = batch["labelled"]
        image, label = labelled["image"], labelled["label"].long()
        inside = inside_boxes(
            seeds_of(labelled, _BOX), image.shape[2:], self.config.box, image.device
        )
        if self.pretrains:
            mixed = paste(neighbours(image), image, inside)
            outputs = self.student(mixed)
            loss = self.regions(outputs, neighbours(label), 1.0, label, 1.0, inside)
            return {"loss": loss, "pretraining": loss}
        unlabelled = self._of_same_number(batch)
        with torch.no_grad():
            pseudo = self.teacher.network(unlabelled).argmax(1)
        inwards, outwards = forward_together(
            self.student, paste(unlabelled, image, inside), paste(image, unlabelled, inside)
        )
        weight = self.config.pseudo_weight
        into_labelled = self.regions(inwards, pseudo, weight, label, 1.0, inside)
        into_unlabelled = self.regions(outwards, label, 1.0, pseudo, weight, inside)
        return {
            "loss": into_labelled + into_unlabelled,
            "into_labelled": into_labelled,
            "into_unlabelled": into_unlabelled,
        }

    def regions(
        self,
        outputs: Outputs,
        inner: Tensor,
        inner_weight: float,
        outer: Tensor,
        outer_weight: float,
        inside: Tensor,
    ) -> Tensor:
        """Weighted sum of the losses within the boxes and around them.

        ``inner``, ``outer`` int64 labels and ``inside`` bool, all ``(B, *spatial)``.
        """
        within = self.loss(outputs, only(inner, inside))["loss"]
        around = self.loss(outputs, only(outer, ~inside))["loss"]
        return inner_weight * within + outer_weight * around

    @staticmethod
    def _of_same_number(batch: dict[str, Batch]) -> Tensor:
        labelled, unlabelled = batch["labelled"]["image"], batch["unlabelled"]["image"]
        if len(labelled) != len(unlabelled):
            raise ConfigError(
                f"method bcp mixes {len(labelled)} labelled with {len(unlabelled)} unlabelled "
                "patches",
                expected="as many of the one as of the other",
                remedy="leave unlabelled.batch_size null",
            )
        return unlabelled
