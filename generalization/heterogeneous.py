"""Learning from datasets that label different things: none is merged or taken for absent.

A network has channel 0 for the background and one more for every (dataset, label). A sample says
only what its own dataset annotates; what becomes of the other channels is the choice here:

* ``heads``: they play no part. Each dataset has a head of its own over a shared network, after
  MultiTalent (Ulrich et al., MICCAI 2023); its sigmoid for one label is this softmax over
  background and label.
* ``marginal``: they count as background, since a voxel that this dataset calls background may be
  any of them: q_0 = p_0 + Σ p_c over the channels c that it does not annotate (Shi et al., Marginal
  loss and exclusion loss for partially supervised multi-organ segmentation, Medical Image Analysis
  70, 2021).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from covidseg.engine.cache import TrainingCase
from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.method import Supervised
from covidseg.engine.stream import Batch
from covidseg.engine.task_data import Row

Mode = Literal["heads", "marginal"]
# Of a channel that plays no part: exp of it is 0 in any precision, and it is finite.
_ABSENT = -1e4


@dataclass(frozen=True)
class Channels:
    """Which channels belong to which dataset: ``of["msd"][1]`` is that of MSD's target 1."""

    of: Mapping[str, Mapping[int, int]]
    names: tuple[str, ...]

    @classmethod
    def plan(cls, datasets: Sequence[str], targets: Mapping[int, str]) -> Channels:
        """A channel for each target of each dataset, in the order given; the names say both."""
        of: dict[str, dict[int, int]] = {}
        names: list[str] = []
        for dataset in dict.fromkeys(datasets):
            of[dataset] = {}
            for value, name in sorted(targets.items()):
                names.append(f"{dataset}_{name}")
                of[dataset][value] = len(names)
        return cls(of, tuple(names))

    @property
    def targets(self) -> dict[int, str]:
        """Values of the network's classes and their names."""
        return dict(enumerate(self.names, start=1))

    def relabelled(self, rows: Sequence[Row]) -> list[TrainingCase]:
        """The rows' cases with their own dataset's channels as labels."""
        return [
            dataclasses.replace(
                row.case,
                values={v: t and self.of[row.dataset][t] for v, t in row.case.values.items()},
            )
            for row in rows
        ]

    def annotated(self, dataset: str) -> Tensor:
        """(channels,) bool: the background, and what the dataset labels."""
        flags = torch.zeros(len(self.names) + 1, dtype=torch.bool)
        flags[[0, *self.of[dataset].values()]] = True
        return flags


def as_annotated(logits: Tensor, annotated: Tensor, mode: Mode) -> Tensor:
    """Logits whose softmax is what a sample's dataset can say; of the same shape and dtype float32.

    Parameters
    ----------
    logits
        (batch, channels, *spatial), channel 0 the background.
    annotated
        (batch, channels) bool, true in channel 0.
    """
    logits = logits.float()
    shown = annotated.reshape(*annotated.shape, *[1] * (logits.ndim - 2))
    masked = torch.where(shown, logits, _ABSENT)
    if mode == "heads":
        return masked
    others = torch.where(shown, _ABSENT, logits)
    background = torch.logsumexp(torch.cat([logits[:, :1], others[:, 1:]], 1), 1, keepdim=True)
    return torch.cat([background, masked[:, 1:]], 1)


class PartlyLabelled(Supervised):
    """Supervised learning in which each sample speaks for its own dataset's channels alone.

    Dice is over the batch of all processes: a channel that no sample of it annotates costs nothing.

    Parameters
    ----------
    datasets
        Dataset of each training case, by ``case_id``.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: DiceCrossEntropy,
        channels: Channels,
        datasets: Mapping[str, str],
        mode: Mode,
    ) -> None:
        super().__init__(network, loss)
        self.mode = mode
        self.annotated = {case: channels.annotated(of) for case, of in datasets.items()}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        flags = torch.stack([self.annotated[case] for case in batch["case_id"]])
        flags = flags.to(batch["image"].device, non_blocking=True)
        outputs = self.network(batch["image"])
        levels = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        shown = [as_annotated(level, flags, self.mode) for level in levels]
        return self.loss(shown, batch["label"])


class OfDataset(nn.Module):
    """A network seen as one dataset would label: background and its own targets, in order."""

    def __init__(self, network: nn.Module, channels: Channels, dataset: str, mode: Mode) -> None:
        super().__init__()
        self.network, self.mode = network, mode
        self.own = [0, *(channel for _, channel in sorted(channels.of[dataset].items()))]
        self.register_buffer("annotated", channels.annotated(dataset)[None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(image)
        assert isinstance(self.annotated, Tensor)
        flags = self.annotated.expand(len(logits), -1)
        return as_annotated(logits, flags, self.mode)[:, self.own]
