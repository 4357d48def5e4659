"""The student of a round: supervised by labels, and by pseudo-labels where its teacher was sure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from covidseg.engine.method import Supervised


class SupervisedStream(Supervised):
    """Plain supervised learning from the stream ``labelled``: what the other methods are beside."""

    def step(self, batch: Any) -> dict[str, Tensor]:
        return super().step(batch["labelled"])


class NoisyStudent(Supervised):
    """Labelled patches and pseudo-labelled ones as one batch of one supervised loss.

    Pseudo-labels hold ``IGNORE_LABEL`` where the teacher was not sure; ``loss`` must leave such
    voxels out. The noise is the augmentation of both streams. How much pseudo-labels weigh against
    labels is the number of patches of each.
    """

    def step(self, batch: Any) -> dict[str, Tensor]:
        labelled, pseudo = batch["labelled"], batch["pseudo"]
        images = torch.cat([labelled["image"], pseudo["image"]])
        return self.loss(self.network(images), torch.cat([labelled["label"], pseudo["label"]]))
