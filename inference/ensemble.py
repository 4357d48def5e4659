"""Ensembles whose members each see a scan their own way: in grid, intensities or windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from covidseg.core.errors import ConfigError
from covidseg.imaging.volume import Volume
from covidseg.inference.components import lungs_in_one_piece
from covidseg.inference.predictor import Predictor
from covidseg.inference.restore import label_map, likeliest, upright_shape
from covidseg.registry.cases import HU, Intensity


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Predictors that differ in preprocessing or windows and agree in what they predict.

    Each predicts with its own settings; the mean over all their networks is taken on the scan's own
    grid. (Networks that share all settings belong into one `Predictor`, which is faster.)

    Memory beyond that of one predictor is a float32 volume of the scan's size for each foreground
    class, however many predictors there are.

    Raises
    ------
    ConfigError
        They differ in the number of classes, or some are for pictures and some for volumes.
    """

    members: Sequence[Predictor]

    def __post_init__(self) -> None:
        for member in self.members[1:]:
            if member.classes != self.classes:
                raise ConfigError(f"an ensemble of {self.classes} and of {member.classes} classes")
            if member.for_pictures != self.for_pictures:
                raise ConfigError("an ensemble of a network for pictures and one for CT volumes")

    @property
    def classes(self) -> int:
        """Classes of each member, background among them."""
        return self.members[0].classes

    @property
    def for_pictures(self) -> bool:
        """Whether it segments slice pictures, not CT volumes."""
        return self.members[0].for_pictures

    def predict(self, volume: Volume, intensity: Intensity = HU) -> Volume:
        """Segment a scan: uint8 labels on exactly the scan's grid.

        In one piece is what is so for every member.
        """
        foreground = self.foreground(volume, intensity)
        labels = torch.empty(foreground.shape[1:], dtype=torch.uint8)
        for plane, found in zip(foreground.unbind(1), labels, strict=True):
            background = 1 - plane.sum(0, keepdim=True)
            found.copy_(likeliest(torch.cat([background, plane])))
        labelled = label_map(labels.numpy(), volume.shape, volume.affine)
        pieces = set.intersection(*(set(member.one_piece) for member in self.members))
        if not pieces:
            return labelled
        return lungs_in_one_piece(labelled, sorted(pieces), volume, intensity)

    def foreground(self, volume: Volume, intensity: Intensity = HU) -> Tensor:
        """Mean probabilities of the classes 1, 2, ..., on the upright scan's own grid.

        float32 (classes - 1, Z, Y, X), on the CPU; background is what is missing to 1.
        """
        networks = sum(len(member.networks) for member in self.members)
        shape = upright_shape(volume.shape, volume.affine)
        total = torch.zeros((self.classes - 1, *shape))
        for member in self.members:
            share = len(member.networks) / networks
            for slab in member.on_scan(volume, intensity):
                total[:, slab.start : slab.stop].add_(slab.probabilities[1:].cpu(), alpha=share)
        return total
