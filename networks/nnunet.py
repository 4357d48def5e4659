"""U-Nets of nnU-Net's family, by dynamic-network-architectures."""

from __future__ import annotations

from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn

from covidseg.networks.config import NetworkConfig
from covidseg.networks.instance_norm import InstanceNorm2d, InstanceNorm3d


class _FirstOutputInEvaluation:
    """Mixed into a U-Net with deep supervision: one output when it is not being trained."""

    def forward(self, image: torch.Tensor):
        outputs = super().forward(image)  # type: ignore[misc]
        return outputs if self.training else outputs[0]  # type: ignore[attr-defined]


class SupervisedPlainConvUNet(_FirstOutputInEvaluation, PlainConvUNet):
    """nnU-Net's plain U-Net with an output a decoder stage while it is trained."""


class SupervisedResidualEncoderUNet(_FirstOutputInEvaluation, ResidualEncoderUNet):
    """nnU-Net's residual-encoder U-Net with an output a decoder stage while it is trained."""


def build_nnunet(config: NetworkConfig) -> nn.Module:
    """Build a plain or residual-encoder U-Net of nnU-Net's family; see ``build_network``."""
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
        ("instance", 2): InstanceNorm2d,
        ("instance", 3): InstanceNorm3d,
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
        "num_classes": config.outputs,
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


def _rebuild_decoder(network: Any, kernel_sizes: tuple[tuple[int, ...], ...]) -> None:
    """Give the decoder kernels of its own: the library always mirrors the encoder's."""
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
