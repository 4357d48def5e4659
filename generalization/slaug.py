"""SLAug: location-scale augmentation of the whole image and of each class, mixed by saliency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.method import Method
from covidseg.engine.stream import Batch
from covidseg.generalization.draws import SLAUG, each_sample, generator
from covidseg.generalization.splines import spline_field, to_unit_range

# Samples along a Bézier curve, entries of its table, and bins of a percentile.
_CURVE, _TABLE, _BINS = 2000, 512, 512


@dataclass(frozen=True)
class SlaugConfig:
    """Location-scale augmentation with saliency-balancing fusion.

    Parameters
    ----------
    scale_std
        Standard deviation of the scale about 1.
    scale_limits
        The scale is clipped to these.
    location_std
        Standard deviation of the shift, in units of the intensity range.
    percentile
        The shift may bring this percentile to the range's bottom and 100 minus it to its top, and
        no further.
    p_inverse
        Share of the classes whose intensities are inverted; the background's always are.
    background
        Voxels up to this height of the intensity range (air) stay as they are in the class-wise
        version.
    grid
        Cells along each axis that the saliency is averaged over.
    """

    scale_std: float = 0.1
    scale_limits: tuple[float, float] = (0.9, 1.1)
    location_std: float = 0.5
    percentile: float = 20.0
    p_inverse: float = 0.5
    background: float = 0.01
    grid: int = 3


@dataclass
class LocationScale:
    """What happens to a region's intensities.

    ``table`` is the Bézier map at even places of the region's own range, both in [0, 1]; then
    v·scale + location, the location limited as the configuration says.
    """

    table: np.ndarray
    scale: float
    location: float


def bezier_table(inner: np.ndarray, inverse: bool) -> np.ndarray:
    """A cubic Bézier curve from (0, 0) to (1, 1) as a function of x, at even places, float32.

    ``inner`` (2, 2) holds the two inner control points, (x, y) each, in [0, 1]. The curve's x are
    sorted; its y as well, which makes the function rise, or from 1 to 0 where ``inverse``.
    """
    t = np.linspace(0, 1, _CURVE)
    points = np.array([[0, 0], *inner, [1, 1]], float)
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
    x, y = (weights @ points).T
    y = y[::-1] if inverse else np.sort(y)
    return np.interp(np.linspace(0, 1, _TABLE), np.sort(x), y).astype(np.float32)


@dataclass(frozen=True)
class Slaug:
    """Adds ``global_image`` and ``local_image`` to a batch for :class:`SaliencyBalanced`.

    Parameters
    ----------
    config
        The paper's numbers.
    low, high
        The intensity range of the network's input; what lies outside is clipped.
    classes
        The network's, background among them.

    Source: Su et al., Rethinking data augmentation for single-source domain generalization in
    medical image segmentation, AAAI 2023, and its public code.
    """

    config: SlaugConfig
    low: float
    high: float
    classes: int

    def draw(self, seed: int) -> tuple[LocationScale, list[LocationScale]]:
        """What happens to the whole image, and to each class's region, of the sample."""
        rng = generator(seed, SLAUG)

        def one(p_inverse: float) -> LocationScale:
            inner, inverts = rng.random((2, 2)), rng.random() < p_inverse
            scale = np.clip(rng.normal(1, self.config.scale_std), *self.config.scale_limits)
            location = rng.normal(0, self.config.location_std)
            return LocationScale(bezier_table(inner, inverts), float(scale), float(location))

        whole = one(0)
        return whole, [one(1 if c == 0 else self.config.p_inverse) for c in range(self.classes)]

    def __call__(self, batch: Batch) -> Batch:
        seeds = batch["seed"].tolist()
        drawn = [self.draw(seed) for seed in seeds]
        image = ((batch["image"] - self.low) / (self.high - self.low)).clamp(0, 1)

        def whole(number: int) -> Tensor:
            return self._moved(image[number], None, drawn[number][0])

        def by_class(number: int) -> Tensor:
            seen, result = image[number], image[number]
            for value, change in enumerate(drawn[number][1]):
                region = (batch["label"][number] == value).expand_as(seen)
                result = torch.where(region, self._moved(seen, region, change), result)
            return torch.where(seen <= self.config.background, seen, result)

        versions = {"global_image": whole, "local_image": by_class}
        made = {
            name: each_sample(image, version) * (self.high - self.low) + self.low
            for name, version in versions.items()
        }
        return {**batch, **made, "image": made["global_image"]}

    def _moved(self, image: Tensor, region: Tensor | None, change: LocationScale) -> Tensor:
        """``image`` in [0, 1] with a change whose statistics are the region's."""
        inside = image if region is None else torch.where(region, image, torch.inf)
        low = inside.amin()
        high = image.amax() if region is None else torch.where(region, image, -torch.inf).amax()
        extent = (high - low).clamp_min(1e-6)
        table = torch.from_numpy(change.table).to(image.device, non_blocking=True)
        place = ((image - low) / extent).clamp(0, 1).nan_to_num(0) * (_TABLE - 1)
        below = place.floor().long().clamp_max(_TABLE - 2)
        value = torch.lerp(table[below], table[below + 1], place - below)
        value = low + value * extent
        bottom, top = self._percentiles(value, region)
        location = torch.full_like(bottom, change.location).clamp(-bottom, 1 - top)
        return (value * change.scale + location).clamp(0, 1)

    def _percentiles(self, value: Tensor, region: Tensor | None) -> tuple[Tensor, Tensor]:
        """The two percentiles within a region to a bin's width: sorting would take far longer."""
        bins = (value.clamp(0, 1).nan_to_num(0) * (_BINS - 1)).round().long()
        if region is not None:
            bins = torch.where(region, bins, _BINS)
        counts = torch.bincount(bins.flatten(), minlength=_BINS + 1)[:_BINS].cumsum(0)
        share = self.config.percentile / 100
        wanted = torch.stack([counts[-1] * share, counts[-1] * (1 - share)]).ceil()
        places = torch.searchsorted(counts.float(), wanted).clamp_max(_BINS - 1)
        bottom, top = places.float() / (_BINS - 1)
        return bottom, top


