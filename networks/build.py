"""Building the network that a configuration names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from covidseg.networks.config import NetworkConfig


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
        from covidseg.networks.smp2d import build_smp

        return build_smp(config)
    from covidseg.networks.nnunet import build_nnunet

    return build_nnunet(config)


@contextlib.contextmanager
def evaluation_mode(*networks: nn.Module) -> Iterator[None]:
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
