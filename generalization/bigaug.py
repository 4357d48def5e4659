"""BigAug: nnU-Net's place taken by a stack of strong transforms, each with probability one half."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from covidseg.engine.augmentation import AugmentationConfig, gaussian_blur, where_drawn
from covidseg.engine.stream import Batch
from covidseg.generalization.draws import BIGAUG, device_noise, generator, on_device
from covidseg.generalization.numbers import check_numbers
from covidseg.generalization.splines import spline_field

Range = tuple[float, float]


@dataclass(frozen=True)
class BigAugConfig:
    """Nine stacked transforms: six of the intensity and three of the shape.

    Parameters
    ----------
    p
        Probability of each.
    sharpen_sigma, sharpen_strength
        Unsharp masking: blur in voxels, and how much of what it takes away is added.
    blur_sigma
        In voxels.
    noise_std
        In units of the network's input, whose standard deviation is about 1.
    brightness
        Shift, in units of the intensity range.
    gamma
        Exponent over the intensity range.
    perturbation
        Range of the relative scale's deviation from 1, and of a further shift.
    rotation_degrees, scale
        About each axis, and the zoom.
    deformation
        Standard deviation of a smooth displacement's control points, as a share of the patch.
    """

    p: float = 0.5
    sharpen_sigma: Range = (0.25, 1.5)
    sharpen_strength: Range = (10.0, 30.0)
    blur_sigma: Range = (0.25, 1.5)
    noise_std: Range = (0.1, 1.0)
    brightness: Range = (-0.1, 0.1)
    gamma: Range = (0.5, 4.5)
    perturbation: Range = (-0.1, 0.1)
    rotation_degrees: float = 20.0
    scale: Range = (0.4, 1.6)
    deformation: Range = (0.0, 0.03)

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "bigaug",
            shares=["p"],
            positive=["sharpen_sigma", "blur_sigma", "gamma", "scale"],
            not_negative=["sharpen_strength", "noise_std", "rotation_degrees", "deformation"],
            ranges=["sharpen_sigma", "sharpen_strength", "blur_sigma", "noise_std", "brightness",
                    "gamma", "perturbation", "scale", "deformation"],
        )  # fmt: skip


@dataclass
class Stack:
    """What happens to one sample; None where a transform does not happen."""

    sharpen: tuple[float, float] | None
    blur: float | None
    noise: float | None
    brightness: float | None
    gamma: float | None
    perturbation: tuple[float, float] | None
    deformation: np.ndarray | None
    rng: np.random.Generator


def spatial_augmentation(own: AugmentationConfig, config: BigAugConfig) -> AugmentationConfig:
    """nnU-Net's augmentation reduced to BigAug's rotation and scaling.

    Mirroring and what is said of planes stay as the recipe has them.
    """
    return dataclasses.replace(
        own,
        p_rotation=config.p,
        rotation_degrees=config.rotation_degrees,
        p_scale=config.p,
        scale=config.scale,
        p_noise=0,
        p_blur=0,
        p_brightness=0,
        p_contrast=0,
        p_low_resolution=0,
        p_inverted_gamma=0,
        p_gamma=0,
    )


@dataclass(frozen=True)
class BigAug:
    """Six intensity transforms and a deformation; rotation and scaling are the engine's.

    ``low`` and ``high`` bound the intensities of the network's input.

    Source: Zhang et al., Generalizing deep learning for medical image segmentation to unseen
    domains via deep stacked transformation, IEEE TMI 39 (2020). Its elastic deformation is a
    B-spline's here.
    """

    config: BigAugConfig
    low: float
    high: float

    def draw(self, seed: int, dimensions: int) -> Stack:
        """What happens to the sample with this seed."""
        rng, config = generator(seed, BIGAUG), self.config

        def maybe(*ranges: Range) -> list[float] | None:
            # All numbers are always drawn, so that one probability does not shift the others.
            happens, values = rng.random() < config.p, [float(rng.uniform(*r)) for r in ranges]
            return values if happens else None

        def one(between: Range) -> float | None:
            found = maybe(between)
            return None if found is None else found[0]

        sharpen = maybe(config.sharpen_sigma, config.sharpen_strength)
        blur, noise = one(config.blur_sigma), one(config.noise_std)
        brightness, gamma = one(config.brightness), one(config.gamma)
        perturbation = maybe(config.perturbation, config.perturbation)
        size = one(config.deformation)
        control = rng.standard_normal((dimensions, *[7] * dimensions), np.float32)
        return Stack(
            None if sharpen is None else (sharpen[0], sharpen[1]),
            blur,
            noise,
            brightness,
            gamma,
            None if perturbation is None else (perturbation[0], perturbation[1]),
            None if size is None else control * np.float32(size),
            rng,
        )

    def __call__(self, batch: Batch) -> Batch:
        image, label = batch["image"], batch["label"]
        stacks = [self.draw(seed, image.ndim - 2) for seed in batch["seed"].tolist()]
        image, label = self._intensity(image, stacks), label.clone()
        deformed = [n for n, stack in enumerate(stacks) if stack.deformation is not None]
        if deformed:
            which = on_device(deformed, image)
            controls = [stack.deformation for stack in stacks if stack.deformation is not None]
            image[which], label[which] = deform(image[which], label[which], np.stack(controls))
        return {**batch, "image": image, "label": label}

    def _intensity(self, image: Tensor, stacks: Sequence[Stack]) -> Tensor:
        """Samples (batch, channels, *spatial) with what was drawn for each but its deformation."""
        low, extent = self.low, self.high - self.low

        def sharpen(x: Tensor, values: list[tuple[float, float]]) -> Tensor:
            sigmas = [sigma for sigma, _ in values]
            blurred = gaussian_blur(x, sigmas)
            strength = _numbers([strength for _, strength in values], x)
            return blurred + strength * (blurred - gaussian_blur(blurred, sigmas))

        def perturb(x: Tensor, values: list[tuple[float, float]]) -> Tensor:
            scale, shift = (_numbers(numbers, x) for numbers in zip(*values, strict=True))
            return (x - low) * (1 + scale) + low + shift * extent

        def noise(x: Tensor, values: list[tuple[float, np.random.Generator]]) -> Tensor:
            drawn = torch.stack([device_noise(x.shape[1:], rng, x) for _, rng in values])
            return x + _numbers([std for std, _ in values], x) * drawn

        x = where_drawn(image.clone(), [stack.sharpen for stack in stacks], sharpen)
        x = where_drawn(x, [stack.blur for stack in stacks], gaussian_blur)
        noises = [None if one.noise is None else (one.noise, one.rng) for one in stacks]
        x = where_drawn(x, noises, noise)
        shifts = [stack.brightness for stack in stacks]
        x = where_drawn(x, shifts, lambda x, values: x + _numbers(values, x) * extent)
        x = where_drawn(
            x,
            [stack.gamma for stack in stacks],
            lambda x, v: ((x - low) / extent).clamp(0, 1) ** _numbers(v, x) * extent + low,
        )
        x = where_drawn(x, [stack.perturbation for stack in stacks], perturb)
        return x.clamp(low, self.high)


def _numbers(values: Sequence[float], like: Tensor) -> Tensor:
    """A number a sample, float32 (batch, 1, ...), to go with ``like``."""
    return on_device(np.array(values, np.float32), like).reshape(-1, *[1] * (like.ndim - 1))


def deform(image: Tensor, label: Tensor, controls: np.ndarray) -> tuple[Tensor, Tensor]:
    """Images and labels under smooth displacements; what comes from beyond the edge is held.

    Parameters
    ----------
    image
        float32 (batch, channels, *spatial).
    label
        Integer (batch, *spatial).
    controls
        Control points of the displacements, (batch, axes, *points), as shares of the image's size.
    """
    size = image.shape[2:]
    shift = spline_field(on_device(controls, image), size)
    axes = [torch.linspace(-1, 1, n, device=image.device) for n in size]
    still = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    # grid_sample counts from -1 to 1 over the image and names x first.
    grid = (still + 2 * shift).flip(1).movedim(1, -1)
    moved = functional.grid_sample(
        image, grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    classes = functional.grid_sample(
        label[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=True
    )
    return moved, classes[:, 0].to(label.dtype)
