"""A network in two halves: encoder and decoder, for methods that work on what lies between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from covidseg.core.errors import ConfigError


def encode(network: nn.Module, image: Tensor) -> list[Tensor]:
    """The encoder's feature maps, from the highest resolution to the lowest.

    ``image`` ``(B, C, *spatial)``. Networks of segmentation-models-pytorch have the image itself as
    the first of them, which most of their decoders leave out.

    Raises
    ------
    ConfigError
        The network is not made of an encoder and a decoder.
    """
    features = list(_half(network, "encoder")(image))
    if not all(isinstance(feature, Tensor) for feature in features):
        raise _not_in_halves(network, "encoder that returns feature maps alone")
    return features


def decode(network: nn.Module, features: Sequence[Tensor]) -> Any:
    """What ``network`` returns for an image with these features.

    ``decode(network, encode(network, image))`` is ``network(image)``: logits, or in training mode
    with deep supervision a list of them, the highest resolution first.
    """
    outputs = _half(network, "decoder")(list(features))
    head = getattr(network, "segmentation_head", None)
    if head is not None:
        return head(outputs)
    return outputs[0] if isinstance(outputs, list) and not network.training else outputs


def drop_channels(
    features: Sequence[Tensor], share: float, seeds: Sequence[int], chosen: slice
) -> list[Tensor]:
    """Zero whole channels of some samples' feature maps and scale up the others, as ``Dropout2d``.

    Parameters
    ----------
    features
        Each ``(B, C, *spatial)``, C of its own; they stay as they are.
    share
        Probability that a channel is dropped, below 1; the others are divided by 1 − ``share``.
    seeds
        One number for each chosen sample: which of its channels are dropped is a function of it.
    chosen
        The samples, consecutive ones of the batch.
    """
    widths = [feature.shape[1] for feature in features]
    drawn = torch.stack(
        [torch.rand(sum(widths), generator=torch.Generator().manual_seed(s)) for s in seeds]
    )
    factors = (drawn >= share).float() / (1 - share)
    result = []
    for feature, factor in zip(features, factors.split(widths, dim=1), strict=True):
        whole = torch.ones(feature.shape[:2])
        whole[chosen] = factor
        shape = [*whole.shape, *[1] * (feature.ndim - 2)]
        result.append(feature * whole.view(shape).to(feature, non_blocking=True))
    return result


def _half(network: nn.Module, name: str) -> Callable:
    half = getattr(network, name, None)
    if not isinstance(half, nn.Module):
        raise _not_in_halves(network, f"{name} of its own")
    return half


def _not_in_halves(network: nn.Module, lacking: str) -> ConfigError:
    return ConfigError(
        f"a network of class {type(network).__name__} has no {lacking}",
        expected="a U-Net of the plain or residual family or of segmentation-models-pytorch",
        remedy="choose another network, or a method that does not perturb features",
    )
