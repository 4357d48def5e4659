"""Batch normalisation adapted to each scan while it is predicted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from covidseg.core.errors import ConfigError
from covidseg.generalization.numbers import check_numbers
from covidseg.imaging.volume import Volume
from covidseg.inference.predictor import Predictor
from covidseg.inference.restore import restore
from covidseg.registry.cases import HU, Intensity


@dataclass(frozen=True)
class AdaptationConfig:
    """Batch normalisation's statistics from the scan that is predicted.

    Parameters
    ----------
    prior
        Windows that the training statistics count for beside the scan's own: with n windows the
        statistics used are (prior·training + n·scan) / (prior + n). 0 takes the scan's alone.
    """

    prior: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "batch_norm", not_negative=["prior"])


def normalisations(network: nn.Module) -> list[_BatchNorm]:
    """The batch normalisation layers of a network that keep statistics.

    Raises
    ------
    ConfigError
        It has none.
    """
    found = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not found:
        raise ConfigError(
            "the network has no batch normalisation whose statistics could be adapted",
            remedy="train with network.norm batch; instance normalisation takes its statistics "
            "from each scan anyhow",
        )
    return found


@contextlib.contextmanager
def adapted(
    network: nn.Module, windows: Sequence[Tensor] | Iterator[Tensor], prior: float = 0.0
) -> Iterator[None]:
    """Give ``network`` the statistics of ``windows`` for as long as the context lasts.

    Parameters
    ----------
    windows
        Batches (batch, channels, *spatial) on the network's device. Within a batch the layers
        normalise by the batch's own statistics, so that deep layers see what they will see; mean
        and variance are then taken over all batches as one.
    prior
        See `AdaptationConfig`.

    Source: Li et al., Adaptive batch normalization, Pattern Recognition 80 (2018); the prior:
    Schneider et al., Improving robustness against common corruptions, NeurIPS 2020.
    """
    layers = normalisations(network)
    before = [{k: v.clone() for k, v in layer.state_dict().items()} for layer in layers]
    modes = {module: module.training for module in network.modules()}
    sums = [_Sums() for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(lambda _m, inputs, one=one: one.add(inputs[0]))
        for layer, one in zip(layers, sums, strict=True)
    ]
    try:
        network.eval()
        for layer in layers:
            layer.train()
        count = 0
        with torch.no_grad():
            for batch in windows:
                network(batch)
                count += len(batch)
        for hook in hooks:
            hook.remove()
        for layer, one, state in zip(layers, sums, before, strict=True):
            layer.load_state_dict(state)
            if count:
                _set(layer, *one.mean_and_variance(), share=count / (prior + count))
        network.eval()
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, state in zip(layers, before, strict=True):
            layer.load_state_dict(state)
        for module, mode in modes.items():
            module.training = mode


class _Sums:
    """Number, sum and sum of squares of a layer's inputs, by channel."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Tensor | None = None
        self.second: Tensor | None = None

    def add(self, x: Tensor) -> None:
        values = x.detach().movedim(1, 0).flatten(1).double()
        first, second = values.sum(1), values.square().sum(1)
        self.count += values.shape[1]
        self.first = first if self.first is None else self.first + first
        self.second = second if self.second is None else self.second + second

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        assert self.first is not None
        assert self.second is not None
        mean = self.first / self.count
        return mean, (self.second / self.count - mean.square()).clamp_min(0)


def _set(layer: _BatchNorm, mean: Tensor, variance: Tensor, *, share: float) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.lerp_(mean.to(layer.running_mean), share)
    layer.running_var.lerp_(variance.to(layer.running_var), share)


@dataclass(frozen=True, eq=False)
class AdaptedPredictor:
    """A predictor whose networks' batch normalisation follows each scan.

    Predicts like the predictor it is made of, after one pass over the scan for the statistics.
    Without a label and without a gradient: entropy minimisation, which needs one, is unstable on
    single scans.
    """

    predictor: Predictor
    config: AdaptationConfig = AdaptationConfig()

    def __post_init__(self) -> None:
        for network in self.predictor.networks:
            normalisations(network)

    def predict(self, volume: Volume, intensity: Intensity = HU) -> Volume:
        """Segment a scan; see `covidseg.inference.predictor.Predictor.predict`."""
        own = self.predictor
        prepared = own.preprocessing.image(volume, intensity)
        windows = _windows(own, torch.from_numpy(prepared.image)[None])
        with contextlib.ExitStack() as held:
            for network in own.networks:
                held.enter_context(adapted(network, windows, self.config.prior))
            return own.finished(restore(own.slabs(prepared), prepared), volume, intensity)


def _windows(predictor: Predictor, image: Tensor) -> list[Tensor]:
    """The windows that the prediction will see, on the device; of those of one value (air beyond
    the field of view) one each.
    """
    kept: list[Tensor] = []

    def keep(windows: Tensor) -> Tensor:
        if predictor.dimensions == 2:
            windows = windows.squeeze(2)
        kept.append(windows)
        # An answer has to be given; it is thrown away.
        return torch.zeros(len(windows), 1, *predictor.sliding.window, device=windows.device)

    for _ in predictor.sliding.slabs(
        image, keep, pad_value=predictor.preprocessing.air, device=predictor.device
    ):
        pass
    return kept
