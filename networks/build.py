"""Building the network that a configuration names, with its first weights."""

from __future__ import annotations

import contextlib
import difflib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from covidseg.core.errors import ConfigError, UnreadableFileError
from covidseg.networks.config import NetworkConfig

_WEIGHT_FILE_ENDINGS = {".safetensors", ".pth", ".pt", ".bin"}


def build_network(config: NetworkConfig) -> nn.Module:
    """Build a U-Net.

    The network maps ``(batch, in_channels, *spatial)`` to logits ``(batch, classes, *spatial)``.
    With deep supervision it returns, while in training mode, a list of logits, the highest
    resolution first; in evaluation mode always the one tensor. Parameters that no output depends on
    (the heads of unused decoder stages, left-over layers of some encoders) have ``requires_grad``
    false, so that they take no part in optimisation and distributed training does not wait for
    their gradients.

    Raises
    ------
    ConfigError
        Contradicting or missing sizes, an unknown encoder, encoder weights that cannot be fetched
        or do not fit.
    UnreadableFileError
        A local weight file that is absent or cannot be read without executing code.
    """
    config.check()
    if config.family == "smp":
        network = _build_smp(config)
        _freeze_unused(network, config)
        return network
    return _build_nnunet(config)


class _FirstOutputInEvaluation:
    """Mixed into a U-Net with deep supervision: one output when it is not being trained."""

    def forward(self, image: torch.Tensor):
        outputs = super().forward(image)  # type: ignore[misc]
        return outputs if self.training else outputs[0]  # type: ignore[attr-defined]


def _build_nnunet(config: NetworkConfig) -> nn.Module:
    from dynamic_network_architectures.architectures.unet import (
        PlainConvUNet,
        ResidualEncoderUNet,
    )

    class SupervisedPlainConvUNet(_FirstOutputInEvaluation, PlainConvUNet):
        pass

    class SupervisedResidualEncoderUNet(_FirstOutputInEvaluation, ResidualEncoderUNet):
        pass

    assert config.strides is not None
    stages = len(config.strides)
    plain = config.family == "plain"
    most = 512 if config.dimensions == 2 else 320
    features = config.features or tuple(min(most, 32 * 2**stage) for stage in range(stages))
    blocks = config.encoder_blocks or (
        (2,) * stages if plain else ((1, 3, 4) + (6,) * stages)[:stages]
    )
    decoder_blocks = config.decoder_blocks or ((2,) if plain else (1,)) * (stages - 1)
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[config.dimensions]
    norms: dict[tuple[str, int], type[nn.Module]] = {
        ("instance", 2): nn.InstanceNorm2d,
        ("instance", 3): nn.InstanceNorm3d,
        ("batch", 2): nn.BatchNorm2d,
        ("batch", 3): nn.BatchNorm3d,
    }
    arguments: dict[str, Any] = {
        "input_channels": config.in_channels,
        "n_stages": stages,
        "features_per_stage": features,
        "conv_op": convolution,
        "kernel_sizes": config.kernel_sizes or ((3,) * config.dimensions,) * stages,
        "strides": config.strides,
        "num_classes": config.classes,
        "n_conv_per_stage_decoder": decoder_blocks,
        "conv_bias": True,
        "norm_op": norms[config.norm, config.dimensions],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"negative_slope": 0.01, "inplace": True},
        "deep_supervision": config.deep_supervision,
    }
    if plain:
        cls = SupervisedPlainConvUNet if config.deep_supervision else PlainConvUNet
        network = cls(n_conv_per_stage=blocks, **arguments)
    else:
        cls = SupervisedResidualEncoderUNet if config.deep_supervision else ResidualEncoderUNet
        network = cls(n_blocks_per_stage=blocks, **arguments)
    if config.decoder_kernel_sizes is not None:
        _rebuild_decoder(network, config.decoder_kernel_sizes)
    network.apply(network.initialize)
    # The lowest output's weight is zero (see engine.losses.deep_supervision_weights); without deep
    # supervision only the highest output exists.
    heads = network.decoder.seg_layers
    unused = heads[:1] if config.deep_supervision and len(heads) > 1 else heads[:-1]
    unused.requires_grad_(False)
    return network


def _rebuild_decoder(network: nn.Module, kernel_sizes: tuple[tuple[int, ...], ...]) -> None:
    """Give the decoder kernels of its own: the library always mirrors the encoder's."""
    from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder

    encoder, decoder = network.encoder, network.decoder
    mirrored = encoder.kernel_sizes
    encoder.kernel_sizes = [*kernel_sizes, mirrored[-1]]
    network.decoder = UNetDecoder(
        encoder,
        decoder.num_classes,
        [len(stage.convs) for stage in decoder.stages],
        decoder.deep_supervision,
    )
    encoder.kernel_sizes = mirrored


def _build_smp(config: NetworkConfig) -> nn.Module:
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit's, from within the library
            network = classes[config.architecture](
                encoder_name=config.encoder,
                encoder_weights=None if local is not None else config.encoder_weights,
                in_channels=config.in_channels,
                classes=config.classes,
            )
    except KeyError as fault:
        raise _smp_name_error(config, fault) from fault
    except Exception as fault:
        if config.encoder_weights is None or local is not None:
            raise ConfigError(
                f"segmentation-models-pytorch cannot build {config.architecture} with encoder "
                f"{config.encoder} ({type(fault).__name__}: {_first_line(fault)})",
                remedy="choose another network.encoder",
            ) from fault
        raise ConfigError(
            f"the weights {config.encoder_weights!r} of encoder {config.encoder} could not be "
            f"fetched from their hub ({type(fault).__name__}: {_first_line(fault)})",
            remedy="set network.encoder_weights to null to start from random weights, or to the "
            "path of a weight file that you fetched elsewhere",
        ) from fault
    if local is not None:
        _load_encoder(network.encoder, read_weights(local), local)
    return network


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
        f"encoder {config.encoder} has no weights {config.encoder_weights!r}"
        f" ({_first_line(fault)})",
        remedy="set network.encoder_weights to one of those, to null, or to a local weight file",
    )


def _first_line(fault: BaseException) -> str:
    return str(fault).strip().split("\n")[0][:200]


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from .safetensors, or from a torch file with ``weights_only=True``.

    A torch file may hold the state dict itself or a mapping with it under ``state_dict``; prefixes
    ``module.`` and ``_orig_mod.`` are taken off.

    Raises
    ------
    UnreadableFileError
        No such file, not of that format, or a file that would need to execute code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UnreadableFileError("no such weight file", path=path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:
        raise UnreadableFileError(
            f"cannot be read as weights ({type(fault).__name__}: {_first_line(fault)})",
            path=path,
            expected="tensors alone, as .safetensors or as torch.save writes a state dict",
        ) from fault
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(torch.is_tensor(v) for v in found.values()):
        raise UnreadableFileError("is not a state dict", path=path, expected="names and tensors")
    return {name.removeprefix("module.").removeprefix("_orig_mod."): v for name, v in found.items()}


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
    with torch.random.fork_rng(devices=[]):
        image = torch.zeros(1, config.in_channels, *[64] * config.dimensions)
        gradients = torch.autograd.grad(
            network(image).sum(),
            list(network.parameters()),
            allow_unused=True,
        )
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
    network.train(was_training)


@contextlib.contextmanager
def evaluation_mode(*networks: nn.Module):
    """Within the block the networks are in evaluation mode; afterwards as they were."""
    before = [[(m, m.training) for m in network.modules()] for network in networks]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for modules in before:
            for module, training in modules:
                module.training = training
