"""Mean Teacher (Tarvainen and Valpola, 2017) for segmentation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from covidseg.engine.ema import Ema
from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.method import Method, Progress
from covidseg.engine.stream import Batch
from covidseg.pseudolabel.config import MeanTeacherConfig, UncertaintyConfig
from covidseg.pseudolabel.consistency import squared_difference
from covidseg.pseudolabel.ramps import sigmoid_ramp
from covidseg.pseudolabel.together import finest, forward_together, seeds_of, with_noise

_NOISE = 1  # apart from the other draws that are made from a sample's seed


class TeacherStudent(Method):
    """A student that is trained, and a teacher that is the moving average of its weights.

    The teacher is in evaluation mode always: its batch normalisation uses the averages that it
    carries, so that its target for a sample does not depend on the others of the batch.
    """

    predictor = "student"

    def __init__(
        self, student: nn.Module, loss: DiceCrossEntropy, decay: float, *, warm_up: bool = True
    ) -> None:
        self.student, self.loss = student, loss
        self.teacher = Ema(student, decay, warm_up=warm_up)

    def modules(self) -> dict[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher.network}

    def on_step_end(self, progress: Progress) -> None:
        self.teacher.update(self.student)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.teacher.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.teacher.updates = state["updates"]


class MeanTeacher(TeacherStudent):
    """Supervised loss on labelled patches, plus weight · (p − q)² on unlabelled ones.

    p is the student's prediction on a patch, q the teacher's on the same patch with noise. The
    teacher predicts, as in the paper.
    """

    predictor = "teacher"

    def __init__(
        self,
        student: nn.Module,
        loss: DiceCrossEntropy,
        config: MeanTeacherConfig | UncertaintyConfig,
    ) -> None:
        super().__init__(student, loss, config.decay)
        self.config, self.weight = config, 0.0

    def on_step_start(self, progress: Progress) -> None:
        self.weight = self.config.weight * sigmoid_ramp(progress.fraction, self.config.ramp)

    def step(self, batch: Any) -> dict[str, Tensor]:
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        seen, unseen = forward_together(self.student, labelled["image"], unlabelled["image"])
        found = self.loss(seen, labelled["label"])
        target = self.taught(unlabelled, 0)
        consistency = squared_difference(finest(unseen), target)
        total = found["loss"] + self.weight * consistency
        return {**found, "loss": total, "supervised": found["loss"], "consistency": consistency}

    @torch.no_grad()
    def taught(self, batch: Batch, number: int) -> Tensor:
        """The teacher's logits for a batch's images with noise, the ``number``-th draw of it."""
        seeds = seeds_of(batch, _NOISE, number)
        std, limit = self.config.noise, self.config.noise_limit
        return self.teacher.network(with_noise(batch["image"], seeds, std=std, limit=limit))
