"""Learning from several versions of a sample whose predictions are to agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.method import Method
from covidseg.engine.stream import Batch
from covidseg.generalization.draws import IPA, generator, on_device
from covidseg.generalization.numbers import check_numbers
from covidseg.generalization.random_convolutions import Gin
from covidseg.generalization.splines import spline_field, to_unit_range

VERSIONS = 3


class Versioned(Protocol):
    """An augmentation that makes any number of versions of an image."""

    def versions(self, image: Tensor, seeds: list[int], version: int = 0) -> Tensor: ...


@dataclass(frozen=True)
class IpaConfig:
    """Interventional pseudo-correlation augmentation: two versions blended by a random mask.

    Parameters
    ----------
    spans
        Distances between control points over the patch, along each axis: 4, as 48 of the paper's
        192 pixels are one.
    consistency_weight
        Weight of the divergence of the versions' predictions from their mean.
    """

    spans: int = 4
    consistency_weight: float = 10.0

    def __post_init__(self) -> None:
        check_numbers(self, "ipa", positive=["spans"], not_negative=["consistency_weight"])


@dataclass(frozen=True)
class ThreeVersions:
    """Three versions of each image under ``versions``, the first of which is ``image`` too.

    Source: Xu et al., ICLR 2021 (RandConv's consistency); GIN takes it over.
    """

    augment: Versioned

    def __call__(self, batch: Batch) -> Batch:
        seeds = batch["seed"].tolist()
        made = [self.augment.versions(batch["image"], seeds, place) for place in range(VERSIONS)]
        return {**batch, "image": made[0], "versions": made}


@dataclass(frozen=True)
class GinIpa:
    """GIN with IPA: m·a + (1 − m)·b, (1 − m)·a + m·b and c, where a, b, c are GIN versions.

    The mask m is a quadratic B-spline field in [0, 1]: control points N(0, 1), brought to the norm
    1, the field's exponential stretched onto [0, 1]. Source: Ouyang et al., IEEE TMI 42 (2023), and
    its public code.
    """

    gin: Gin
    config: IpaConfig = IpaConfig()

    def masks(self, seeds: Sequence[int], image: Tensor) -> Tensor:
        """The blending masks of the samples with these seeds, float32 (batch, 1, *spatial)."""
        size = image.shape[2:]
        points = [self.config.spans + 3] * len(size)
        controls = [generator(seed, IPA).standard_normal(points) for seed in seeds]
        drawn = np.stack([control / np.linalg.norm(control) for control in controls])
        field = spline_field(on_device(drawn.astype(np.float32), image), size)
        return to_unit_range(field.exp(), len(size))[:, None]

    def __call__(self, batch: Batch) -> Batch:
        image, seeds = batch["image"], batch["seed"].tolist()
        a, b, c = self.gin.several(image, seeds, range(VERSIONS))
        m = self.masks(seeds, image)
        made = [m * a + (1 - m) * b, (1 - m) * a + m * b, c]
        return {**batch, "image": made[0], "versions": made}


def divergence_from_mean(logits: Tensor, versions: int) -> Tensor:
    """Mean of mean·(log mean − log p) over versions, samples, classes and voxels.

    ``logits`` is (versions · batch, classes, *spatial), one version after the other; ``mean`` is
    over the versions' probabilities. Gradients flow through the mean too, and the mean is over the
    classes as well, as in the public code of GIN and IPA, whose weight of 10 belongs to that.
    """
    log_p = logits.float().log_softmax(1).unflatten(0, (versions, -1))
    # Where all versions are sure, the mean can round to zero, whose logarithm has no gradient.
    mean = log_p.exp().mean(0).clamp_min(1e-8)
    return (mean * (mean.log() - log_p)).mean()


def divergence_to_mean(logits: Tensor, versions: int) -> Tensor:
    """Sum over versions of KL(p ‖ mean) = Σ p·(log p − log mean), mean over samples and voxels.

    Arguments as of `divergence_from_mean`. It is at most the logarithm of the number of versions
    times that number, however sure they are. Source: Xu et al., ICLR 2021 (RandConv), whose weight
    of 10 belongs to it.
    """
    log_p = logits.float().log_softmax(1).unflatten(0, (versions, -1))
    p = log_p.exp()
    mean = p.mean(0).clamp_min(1e-8)
    return (p * (log_p - mean.log())).sum((0, 2)).mean()


class Consistent(Method):
    """Supervised on the first version of each sample; the predictions of all are to agree.

    Parameters
    ----------
    weight
        Of the divergence.
    divergence
        Of the versions' logits, as `divergence_from_mean` takes them.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: DiceCrossEntropy,
        weight: float,
        divergence: Callable[[Tensor, int], Tensor] = divergence_from_mean,
    ) -> None:
        self.network, self.loss, self.weight = network, loss, weight
        self.divergence = divergence

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.network}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """``batch["versions"]`` lists images (batch, channels, *spatial) of one shape."""
        versions, size = batch["versions"], len(batch["label"])
        outputs = self.network(torch.cat(versions))
        levels = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        found = self.loss([level[:size] for level in levels], batch["label"])
        consistency = self.divergence(levels[0], len(versions))
        return found | {
            "loss": found["loss"] + self.weight * consistency,
            "consistency": consistency,
        }
