"""Convolutions with random weights, which change appearance and keep shapes: GIN and RandConv."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as functional
from torch import Tensor

from covidseg.core.errors import ConfigError
from covidseg.engine.stream import Batch
from covidseg.generalization.draws import GIN, RANDCONV, each_sample, generator, on_device
from covidseg.generalization.numbers import check_numbers

# Slope of torch's leaky ReLU, which the published networks use.
_SLOPE = 0.01


def _require_odd(sizes: Sequence[int], method: str) -> None:
    if not sizes or any(size < 1 or size % 2 == 0 for size in sizes):
        raise ConfigError(
            f"generalization.{method}.kernel_sizes is {list(sizes)}",
            expected="odd sizes, at least one, so that a kernel has a middle",
        )


@dataclass(frozen=True)
class GinConfig:
    """Global intensity non-linear augmentation: a shallow random network over the image.

    Parameters
    ----------
    layers
        Convolutions, the first and last between the image's channels and `channels`.
    channels
        Channels between them.
    kernel_sizes
        One is drawn for each layer.
    """

    layers: int = 4
    channels: int = 2
    kernel_sizes: tuple[int, ...] = (1, 3)

    def __post_init__(self) -> None:
        _require_odd(self.kernel_sizes, "gin")
        check_numbers(self, "gin", positive=["layers", "channels"])


@dataclass
class Layer:
    """One convolution: ``weight`` (out, in, *kernel), ``bias`` (out,), float32."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass
class Network:
    """What is done to one image: α·g(x) + (1 − α)·x, g the layers with leaky ReLU between."""

    layers: list[Layer]
    alpha: float


@dataclass(frozen=True)
class Gin:
    """GIN: x' = α·g(x) + (1 − α)·x, brought back to x's Frobenius norm; α ~ U(0, 1).

    Weights and biases are N(0, 1). Source: Ouyang et al., Causality-inspired single-source domain
    generalization for medical image segmentation, IEEE TMI 42 (2023), and its public code.
    """

    config: GinConfig = GinConfig()

    def draw(self, seed: int, channels: int, dimensions: int, version: int = 0) -> Network:
        """The network for the sample with this seed; ``version`` counts those of one sample."""
        rng = generator(seed, GIN, version)
        alpha = float(rng.random())
        widths = [channels, *[self.config.channels] * (self.config.layers - 1), channels]
        layers = []
        for entering, leaving in itertools.pairwise(widths):
            kernel = self.config.kernel_sizes[rng.integers(len(self.config.kernel_sizes))]
            weight = rng.standard_normal((leaving, entering, *[kernel] * dimensions), np.float32)
            layers.append(Layer(weight, rng.standard_normal(leaving, np.float32)))
        return Network(layers, alpha)

    def versions(self, image: Tensor, seeds: Sequence[int], version: int = 0) -> Tensor:
        """The batch's images through one random network each; shape and dtype stay.

        ``image`` is float32 (batch, channels, *spatial), 2D or 3D.
        """
        return self.several(image, seeds, [version])[0]

    def several(
        self, image: Tensor, seeds: Sequence[int], versions: Sequence[int]
    ) -> list[Tensor]:  # fmt: skip
        """The batch in each of these versions, as :meth:`versions` makes one."""
        shape = image.shape[1], image.ndim - 2
        networks = [self.draw(seed, *shape, version) for version in versions for seed in seeds]
        image = image.repeat(len(versions), *[1] * (image.ndim - 1))
        if image.is_cuda and image.ndim == 5:
            # A GPU's convolutions are quick enough where each has a volume to do.
            made = each_sample(image, lambda number: apply_gin(image[number], networks[number]))
        else:
            made = apply_gin_together(image, networks)
        return list(made.chunk(len(versions)))

    def __call__(self, batch: Batch) -> Batch:
        return {**batch, "image": self.versions(batch["image"], batch["seed"].tolist())}


def apply_gin_together(image: Tensor, networks: Sequence[Network]) -> Tensor:
    """:func:`apply_gin` of each sample (batch, channels, *spatial), in calls for all of them.

    Sums over shifted copies, whose rounding does not depend on how many samples there are. On a
    processor they take a half to a seventh of the time of torch's convolutions of so few channels
    in 3D, in planes the same; on a GPU planes one by one are less work than their calls.
    """
    seen = image
    for number in range(len(networks[0].layers)):
        seen = _convolved_together(seen, [network.layers[number] for network in networks])
        if number < len(networks[0].layers) - 1:
            seen = functional.leaky_relu_(seen, _SLOPE)
    shape = [-1, *[1] * (image.ndim - 1)]
    alpha = on_device(np.array([one.alpha for one in networks], np.float32), image).reshape(shape)
    mixed = alpha * seen + (1 - alpha) * image
    norms = (one.flatten(1).norm(dim=1).reshape(shape) for one in (image, mixed))
    return mixed * (next(norms) / (next(norms) + 1e-5))


