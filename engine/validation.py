"""Dice per class on held-out samples of the training side, and a picture of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from covidseg.engine.distributed import sum_over_processes
from covidseg.engine.loss_functions import class_map, overlap_sums
from covidseg.engine.stream import SizedDataset, collate, to_device

_TRUE, _PREDICTED = np.array([0, 200, 0]), np.array([230, 0, 90])


@dataclass(frozen=True)
class Scores:
    """What a validation returns: numbers by name, and a picture (H, W, 3) uint8 or ``None``."""

    values: dict[str, float]
    overlay: np.ndarray | None = None


class DiceValidation:
    """Dice of each foreground class over all voxels of a data set's samples taken as one volume.

    A quick look while training (nnU-Net's "pseudo Dice"); it is no score of any case, chooses no
    checkpoint, and must be given data of the training side alone.

    Parameters
    ----------
    dataset
        Samples with ``image`` and ``label``; processes share them out.
    class_names
        Names of classes 1, 2, ...
    batch_size
        Samples a forward pass.
    pictured
        Index of the sample that is drawn.
    """

    def __init__(
        self,
        dataset: SizedDataset,
        class_names: Sequence[str],
        *,
        batch_size: int = 2,
        pictured: int = 0,
        ignore_label: int | None = None,
    ) -> None:
        self.dataset, self.class_names = dataset, tuple(class_names)
        self.batch_size, self.pictured, self.ignore_label = batch_size, pictured, ignore_label

    @torch.no_grad()
    def __call__(self, network: nn.Module, accelerator: Any) -> Scores:
        """Score ``network``, which is in evaluation mode; every process must call this."""
        rank, processes = accelerator.process_index, accelerator.num_processes
        sums = torch.zeros(3, len(self.class_names), device=accelerator.device)
        mine = range(rank, len(self.dataset), processes)
        for first in range(0, len(mine), self.batch_size):
            numbers = mine[first : first + self.batch_size]
            batch = to_device(collate([self.dataset[i] for i in numbers]), accelerator.device)
            with accelerator.autocast():
                logits = network(batch["image"])
            predicted = logits.argmax(1)
            hard = torch.stack([predicted == c for c in range(logits.shape[1])], 1)
            target = class_map(batch["label"], logits)
            parts = overlap_sums(hard, target, ignore_label=self.ignore_label)
            sums += torch.stack([part.sum(0) for part in parts])
        intersection, predicted_sum, true_sum = sum_over_processes(sums).cpu()
        # No voxel of a class, neither true nor predicted, is no mistake.
        dice = torch.where(
            predicted_sum + true_sum > 0, 2 * intersection / (predicted_sum + true_sum), 1.0
        )
        values = {f"dice_{name}": float(d) for name, d in zip(self.class_names, dice, strict=True)}
        picture = self._picture(network, accelerator) if accelerator.is_main_process else None
        return Scores(values, picture)

    def _picture(self, network: nn.Module, accelerator: Any) -> np.ndarray:
        batch = to_device(collate([self.dataset[self.pictured]]), accelerator.device)
        with accelerator.autocast():
            logits = network(batch["image"])
        label = class_map(batch["label"], logits)[0].cpu().numpy()
        return overlay(
            batch["image"][0, 0].float().cpu().numpy(), label, logits.argmax(1)[0].cpu().numpy()
        )


def overlay(image: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The slice with most true foreground beside itself: left true outlines, right predicted ones.

    ``image`` float and the masks integer, 2D or 3D of one shape; a 3D volume is cut across the axis
    that is shortest. Returns uint8 ``(H, 2·W + 2, 3)``.
    """
    if image.ndim == 3:
        axis = int(np.argmin(image.shape))
        others = tuple(a for a in range(3) if a != axis)
        place = int(np.argmax((true > 0).sum(others)))
        image, true, predicted = (np.take(a, place, axis) for a in (image, true, predicted))
    low, high = np.percentile(image, (0.5, 99.5))
    gray = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1)
    base = np.repeat((gray * 255).astype(np.uint8)[..., None], 3, axis=-1)
    panels = []
    for mask, colour in ((true, _TRUE), (predicted, _PREDICTED)):
        panel = base.copy()
        # Classes are told apart by brightness: the first in full colour, later ones paler.
        for value in range(1, int(mask.max(initial=0)) + 1):
            paler = (colour + (255 - colour) * (1 - 1 / value)).astype(np.uint8)
            panel[_outline(mask == value)] = paler
        panels.append(panel)
    gap = np.full((base.shape[0], 2, 3), 255, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], axis=1)


def _outline(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
