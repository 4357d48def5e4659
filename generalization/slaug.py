"""SLAug: location-scale augmentation of the whole image and of each class, mixed by saliency."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from covidseg.core.errors import ConfigError
from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.method import Method
from covidseg.engine.stream import Batch
from covidseg.generalization.draws import SLAUG, generator, on_device
from covidseg.generalization.numbers import check_numbers
from covidseg.generalization.splines import spline_field, to_unit_range

# Samples along a Bézier curve, entries of its table, and bins of a percentile.
_CURVE, _TABLE, _BINS = 2000, 512, 512
_LANES = 32
_PLACES = np.linspace(0, 1, _TABLE)


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

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "slaug",
            shares=["p_inverse", "background"],
            positive=["grid"],
            not_negative=["scale_std", "location_std"],
            ranges=["scale_limits"],
        )
        if not 0 <= self.percentile <= 50:
            raise ConfigError(f"slaug.percentile is {self.percentile}", expected="0 to 50")


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
    points = np.array([[0, 0], *inner, [1, 1]], float)
    x, y = (_bernstein() @ points).T
    # Timsort takes almost no time for what all but rises already.
    y = y[::-1] if inverse else np.sort(y, kind="stable")
    return np.interp(_PLACES, np.sort(x, kind="stable"), y).astype(np.float32)


@functools.cache
def _bernstein() -> np.ndarray:
    """The cubic Bernstein polynomials at even places, (places, 4)."""
    t = np.linspace(0, 1, _CURVE)
    return np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)


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
        drawn = [self.draw(seed) for seed in batch["seed"].tolist()]
        image = ((batch["image"] - self.low) / (self.high - self.low)).clamp(0, 1)
        local = image
        for value in range(self.classes):
            region = batch["label"][:, None] == value
            moved = self._moved(image, region, [by_class[value] for _, by_class in drawn])
            local = torch.where(region, moved, local)
        made = {
            "global_image": self._moved(image, None, [whole for whole, _ in drawn]),
            "local_image": torch.where(image <= self.config.background, image, local),
        }
        made = {name: one * (self.high - self.low) + self.low for name, one in made.items()}
        return {**batch, **made, "image": made["global_image"]}

    def _moved(
        self, image: Tensor, region: Tensor | None, changes: Sequence[LocationScale]
    ) -> Tensor:
        """``image`` (batch, channels, *spatial) in [0, 1] with a change a sample, whose statistics
        are those of the sample's ``region`` (batch, 1, *spatial).
        """
        axes = tuple(range(1, image.ndim))
        inside = image if region is None else torch.where(region, image, torch.inf)
        low = inside.amin(axes, keepdim=True)
        inside = image if region is None else torch.where(region, image, -torch.inf)
        extent = (inside.amax(axes, keepdim=True) - low).clamp_min(1e-6)
        tables = on_device(np.stack([change.table for change in changes]), image)
        place = ((image - low) / extent).clamp(0, 1).nan_to_num(0) * (_TABLE - 1)
        below = place.floor().long().clamp_max(_TABLE - 2).flatten(1)
        between = place.flatten(1) - below
        value = torch.lerp(tables.gather(1, below), tables.gather(1, below + 1), between)
        value = low + value.reshape(image.shape) * extent
        bottom, top = self._percentiles(value, region)
        numbers = on_device([[change.scale, change.location] for change in changes], image).float()
        scale, location = numbers.T.reshape(2, *low.shape)
        return (value * scale + location.clamp(-bottom, 1 - top)).clamp(0, 1)

    def _percentiles(self, value: Tensor, region: Tensor | None) -> tuple[Tensor, Tensor]:
        """The two percentiles of each sample within its region, (batch, 1, ...), to a bin's width:
        sorting would take far longer.
        """
        bins = (value.clamp(0, 1).nan_to_num(0) * (_BINS - 1)).round().long().flatten(1)
        counted = torch.ones_like(value, dtype=torch.int64) if region is None else region.long()
        # Counted in several places, as the threads of a GPU that add to one wait for each other.
        lanes = torch.arange(bins.shape[1], device=bins.device) % _LANES
        counts = bins.new_zeros(len(bins), _BINS * _LANES)
        counts.scatter_add_(1, bins * _LANES + lanes, counted.expand_as(value).flatten(1))
        counts = counts.reshape(-1, _BINS, _LANES).sum(2)
        counts = counts.cumsum(1)
        share = self.config.percentile / 100
        wanted = torch.stack([counts[:, -1] * share, counts[:, -1] * (1 - share)], 1).ceil()
        places = torch.searchsorted(counts.float(), wanted).clamp_max(_BINS - 1)
        bottom, top = (places.float() / (_BINS - 1)).T.reshape(2, -1, *[1] * (value.ndim - 1))
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