def _convolved_together(image: Tensor, layers: Sequence[Layer]) -> Tensor:
    """A convolution a sample: the middle of all kernels, then the rest of those that have more."""
    sizes = np.array([layer.weight.shape[-1] for layer in layers])
    axes = image.ndim - 2
    middles = [
        layer.weight[(..., *[size // 2] * axes)] for layer, size in zip(layers, sizes, strict=True)
    ]
    made = on_device(np.stack([layer.bias for layer in layers]), image)
    made = made.reshape(*made.shape, *[1] * axes).repeat(1, 1, *image.shape[2:])
    for channel, tap in enumerate(_taps(np.stack(middles, -1), image)):
        made.addcmul_(image[:, channel : channel + 1], tap)
    for size in np.unique(sizes[sizes > 1]):
        chosen = np.flatnonzero(sizes == size).tolist()
        which = on_device(chosen, image)
        padded = functional.pad(image[which], [int(size) // 2] * (2 * axes))
        sums = made[which]
        weights = np.stack([layers[number].weight for number in chosen], -1)
        places = itertools.product(range(image.shape[1]), *[range(size)] * axes)
        for tap, (channel, *start) in zip(
            _taps(weights.reshape(len(weights), -1, len(chosen)), image), places, strict=True
        ):
            if any(first != size // 2 for first in start):
                seen = padded[:, channel : channel + 1]
                for axis, first in enumerate(start, start=2):
                    seen = seen.narrow(axis, first, image.shape[axis])
                sums.addcmul_(seen, tap)
        made[which] = sums
    return made


def _taps(weights: np.ndarray, image: Tensor) -> Tensor:
    """(out, taps, batch) as (taps, batch, out, 1, ...), on the device of ``image``."""
    taps = np.ascontiguousarray(weights.transpose(1, 2, 0))
    return on_device(taps, image).reshape(*taps.shape, *[1] * (image.ndim - 2))


def apply_gin(image: Tensor, network: Network) -> Tensor:
    """``image`` (channels, *spatial) through ``network``, at its own Frobenius norm."""
    seen = image
    for number, layer in enumerate(network.layers):
        seen = _convolved(seen, layer)
        if number < len(network.layers) - 1:
            seen = functional.leaky_relu(seen, _SLOPE)
    mixed = network.alpha * seen + (1 - network.alpha) * image
    return mixed * (image.norm() / (mixed.norm() + 1e-5))


def _convolved(image: Tensor, layer: Layer) -> Tensor:
    weight, bias = on_device(layer.weight, image), on_device(layer.bias, image)
    convolve = functional.conv3d if image.ndim == 4 else functional.conv2d
    return convolve(image[None], weight, bias, padding=weight.shape[-1] // 2)[0]


@dataclass(frozen=True)
class RandConvConfig:
    """One random convolution, mixed with the image; the paper's RC-mix with kernels 1 to 7.

    Parameters
    ----------
    kernel_sizes
        One is drawn for each image.
    p_identity
        Share of the images that stay as they are.
    mix
        Mix with the image by a weight drawn from U(0, 1); otherwise the convolution alone.
    consistency_weight
        Weight of the divergences of three versions' predictions to their mean; 0 for one version.
    """

    kernel_sizes: tuple[int, ...] = (1, 3, 5, 7)
    p_identity: float = 0.5
    mix: bool = True
    consistency_weight: float = 10.0

    def __post_init__(self) -> None:
        _require_odd(self.kernel_sizes, "randconv")
        check_numbers(self, "randconv", shares=["p_identity"], not_negative=["consistency_weight"])


@dataclass(frozen=True)
class RandConv:
    """RandConv: a convolution with weights N(0, 1 / fan-in) (He's, of gain 1), without bias.

    Source: Xu et al., Robust and generalizable visual representation learning via random
    convolutions, ICLR 2021, and its public code.
    """

    config: RandConvConfig = RandConvConfig()

    def draw(self, seed: int, channels: int, dimensions: int, version: int = 0) -> Network | None:
        """The convolution for the sample with this seed, or None where the image stays."""
        rng = generator(seed, RANDCONV, version)
        stays, alpha = rng.random() < self.config.p_identity, float(rng.random())
        kernel = self.config.kernel_sizes[rng.integers(len(self.config.kernel_sizes))]
        fan_in = channels * kernel**dimensions
        weight = rng.standard_normal((channels, channels, *[kernel] * dimensions), np.float32)
        layer = Layer(weight / np.float32(fan_in**0.5), np.zeros(channels, np.float32))
        return None if stays else Network([layer], alpha if self.config.mix else 1.0)

    def versions(self, image: Tensor, seeds: Sequence[int], version: int = 0) -> Tensor:
        """The batch's images, each through its convolution; as :meth:`Gin.versions`."""
        shape = image.shape[1], image.ndim - 2

        def one(number: int) -> Tensor:
            network = self.draw(seeds[number], *shape, version)
            if network is None:
                return image[number]
            seen = _convolved(image[number], network.layers[0])
            return network.alpha * seen + (1 - network.alpha) * image[number]

        return each_sample(image, one)

    def __call__(self, batch: Batch) -> Batch:
        return {**batch, "image": self.versions(batch["image"], batch["seed"].tolist())}
