"""nnU-Net's augmentation, batched on the device that trains: drawn first, then applied.

What happens to a sample is drawn from its seed alone, so it can be replayed, and does not depend
on its place in the batch, on the number of processes or on the workers that loaded it.

Source of the list, its order, probabilities and ranges: nnU-Net v2's ``nnUNetTrainer``
(``get_training_transforms``), for images normalised to about zero mean and unit variance.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from covidseg.core.errors import ConfigError

Range = tuple[float, float]
Label = TypeVar("Label", Tensor, None)
Value = TypeVar("Value")

_ALL_AXES = (0, 1, 2)
_ABOVE_ZERO = sys.float_info.min
# Range, least and greatest number in it.
_BOUNDS = (
    ("scale", _ABOVE_ZERO, math.inf),
    ("noise_variance", 0.0, math.inf),
    ("blur_sigma", _ABOVE_ZERO, math.inf),
    ("brightness", 0.0, math.inf),
    ("contrast", 0.0, math.inf),
    ("low_resolution", _ABOVE_ZERO, 1.0),
    ("gamma", _ABOVE_ZERO, math.inf),
)


@dataclass(frozen=True)
class AugmentationConfig:
    """Probabilities (``p_``) and ranges; a probability of 0 switches a transform off.

    Parameters
    ----------
    rotation_degrees
        Largest angle about each axis that is rotated about. Null for nnU-Net's: 30 in 3D, 180
        within planes, 15 in 2D where a patch is more than 1.5 times as long as wide.
    in_plane_only
        Rotate, scale and lower the resolution within planes, for patches much coarser across
        planes than within.
    scale
        Range of the zoom; above 1 shows more of the surroundings, so structures get smaller.
    noise_variance
        Range of the noise's standard deviation; nnU-Net has the number by this name.
    blur_sigma, low_resolution
        Ranges; the blur in voxels, the resolution as a share of the voxels kept along an axis.
    brightness, contrast, gamma
        Ranges of factors and exponents; where 1 is within, half of what is drawn is below it.
    mirror_axes
        Spatial axes of the array, 0 first (z in 3D, y in 2D), that are mirrored with ``p_mirror``
        each; all three, the default, are both of a 2D patch. Leave the left-right axis out where
        the labels tell left from right.
    p_cutmix
        Probability that a sample gets a box of its neighbour in the batch, label and all
        (`covidseg.engine.cutmix`); nnU-Net does not.
    """

    p_rotation: float = 0.2
    rotation_degrees: float | None = None
    in_plane_only: bool = False
    p_scale: float = 0.2
    scale: Range = (0.7, 1.4)
    p_noise: float = 0.1
    noise_variance: Range = (0.0, 0.1)
    p_blur: float = 0.2
    p_blur_per_channel: float = 0.5
    blur_sigma: Range = (0.5, 1.0)
    p_brightness: float = 0.15
    brightness: Range = (0.75, 1.25)
    p_contrast: float = 0.15
    contrast: Range = (0.75, 1.25)
    p_low_resolution: float = 0.25
    p_low_resolution_per_channel: float = 0.5
    low_resolution: Range = (0.5, 1.0)
    p_inverted_gamma: float = 0.1
    p_gamma: float = 0.3
    gamma: Range = (0.7, 1.5)
    p_mirror: float = 0.5
    mirror_axes: tuple[int, ...] = _ALL_AXES
    p_cutmix: float = 0.0

    def check(self, dimensions: int, section: str = "augmentation") -> None:
        """Raise ConfigError, naming ``section``, for what cannot be in patches of so many axes."""
        for name, value in vars(self).items():
            if name.startswith("p_") and not 0 <= value <= 1:
                raise ConfigError(f"{section}.{name} is {value}", expected="a probability, 0 to 1")
        for name, least, most in _BOUNDS:
            low, high = getattr(self, name)
            if not (least <= low <= high <= most and math.isfinite(high)):
                raise ConfigError(
                    f"{section}.{name} is {[low, high]}",
                    expected="two finite numbers, the lesser first"
                    + (", from 0 up" if least == 0 else ", above 0")
                    + (f", to {most:g}" if math.isfinite(most) else ""),
                )
        angle = self.rotation_degrees
        if angle is not None and not 0 <= angle < math.inf:
            raise ConfigError(
                f"{section}.rotation_degrees is {angle}", expected="0 or above, or null"
            )
        self._check_axes(dimensions, section)

    def _check_axes(self, dimensions: int, section: str) -> None:
        axes = self.mirror_axes
        # The default stands for all axes that there are.
        if axes != _ALL_AXES and (
            not set(axes) <= set(range(dimensions)) or len(set(axes)) < len(axes)
        ):
            raise ConfigError(
                f"{section}.mirror_axes is {list(axes)}",
                expected="each once, some of "
                + ", ".join(map(str, range(dimensions)))
                + f", in a patch of {dimensions} axes",
            )


@dataclass
class Draw:
    """What happens to one sample; None where a transform does not happen.

    ``linear`` maps output offsets from the centre to input offsets, in voxels, axes in array order.
    """

    linear: np.ndarray | None = None
    mirror: tuple[int, ...] = ()
    noise: tuple[float, int] | None = None
    blur: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    low_resolution: float | None = None
    inverted_gamma: float | None = None
    gamma: float | None = None
    seed: int = field(default=0, compare=False)


class Augmentation:
    """Augment batches of patches.

    Parameters
    ----------
    config
        What happens and how often.
    patch
        Voxels of the patches that come out, (Z, Y, X) or (Y, X).
    """

    def __init__(self, config: AugmentationConfig, patch: Sequence[int]) -> None:
        self.config = config
        self.patch = tuple(patch)
        angle = config.rotation_degrees
        if angle is None:
            angle = planned_rotation(patch, in_plane_only=config.in_plane_only)
        self.rotation_degrees = angle

    @property
    def input_size(self) -> tuple[int, ...]:
        """Voxels of the patches that must go in, so that turning and zooming reach no edge often.

        nnU-Net's choice: the box of the patch turned by the largest angle about one axis, over
        0.85.
        """
        config = self.config
        if config.p_rotation == 0 and config.p_scale == 0:
            return self.patch
        angle = min(math.radians(self.rotation_degrees), math.pi / 2)
        size = np.array(self.patch, float)
        planes = [(len(size) - 2, len(size) - 1)]
        if len(size) == 3 and not config.in_plane_only:
            planes = [(1, 2), (0, 2), (0, 1)]
        largest = size.copy()
        if config.p_rotation > 0:
            for i, j in planes:
                turned_i = abs(math.cos(angle)) * size[i] + abs(math.sin(angle)) * size[j]
                turned_j = abs(math.sin(angle)) * size[i] + abs(math.cos(angle)) * size[j]
                largest[i], largest[j] = max(largest[i], turned_i), max(largest[j], turned_j)
        if config.p_scale > 0:
            largest = largest / 0.85
        if len(size) == 3 and config.in_plane_only:
            largest[0] = size[0]
        return tuple(int(value) for value in np.maximum(largest, size))

    def draw(self, seed: int) -> Draw:
        """What happens to the sample with this seed."""
        config = self.config
        rng = np.random.Generator(np.random.Philox(key=seed))

        def maybe(
            probability: float, between: Range, place: Callable[[float, Range], float] = _evenly
        ) -> float | None:
            # Both numbers are always drawn, so that one probability does not shift the others.
            happens, share = rng.random() < probability, rng.random()
            return float(place(share, between)) if happens else None

        dimensions = len(self.patch)
        angles = np.radians(rng.uniform(-1, 1, 3) * self.rotation_degrees)
        turns = rng.random() < config.p_rotation
        zoom = maybe(config.p_scale, config.scale)
        linear = None
        if turns or zoom is not None:
            linear = np.eye(dimensions)
            if turns:
                linear = _rotation(angles, dimensions, config.in_plane_only) @ linear
            scales = np.full(dimensions, zoom or 1.0)
            if dimensions == 3 and config.in_plane_only:
                scales[0] = 1
            linear = linear * scales
        noise = maybe(config.p_noise, config.noise_variance)
        noise_seed = int(rng.integers(2**63))
        return Draw(
            linear=linear,
            noise=None if noise is None else (noise, noise_seed),
            blur=maybe(config.p_blur * config.p_blur_per_channel, config.blur_sigma),
            brightness=maybe(config.p_brightness, config.brightness, _about_one),
            contrast=maybe(config.p_contrast, config.contrast, _about_one),
            low_resolution=maybe(
                config.p_low_resolution * config.p_low_resolution_per_channel,
                config.low_resolution,
            ),
            inverted_gamma=maybe(config.p_inverted_gamma, config.gamma, _about_one),
            gamma=maybe(config.p_gamma, config.gamma, _about_one),
            mirror=tuple(
                axis
                for axis, number in zip(_ALL_AXES, rng.random(3), strict=True)
                if axis in config.mirror_axes and axis < dimensions and number < config.p_mirror
            ),
            seed=seed,
        )

    def __call__(self, image: Tensor, label: Label, seeds: Sequence[int]) -> tuple[Tensor, Label]:
        """Augment a batch; the inputs stay as they are.

        Parameters
        ----------
        image
            float32 (batch, channels, *input), where input is at least the patch along each axis.
        label
            Integer (batch, *input); None for images without.
        seeds
            One number a sample, not negative.

        Returns
        -------
        image
            float32 (batch, channels, *patch).
        label
            (batch, *patch), of the dtype given; None if it was.
        """
        return self.apply(image, label, [self.draw(seed) for seed in seeds])

    def apply(self, image: Tensor, label: Label, draws: Sequence[Draw]) -> tuple[Tensor, Label]:
        """Do what was drawn to each sample of a batch; shapes as for a call."""
        image, label = self._spatial(image, label, draws)
        image = _each(image, [d.noise for d in draws], _add_noise)
        image = where_drawn(image, [d.blur for d in draws], gaussian_blur)
        image = _each(image, [d.brightness for d in draws], lambda x, v: x * v)
        image = _each(image, [d.contrast for d in draws], _contrast)
        flat = self.config.in_plane_only and len(self.patch) == 3
        coarsen = functools.partial(_low_resolution, fine_axes=1 if flat else 0)
        image = _each(image, [d.low_resolution for d in draws], coarsen)
        image = _each(image, [d.inverted_gamma for d in draws], _inverted_gamma)
        image = _each(image, [d.gamma for d in draws], _gamma)
        for number, draw in enumerate(draws):
            if draw.mirror:
                image[number] = image[number].flip([axis + 1 for axis in draw.mirror])
                if label is not None:
                    label[number] = label[number].flip(list(draw.mirror))
        return image, label

    def _spatial(self, image: Tensor, label: Label, draws: Sequence[Draw]) -> tuple[Tensor, Label]:
        box: tuple[slice, ...] = tuple(
            slice((have - want) // 2, (have - want) // 2 + want)
            for have, want in zip(image.shape[2:], self.patch, strict=True)
        )
        new_image = image[(slice(None), slice(None), *box)].clone()
        new_label = None if label is None else label[(slice(None), *box)].clone()
        turned = {n: draw.linear for n, draw in enumerate(draws) if draw.linear is not None}
        if not turned:
            return new_image, new_label
        # Copies that block would make the processor wait for all that a GPU still has to do.
        linears = torch.from_numpy(np.stack(list(turned.values())))
        linears = linears.float().to(image.device, non_blocking=True)
        which = torch.tensor(list(turned)).to(image.device, non_blocking=True)
        grid = self._grid(linears, image.shape[2:], box)
        new_image[which] = functional.grid_sample(
            image[which], grid, mode="bilinear", padding_mode="border", align_corners=True
        )
        if label is not None and new_label is not None:
            new_label[which] = functional.grid_sample(
                label[which][:, None].float(),
                grid,
                mode="nearest",
                padding_mode="border",
                align_corners=True,
            )[:, 0].to(label.dtype)
        return new_image, new_label

    def _grid(self, linears: Tensor, input_size: Sequence[int], box: Sequence[slice]) -> Tensor:
        """Sampling positions in grid_sample's terms: x first, -1 and 1 at the outer centres.

        ``linears`` is (samples, axes, axes), on the device that the positions are computed on. No
        matrix product: how one is rounded depends on how many samples there are.
        """
        device, dimensions = linears.device, len(self.patch)
        offsets = [
            (torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2).reshape(
                [-1 if axis == place else 1 for place in range(dimensions)]
            )
            for axis, size in enumerate(self.patch)
        ]
        shape = [len(linears), *(1,) * dimensions]
        positions = []
        for axis, (part, size) in enumerate(zip(box, self.patch, strict=True)):
            moved = linears[:, axis, 0].reshape(shape) * offsets[0]
            for other in range(1, dimensions):
                moved = moved + linears[:, axis, other].reshape(shape) * offsets[other]
            centre, half = part.start + (size - 1) / 2, max(input_size[axis] - 1, 1) / 2
            positions.append((moved + centre) / half - 1)
        return torch.stack(positions[::-1], dim=-1)


def planned_augmentation(config: AugmentationConfig, patch: Sequence[int]) -> AugmentationConfig:
    """With what nnU-Net v2 lets the patch decide: whether to stay within planes, and the angles."""
    if len(patch) == 3 and max(patch) > 3 * patch[0]:
        config = dataclasses.replace(config, in_plane_only=True)
    if config.rotation_degrees is None:
        angle = planned_rotation(patch, in_plane_only=config.in_plane_only)
        config = dataclasses.replace(config, rotation_degrees=angle)
    return config


def planned_rotation(patch: Sequence[int], *, in_plane_only: bool) -> float:
    """The largest angle by nnU-Net v2's rules, in degrees, for a patch of so many voxels."""
    if len(patch) == 2:
        return 15.0 if max(patch) > 1.5 * min(patch) else 180.0
    return 180.0 if in_plane_only else 30.0


