"""MixStyle: the statistics of features mixed between samples while a network is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from covidseg.core.errors import ConfigError
from covidseg.engine.distributed import process_count, sum_over_processes
from covidseg.engine.losses import DiceCrossEntropy
from covidseg.engine.method import Supervised
from covidseg.engine.stream import Batch
from covidseg.generalization.draws import MIXSTYLE, generator
from covidseg.generalization.numbers import check_numbers


@dataclass(frozen=True)
class MixStyleConfig:
    """Mixing of feature statistics.

    Parameters
    ----------
    p
        Share of the batches that are mixed.
    alpha
        Of the Beta distribution that a sample's weight is drawn from.
    stages
        Encoder stages after which features are mixed, 0 the first.
    """

    p: float = 0.5
    alpha: float = 0.1
    stages: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        check_numbers(self, "mixstyle", shares=["p"], positive=["alpha"], not_negative=["stages"])


@dataclass
class Mixing:
    """How one batch is mixed, over all processes: every sample's partner and own weight."""

    partners: np.ndarray
    weights: np.ndarray


def draw_mixing(seeds: Sequence[int], config: MixStyleConfig, place: int) -> Mixing | None:
    """How the batch of samples with these seeds is mixed at one place, or None where it is not.

    A function of the set of seeds, in the order of the batch over all processes.
    """
    of_batch = generator(min(seeds), MIXSTYLE, place)
    if of_batch.random() >= config.p:
        return None
    partners = of_batch.permutation(len(seeds))
    weights = [generator(seed, MIXSTYLE, 100 + place).beta(config.alpha, config.alpha)
               for seed in seeds]  # fmt: skip
    return Mixing(partners, np.array(weights, np.float32))


def mix_statistics(
    features: Tensor, mean: Tensor, std: Tensor, weights: Tensor, eps: float = 1e-6
) -> Tensor:
    """Features with mixed statistics: σ'·(x − μ(x)) / σ(x) + μ', (batch, channels, *spatial).

    μ' = w·μ(x) + (1 − w)·``mean`` and likewise σ'; ``mean`` and ``std`` (batch, channels) are the
    partners', ``weights`` (batch,). No gradient flows through statistics.
    """
    own_mean, own_std = statistics(features, eps)
    shape = [*own_mean.shape, *[1] * (features.ndim - 2)]
    w = weights[:, None]
    new_mean, new_std = w * own_mean + (1 - w) * mean, w * own_std + (1 - w) * std
    ratio = (new_std / own_std).reshape(shape).to(features.dtype)
    centred = features - own_mean.reshape(shape).to(features.dtype)
    return centred * ratio + new_mean.reshape(shape).to(features.dtype)


def statistics(features: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each sample's channels over space, (batch, channels)."""
    flat = features.detach().float().flatten(2)
    return flat.mean(2), (flat.var(2, correction=0) + eps).sqrt()


class MixStyle(Supervised):
    """Supervised learning with mixed feature statistics after some encoder stages.

    A sample's partner is one of the batch of all processes, so that the number of processes does
    not matter. Beyond training the network is untouched. Source: Zhou et al., Domain
    generalization with MixStyle, ICLR 2021, and its public code.

    Raises
    ------
    ConfigError
        The network has no encoder stages of that number.
    """

    # Compiled networks keep to the hooks they were compiled with.
    compiles = False

    def __init__(self, network: nn.Module, loss: DiceCrossEntropy, config: MixStyleConfig) -> None:
        super().__init__(network, loss)
        self.config = config
        stages = getattr(getattr(network, "encoder", None), "stages", ())
        if not config.stages or max(config.stages, default=0) >= len(stages):
            raise ConfigError(
                f"mixstyle.stages {config.stages} is not among the encoder's {len(stages)} stages",
                remedy="set network.family to plain or residual, or name other stages",
            )
        self.stages = [stages[number] for number in config.stages]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        seeds = batch["seed"]
        if process_count() > 1:
            # Processes exchange what is on their device.
            seeds = _everyones(seeds.to(batch["image"].device))
        with self._mixing(seeds.tolist()):
            return super().step(batch)

    @contextlib.contextmanager
    def _mixing(self, seeds: Sequence[int]) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            for place, stage in enumerate(self.stages):
                mixing = draw_mixing(seeds, self.config, place)
                if mixing is not None:

                    def mixed(_module, _inputs, features: Tensor, mixing=mixing) -> Tensor:
                        return _mixed(features, mixing)

                    handle = stage.register_forward_hook(mixed)
                    held.callback(handle.remove)
            yield


def _mixed(features: Tensor, mixing: Mixing) -> Tensor:
    mean, std = statistics(features)
    means, stds = _everyones(mean), _everyones(std)
    first = torch.distributed.get_rank() * len(features) if process_count() > 1 else 0
    mine = slice(first, first + len(features))
    partners = torch.from_numpy(mixing.partners[mine]).to(features.device, non_blocking=True)
    weights = torch.from_numpy(mixing.weights[mine]).to(features.device, non_blocking=True)
    return mix_statistics(features, means[partners], stds[partners], weights)


def _everyones(tensor: Tensor) -> Tensor:
    """The tensors of all processes, one after the other along the first axis; no gradient."""
    processes = process_count()
    if processes == 1:
        return tensor
    whole = tensor.new_zeros((processes, *tensor.shape))
    whole[torch.distributed.get_rank()] = tensor
    return sum_over_processes(whole).flatten(0, 1)