def saliency_map(gradient: Tensor, grid: int) -> Tensor:
    """Where the loss reacts to the image: (batch, 1, *spatial) in [0, 1].

    ``gradient`` (batch, channels, *spatial) is the loss's with respect to the image; its root mean
    square over channels is averaged over ``grid`` cells an axis and smoothed by a quadratic
    B-spline. Beyond the outermost cells the map is held, where the public code lets it fade to 0.
    """
    dimensions = gradient.ndim - 2
    strength = gradient.float().square().mean(1, keepdim=True).sqrt()
    pool = {2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}[dimensions]
    # The mean is at a scale of its own, far below the smallest half-precision number.
    cells = pool(strength / strength.amax().clamp_min(1e-30), grid)
    cells = functional.pad(cells, [1, 1] * dimensions, mode="replicate")
    return to_unit_range(spline_field(cells, gradient.shape[2:]), dimensions)


class SaliencyBalanced(Method):
    """Supervised on the global version, and on its mixture with the class-wise one.

    The mixture is s·global + (1 − s)·local with s the saliency of the first loss. Takes two forward
    and three backward passes' work a step.
    """

    def __init__(self, network: nn.Module, loss: DiceCrossEntropy, grid: int) -> None:
        self.network, self.loss, self.grid = network, loss, grid

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.network}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        image = batch["global_image"].detach().requires_grad_(True)
        found = self.loss(self.network(image), batch["label"])
        (gradient,) = torch.autograd.grad(found["loss"], image, retain_graph=True)
        share = saliency_map(gradient, self.grid)
        mixed = share * image.detach() + (1 - share) * batch["local_image"]
        again = self.loss(self.network(mixed), batch["label"])
        return found | {"loss": found["loss"] + again["loss"], "loss_mixed": again["loss"]}