def _rotation(angles: np.ndarray, dimensions: int, in_plane_only: bool) -> np.ndarray:
    """Rotation by ``angles`` (radians, about z, y, x) of array-order coordinates."""

    def turn(i: int, j: int, angle: float) -> np.ndarray:
        matrix = np.eye(dimensions)
        matrix[i, i] = matrix[j, j] = math.cos(angle)
        matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
        return matrix

    in_plane = turn(dimensions - 2, dimensions - 1, angles[0])
    if dimensions == 2 or in_plane_only:
        return in_plane
    return in_plane @ turn(0, 2, angles[1]) @ turn(0, 1, angles[2])


def _evenly(share: float, between: Range) -> float:
    """The number that lies so far along a range."""
    low, high = between
    return low + share * (high - low)


def _about_one(share: float, between: Range) -> float:
    """A factor of a range such that half of them are below 1: nnU-Net's way (``BGContrast``)."""
    low, high = between
    if not low < 1 < high:
        return _evenly(share, between)
    return _evenly(2 * share, (low, 1.0)) if share < 0.5 else _evenly(2 * share - 1, (1.0, high))


def _each(image: Tensor, values: Sequence, function: Callable) -> Tensor:
    for number, value in enumerate(values):
        if value is not None:
            image[number] = function(image[number], value)
    return image


