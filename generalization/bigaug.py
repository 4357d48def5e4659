"""BigAug: nnU-Net's place taken by a stack of strong transforms, each with probability one half."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from covidseg.engine.augmentation import AugmentationConfig, gaussian_blur
from covidseg.engine.stream import Batch
from covidseg.generalization.draws import BIGAUG, device_noise, each_sample, generator
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
        image = each_sample(image, lambda number: self._intensity(image[number], stacks[number]))
        label = label.clone()
        for number, stack in enumerate(stacks):
            if stack.deformation is not None:
                image[number], label[number] = deform(
                    image[number], label[number], stack.deformation
                )
        return {**batch, "image": image, "label": label}

    def _intensity(self, x: Tensor, stack: Stack) -> Tensor:
        extent = self.high - self.low
        if stack.sharpen is not None:
            sigma, strength = stack.sharpen
            blurred = gaussian_blur(x, sigma)
            x = blurred + strength * (blurred - gaussian_blur(blurred, sigma))
        if stack.blur is not None:
            x = gaussian_blur(x, stack.blur)
        if stack.noise is not None:
            x = x + stack.noise * device_noise(x.shape, stack.rng, x)
        if stack.brightness is not None:
            x = x + stack.brightness * extent
        if stack.gamma is not None:
            x = ((x - self.low) / extent).clamp(0, 1) ** stack.gamma * extent + self.low
        if stack.perturbation is not None:
            scale, shift = stack.perturbation
            x = (x - self.low) * (1 + scale) + self.low + shift * extent
        return x.clamp(self.low, self.high)


def deform(image: Tensor, label: Tensor, control: np.ndarray) -> tuple[Tensor, Tensor]:
    """Image and label under a smooth displacement; what comes from beyond the edge is held.

    Parameters
    ----------
    image
        float32 (channels, *spatial).
    label
        Integer (*spatial).
    control
        Control points of the displacement, (axes, *points), as shares of the image's size.
    """
    size = image.shape[1:]
    shift = spline_field(torch.from_numpy(control).to(image.device, non_blocking=True), size)
    axes = [torch.linspace(-1, 1, n, device=image.device) for n in size]
    still = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    # grid_sample counts from -1 to 1 over the image and names x first.
    grid = (still + 2 * shift).flip(0).movedim(0, -1)[None]
    moved = functional.grid_sample(
        image[None], grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    classes = functional.grid_sample(
        label[None, None].float(), grid, mode="nearest", padding_mode="border", align_corners=True
    )
    return moved[0], classes[0, 0].to(label.dtype)
