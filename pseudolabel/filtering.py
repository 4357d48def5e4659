"""From a teacher's probabilities to a pseudo-label, and what is to be thought of it.

Probabilities are quantised to 255 steps first, and everything is a function of the quantised
values: the label can be made again from the files, with other thresholds too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from covidseg.engine.cache import IGNORE_LABEL
from covidseg.pseudolabel.rounds_config import FilterConfig

STEPS = 255


def quantised(foreground: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probabilities in [0, 1] as the nearest of 0/255 to 255/255."""
    return np.rint(np.clip(foreground, 0, 1) * STEPS).astype(np.uint8)


def pseudo_label(probabilities: NDArray[np.uint8], config: FilterConfig) -> NDArray[np.uint8]:
    """(classes - 1, Z, Y, X) quantised probabilities of the foreground classes to labels.

    A voxel is class c where p_c reaches ``config.foreground``, background where what is missing to
    1 reaches ``config.background``, and ``IGNORE_LABEL`` otherwise.
    """
    label = np.full(probabilities.shape[1:], IGNORE_LABEL, np.uint8)
    label[_total(probabilities) <= _greatest_foreground(config)] = 0
    least = math.ceil(STEPS * config.foreground - 1e-9)
    for number, probability in enumerate(probabilities, start=1):
        label[probability >= least] = number
    return label


def confidence(probabilities: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The probability of the likeliest class, background among them, quantised; (Z, Y, X)."""
    background = STEPS - np.minimum(_total(probabilities), STEPS)
    return np.maximum(background, probabilities.max(0)).astype(np.uint8)


def _total(probabilities: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return probabilities.sum(0, dtype=np.uint16)


def _greatest_foreground(config: FilterConfig) -> int:
    return math.floor(STEPS * (1 - config.background) + 1e-9)


def agreement(labels: Sequence[NDArray[np.uint8]]) -> float:
    """Mean Dice of the foreground (of any class) of each two label maps; 1 for a single one.

    Two maps without foreground agree.
    """
    masks = [label > 0 for label in labels]
    sizes = [int(mask.sum()) for mask in masks]
    values = []
    for one, other in itertools.combinations(range(len(masks)), 2):
        together = sizes[one] + sizes[other]
        common = int((masks[one] & masks[other]).sum())
        values.append(2 * common / together if together else 1.0)
    return float(np.mean(values)) if values else 1.0


@dataclass(frozen=True)
class Judgement:
    """What is to be thought of a pseudo-label.

    ``mean_confidence`` and ``mean_entropy`` are over the questioned voxels (1 and 0 where there is
    none), the entropy as a share of ln(classes); ``labelled_share`` is the share of the questioned
    voxels that count; ``reason`` is empty where the scan is kept.
    """

    mean_confidence: float
    mean_entropy: float
    agreement: float
    labelled_share: float
    foreground_voxels: int
    reason: str

    @property
    def kept(self) -> bool:
        """Whether a student learns from the scan."""
        return not self.reason


def judge(
    probabilities: NDArray[np.uint8],
    label: NDArray[np.uint8],
    agreed: float,
    config: FilterConfig,
) -> Judgement:
    """Judge a scan by its probabilities, the label made of them, and the teachers' agreement."""
    questioned = _total(probabilities) > _greatest_foreground(config)
    foreground = int(((label > 0) & (label != IGNORE_LABEL)).sum())
    count = int(questioned.sum())
    sure, entropy, share = 1.0, 0.0, 1.0
    if count:
        inside = probabilities[:, questioned].astype(np.float32) / STEPS
        every = np.concatenate([np.clip(1 - inside.sum(0, keepdims=True), 0, 1), inside])
        sure = float(every.max(0).mean())
        logarithms = np.log(np.where(every > 0, every, 1))
        entropy = float(-(every * logarithms).sum(0).mean() / math.log(len(every)))
        share = float((label[questioned] != IGNORE_LABEL).mean())
    reason = ""
    if agreed < config.min_agreement:
        reason = f"agreement {agreed:.3f} below {config.min_agreement:g}"
    elif entropy > config.max_entropy:
        reason = f"entropy {entropy:.3f} above {config.max_entropy:g}"
    elif not foreground and not config.keep_empty:
        reason = "empty pseudo-label"
    return Judgement(sure, entropy, agreed, share, foreground, reason)