def _add_noise(x: Tensor, noise: tuple[float, int]) -> Tensor:
    # What nnU-Net calls the variance, it draws normal numbers with as their standard deviation.
    deviation, seed = noise
    generator = torch.Generator(x.device).manual_seed(seed)
    return x + deviation * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def where_drawn(
    image: Tensor, values: Sequence[Value | None], function: Callable[[Tensor, list[Value]], Tensor]
) -> Tensor:
    """``image`` with ``function`` of the samples that have a value, all at once; in place.

    ``image`` is (batch, channels, *spatial); ``function`` gets those samples and their values.
    """
    which = [number for number, value in enumerate(values) if value is not None]
    if which:
        # Copies that block would make the processor wait for all that a GPU still has to do.
        places = torch.tensor(which).to(image.device, non_blocking=True)
        image[places] = function(image[places], [value for value in values if value is not None])
    return image


def gaussian_blur(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Samples under a Gaussian of so many voxels each, cut off at four of it; edges are held.

    ``image`` is float (batch, channels, *spatial); a sample's result does not depend on the others.
    """
    # Sums of shifted copies. torch's convolutions take several times as long for one channel, and
    # one kernel a sample.
    radius = max(_reach(sigma) for sigma in sigmas)
    offsets = np.abs(np.arange(radius + 1))
    kernels = np.exp(-0.5 * (offsets / np.asarray(sigmas, float)[:, None]) ** 2)
    kernels *= offsets <= np.array([_reach(sigma) for sigma in sigmas])[:, None]
    kernels /= 2 * kernels.sum(1, keepdims=True) - kernels[:, :1]
    shape = [radius + 1, -1, *[1] * (image.ndim - 1)]
    weights = torch.from_numpy(np.ascontiguousarray(kernels.T, np.float32))
    weights = weights.to(image.device, non_blocking=True).reshape(shape)
    for axis in range(2, image.ndim):
        length = image.shape[axis]
        widths = [0] * (2 * image.ndim - 4)
        first = 2 * (image.ndim - 1 - axis)
        widths[first : first + 2] = radius, radius
        padded = functional.pad(image, widths, mode="replicate")
        image = padded.narrow(axis, radius, length) * weights[0]
        for offset in range(1, radius + 1):
            image.addcmul_(padded.narrow(axis, radius - offset, length), weights[offset])
            image.addcmul_(padded.narrow(axis, radius + offset, length), weights[offset])
    return image


def _reach(sigma: float) -> int:
    return int(4 * sigma + 0.5)


def _contrast(x: Tensor, factor: float) -> Tensor:
    axes = tuple(range(1, x.ndim))
    mean = x.mean(dim=axes, keepdim=True)
    low, high = x.amin(dim=axes, keepdim=True), x.amax(dim=axes, keepdim=True)
    return torch.minimum(torch.maximum((x - mean) * factor + mean, low), high)


def _low_resolution(x: Tensor, share: float, *, fine_axes: int) -> Tensor:
    """A sample with a share of its voxels along each axis but the first ``fine_axes``."""
    size = x.shape[1:]
    small = [*size[:fine_axes], *(max(1, round(length * share)) for length in size[fine_axes:])]
    coarse = functional.interpolate(x[None], size=small, mode="nearest-exact")
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return functional.interpolate(coarse, size=size, mode=mode, align_corners=False)[0]


def _gamma(x: Tensor, exponent: float) -> Tensor:
    axes = tuple(range(1, x.ndim))
    mean, std = x.mean(dim=axes, keepdim=True), x.std(dim=axes, keepdim=True)
    low = x.amin(dim=axes, keepdim=True)
    extent = (x.amax(dim=axes, keepdim=True) - low).clamp(min=1e-7)
    x = ((x - low) / extent) ** exponent * extent + low
    new_std = x.std(dim=axes, keepdim=True).clamp(min=1e-7)
    return (x - x.mean(dim=axes, keepdim=True)) * (std / new_std) + mean


def _inverted_gamma(x: Tensor, exponent: float) -> Tensor:
    return -_gamma(-x, exponent)
