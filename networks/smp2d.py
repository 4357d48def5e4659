"""2D networks of segmentation-models-pytorch, any encoder of it."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.networks.config import NetworkConfig
from covidseg.networks.weights import first_line, read_weights

# Images of one of these edges every network takes: some pool them far down, others have one size.
_PROBED_EDGES = (64, 128, 224)
_WEIGHT_FILE_ENDINGS = {".safetensors", ".pth", ".pt", ".bin"}


def build_smp(config: NetworkConfig) -> nn.Module:
    """Build a 2D network of segmentation-models-pytorch; see ``build_network``."""
    import segmentation_models_pytorch as smp

    classes = {
        name: cls
        for name, cls in vars(smp).items()
        if isinstance(cls, type) and issubclass(cls, nn.Module)
    }
    if config.architecture not in classes:
        raise ConfigError(
            f"network.architecture {config.architecture!r} is not in segmentation-models-pytorch",
            expected="one of " + ", ".join(sorted(classes)),
        )
    local = _local_weights(config.encoder_weights)
    sizes: dict[str, object] = {}
    if config.decoder_channels is not None:
        # Networks without this setting would swallow it.
        if "decoder_channels" not in inspect.signature(classes[config.architecture]).parameters:
            raise ConfigError(
                f"network.decoder_channels with network.architecture {config.architecture}",
                expected="null: that network fixes its own sizes",
            )
        # Each stage undoes one of the encoder's: with fewer of them, the encoder ends sooner.
        sizes = {
            "decoder_channels": config.decoder_channels,
            "encoder_depth": len(config.decoder_channels),
        }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit's, from within the library
            network = classes[config.architecture](
                encoder_name=config.encoder,
                encoder_weights=None if local is not None else config.encoder_weights,
                in_channels=config.in_channels,
                classes=config.outputs,
                **sizes,
            )
    except KeyError as fault:
        raise _smp_name_error(config, fault) from fault
    except Exception as fault:
        if config.encoder_weights is None or local is not None:
            raise ConfigError(
                f"segmentation-models-pytorch cannot build {config.architecture} with encoder "
                f"{config.encoder} ({type(fault).__name__}: {first_line(fault)})",
                remedy="choose another network.encoder, or set network.decoder_channels to null",
            ) from fault
        raise ConfigError(
            f"the weights {config.encoder_weights!r} of encoder {config.encoder} could not be "
            f"fetched from their hub ({type(fault).__name__}: {first_line(fault)})",
            remedy="set network.encoder_weights to null to start from random weights, or to the "
            "path of a weight file that you fetched elsewhere",
        ) from fault
    if local is not None:
        _load_encoder(network.get_submodule("encoder"), read_weights(local), local)
    _freeze_unused(network, config)
    return network


def refuse_patch(config: NetworkConfig, size: Sequence[int]) -> None:
    """Raise ConfigError, in the library's words, where it cannot learn from patches of ``size``."""
    # A pass without numbers takes no time; but what it says holds only where one with them agrees.
    for device in ("meta", "cpu"):
        network = build_smp(dataclasses.replace(config, encoder_weights=None)).to(device)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                network(torch.zeros(2, config.in_channels, *size, device=device))
        except Exception as fault:
            refused = fault
        else:
            return
    raise ConfigError(
        f"{config.architecture} with encoder {config.encoder} takes no patch of {list(size)} "
        f"({type(refused).__name__}: {first_line(refused)})",
        remedy="choose another patch.size, a larger one perhaps, or another network.architecture",
    ) from refused


def _local_weights(encoder_weights: str | None) -> Path | None:
    if encoder_weights is None:
        return None
    path = Path(encoder_weights).expanduser()
    looks_local = path.suffix in _WEIGHT_FILE_ENDINGS or len(path.parts) > 1
    return path if looks_local or path.is_file() else None


def _smp_name_error(config: NetworkConfig, fault: KeyError) -> ConfigError:
    from segmentation_models_pytorch.encoders import encoders

    if config.encoder not in encoders and not config.encoder.startswith("tu-"):
        near = difflib.get_close_matches(config.encoder, encoders, n=3)
        return ConfigError(
            f"network.encoder {config.encoder!r} is not in segmentation-models-pytorch",
            expected=("perhaps " + " or ".join(near)) if near else "one of its encoders",
        )
    return ConfigError(
        f"encoder {config.encoder} has no weights {config.encoder_weights!r} ({first_line(fault)})",
        remedy="set network.encoder_weights to one of those, to null, or to a local weight file",
    )


def _load_encoder(encoder: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load an encoder's weights, also where a file has three input channels and we have another."""
    weights = {name.removeprefix("encoder."): value for name, value in weights.items()}
    own = encoder.state_dict()
    for name, value in own.items():
        given = weights.get(name)
        if given is None or given.shape == value.shape or given.ndim != value.ndim:
            continue
        if given.ndim == 4 and given.shape[0] == value.shape[0] and given.shape[1] == 3:
            # As the library does it: gray images see the sum of the three colours' filters.
            channels = value.shape[1]
            repeated = given.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
            weights[name] = given.sum(1, keepdim=True) if channels == 1 else repeated
    missing = [n for n in own if n not in weights and not n.endswith("num_batches_tracked")]
    wrong = [n for n in own if n in weights and weights[n].shape != own[n].shape]
    if missing or wrong:
        name = (missing or wrong)[0]
        raise ConfigError(
            f"the weights do not fit the encoder: {name} "
            + ("is missing" if missing else f"has shape {list(weights[name].shape)}"),
            path=path,
            expected=f"{list(own[name].shape)}, as network.encoder has it",
        )
    # Other tensors in the file (a classifier's last layer) have no place in a U-Net.
    encoder.load_state_dict({n: weights[n] for n in own if n in weights}, strict=False)


def _freeze_unused(network: nn.Module, config: NetworkConfig) -> None:
    """Turn off gradients of parameters that no output depends on (found by one small pass)."""
    was_training = network.training
    network.eval()
    for parameter, gradient in zip(
        network.parameters(), _gradients_of_a_pass(network, config), strict=True
    ):
        if gradient is None:
            parameter.requires_grad_(False)
    network.train(was_training)


def _gradients_of_a_pass(
    network: nn.Module, config: NetworkConfig
) -> Sequence[torch.Tensor | None]:
    refused: Exception | None = None
    for edge in _PROBED_EDGES:
        with torch.random.fork_rng(devices=[]):
            image = torch.zeros(1, config.in_channels, edge, edge)
            try:
                total = network(image).sum()
            # The library and the encoders' raise several kinds.
            except Exception as fault:
                refused = fault
                continue
            return torch.autograd.grad(total, list(network.parameters()), allow_unused=True)
    assert refused is not None
    raise ConfigError(
        f"{config.architecture} with encoder {config.encoder} takes no image of "
        f"{', '.join(map(str, _PROBED_EDGES))} pixels ({type(refused).__name__}: "
        f"{first_line(refused)})",
        remedy="choose another network.architecture or network.encoder",
    ) from refused
