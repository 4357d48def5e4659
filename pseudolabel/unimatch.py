"""UniMatch (Yang et al., CVPR 2023), and with an averaged teacher what V2 (2025) adds to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from covidseg.engine.cache import IGNORE_LABEL
from covidseg.engine.cutmix import cutmix
from covidseg.engine.distributed import sum_over_processes
from covidseg.engine.ema import Ema
from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.method import Method, Progress
from covidseg.networks.build import evaluation_mode
from covidseg.networks.features import decode, drop_channels, encode
from covidseg.pseudolabel.config import UniMatchConfig
from covidseg.pseudolabel.mixing import require_pairs
from covidseg.pseudolabel.streams import STRONG_VIEWS
from covidseg.pseudolabel.together import Outputs, apart, finest, seeds_of

_CUTMIX, _DROPOUT = 3, 4  # apart from the other draws that are made from a sample's seed
_SMOOTH = 1e-5


class UniMatch(Method):
    """What is predicted on a weak view is learnt on two strong ones and on perturbed features.

    ½·[L_x + ¼·(L_s1 + L_s2) + ½·L_fp]: L_x is supervised; the others are `squared_dice_loss` to
    the classes predicted on the weak view, where their probability reaches the threshold. The
    strong views are CutMix pairs; L_fp is of the weak view with half of its features' channels
    dropped.
    The student predicts (UniMatch), or the averaged teacher where there is one (V2).
    """

    def __init__(self, student: nn.Module, loss: DiceCrossEntropy, config: UniMatchConfig) -> None:
        self.student, self.loss, self.config = student, loss, config
        self.teacher = None if config.teacher_decay is None else Ema(student, config.teacher_decay)
        self.predictor = "student" if self.teacher is None else "teacher"

    def modules(self) -> dict[str, nn.Module]:
        if self.teacher is None:
            return {"student": self.student}
        return {"student": self.student, "teacher": self.teacher.network}

    def on_step_end(self, progress: Progress) -> None:
        if self.teacher is not None:
            self.teacher.update(self.student)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.teacher is None else {"updates": self.teacher.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.teacher is not None:
            self.teacher.updates = state["updates"]

    def step(self, batch: Any) -> dict[str, Tensor]:
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        pseudo = self.pseudo_labels(unlabelled["image"])
        strong, targets = [], []
        for number, name in enumerate(STRONG_VIEWS):
            seeds = seeds_of(unlabelled, _CUTMIX, number)
            view, target = self._mixed(unlabelled[name], pseudo, seeds)
            strong.append(view)
            targets.append(target)
        images = [labelled["image"], unlabelled["image"], *strong]
        seen, perturbed, *views = self._outputs(images, seeds_of(unlabelled, _DROPOUT))
        found = self.loss(seen, labelled["label"])
        on_views = sum(squared_dice_loss(finest(v), t) for v, t in zip(views, targets, strict=True))
        on_features = squared_dice_loss(finest(perturbed), pseudo)
        return {
            **found,
            "loss": 0.5 * (found["loss"] + 0.25 * on_views + 0.5 * on_features),
            "supervised": found["loss"],
            "views": on_views / len(views),
            "features": on_features,
            "sure": (pseudo != IGNORE_LABEL).float().mean(),
        }

    @torch.no_grad()
    def pseudo_labels(self, image: Tensor) -> Tensor:
        """Classes predicted ``(B, *spatial)`` int64, ``IGNORE_LABEL`` below the threshold."""
        if self.teacher is not None:
            logits = self.teacher.network(image)
        else:
            with evaluation_mode(self.student):
                logits = self.student(image)
        probability, predicted = logits.float().softmax(1).max(1)
        return torch.where(probability >= self.config.threshold, predicted, IGNORE_LABEL)

    def _mixed(self, view: Tensor, pseudo: Tensor, seeds: list[int]) -> tuple[Tensor, Tensor]:
        if not self.config.p_cutmix:
            return view, pseudo
        require_pairs(len(view))
        return cutmix(view, pseudo, seeds, self.config.p_cutmix)

    def _outputs(self, images: list[Tensor], seeds: list[int]) -> list[Outputs]:
        """The student's outputs for each batch, those of the second from perturbed features."""
        sizes = [len(image) for image in images]
        features = encode(self.student, torch.cat(images))
        weak = slice(sizes[0], sizes[0] + sizes[1])
        features = drop_channels(features, self.config.dropout, seeds, weak)
        return apart(decode(self.student, features), sizes)


def squared_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the classes' mean of (2·Σp·g + 1e-5) / (Σp² + Σg² + 1e-5), as the authors' code.

    The background is a class too: of lesions alone, the first few that a network believes in, found
    nowhere near the true ones, confirm themselves. Sums are over the voxels of the batch of all
    processes that are not ``IGNORE_LABEL``; without any the loss is zero.

    Parameters
    ----------
    logits
        ``(B, C, *spatial)`` before softmax.
    target
        ``(B, *spatial)`` int64.
    """
    known = target != IGNORE_LABEL
    classes = torch.arange(logits.shape[1], device=logits.device)
    shape = (1, -1, *[1] * (logits.ndim - 2))
    g = (target.unsqueeze(1) == classes.view(shape)).float()
    p = logits.float().softmax(1) * known.unsqueeze(1)
    axes = (0, *range(2, logits.ndim))
    sums = torch.stack([(p * g).sum(axes), p.square().sum(axes), g.sum(axes)])
    both, predicted, true = sum_over_processes(sums).unbind()
    return 1 - ((2 * both + _SMOOTH) / (predicted + true + _SMOOTH)).mean()
