"""What a network is, as a recipe says it: family, sizes, origin of its first weights."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from covidseg.core.errors import ConfigError
from covidseg.networks.planning import Plan, shallower

# What is planned where it is null.
PLANNED_SIZES = (
    "strides",
    "kernel_sizes",
    "decoder_kernel_sizes",
    "features",
    "encoder_blocks",
    "decoder_blocks",
)
# What names a network of segmentation-models-pytorch.
_OF_LIBRARY = ("architecture", "encoder", "encoder_weights")


@dataclass(frozen=True)
class NetworkConfig:
    """A U-Net. Sizes that are null are planned from the data's spacing and shape.

    Parameters
    ----------
    family
        `plain` and `residual` are nnU-Net's own (in 2D or 3D); `smp` is a 2D network of
        segmentation-models-pytorch.
    dimensions
        2 or 3.
    in_channels
        Channels of the image; 1 for CT.
    classes
        Channels of the output, background among them; null for as many as the labels need, two
        where none are known.
    deep_supervision
        While training, return one output a decoder stage, highest resolution first (`plain` and
        `residual` only).
    norm
        `instance` or `batch` normalisation (`plain` and `residual` only).
    strides
        One entry a stage, each with one number an axis, the first all ones.
    kernel_sizes
        One entry a stage, each with one number an axis.
    decoder_kernel_sizes
        One entry a decoder stage, highest resolution first, each with one number an axis; null for
        the encoder's of the same stage.
    features
        Channels of each stage; with fewer of them than stages are planned the network is as much
        shallower.
    encoder_blocks
        Convolutions (`plain`) or residual blocks (`residual`) of each stage.
    decoder_blocks
        Convolutions of each decoder stage, one fewer than there are stages.
    architecture
        Name of a network class of segmentation-models-pytorch (`smp` only).
    encoder
        Name of an encoder of segmentation-models-pytorch (`smp` only).
    decoder_channels
        Channels of each decoder stage, lowest resolution first (`smp` only); null for the
        library's, 256 to 16 in a U-Net, which suit large encoders. Four instead of five leave
        out the encoder's last stage.
    encoder_weights
        Null for random weights; the path of a local weight file (.safetensors, .pth, .pt); or a
        name that segmentation-models-pytorch knows, such as `imagenet`, fetched from its hub
        (`smp` only).
    """

    family: Literal["plain", "residual", "smp"] = "plain"
    dimensions: Literal[2, 3] = 3
    in_channels: int = 1
    classes: int | None = None
    deep_supervision: bool = False
    norm: Literal["instance", "batch"] = "instance"
    strides: tuple[tuple[int, ...], ...] | None = None
    kernel_sizes: tuple[tuple[int, ...], ...] | None = None
    decoder_kernel_sizes: tuple[tuple[int, ...], ...] | None = None
    features: tuple[int, ...] | None = None
    encoder_blocks: tuple[int, ...] | None = None
    decoder_blocks: tuple[int, ...] | None = None
    architecture: str = "Unet"
    encoder: str = "resnet34"
    decoder_channels: tuple[int, ...] | None = None
    encoder_weights: str | None = None

    @property
    def outputs(self) -> int:
        """Channels of the output, background among them."""
        return 2 if self.classes is None else self.classes

    @property
    def is_planned(self) -> bool:
        """Whether every size is known, so that the network can be built."""
        return self.family == "smp" or self.strides is not None

    def with_plan(self, plan: Plan) -> NetworkConfig:
        """This configuration with its null sizes taken from ``plan``; itself if it needs none.

        Raises
        ------
        ConfigError
            It has more ``features`` than the plan has stages.
        """
        if self.is_planned:
            return self
        if self.features is not None:
            if len(self.features) > len(plan.strides):
                raise ConfigError(
                    f"network.features has {len(self.features)} entries",
                    expected=f"at most {len(plan.strides)}, the stages that a patch of "
                    f"{list(plan.patch_size)} allows",
                    remedy="give fewer, a larger patch.size, or network.strides too",
                )
            plan = shallower(plan, len(self.features))
        planned = {
            name: getattr(plan, name) for name in PLANNED_SIZES if getattr(self, name) is None
        }
        return replace(self, **planned)

    def check(self) -> None:
        """Raise ConfigError where values contradict each other or the network's family."""
        if self.outputs < 2:
            raise ConfigError(
                f"network.classes is {self.outputs}",
                expected="at least 2: the background and one structure",
            )
        if self.family == "smp":
            self._check_smp()
        elif not self.is_planned:
            raise ConfigError(
                "the network's strides are not known yet",
                remedy="plan them from the data (covidseg.networks.planning.plan) or give "
                "network.strides in the recipe",
            )
        else:
            self._check_sizes()

    def _check_smp(self) -> None:
        if self.dimensions != 2:
            raise ConfigError(
                "network.family smp with network.dimensions 3",
                expected="2: segmentation-models-pytorch has 2D networks only",
                remedy="set network.dimensions to 2, or network.family to plain or residual",
            )
        if self.deep_supervision:
            raise ConfigError(
                "network.deep_supervision with network.family smp",
                expected="false: those networks have one output",
            )
        given = [name for name in PLANNED_SIZES if getattr(self, name) is not None]
        if given:
            raise ConfigError(
                f"network.{given[0]} with network.family smp",
                expected="null: the encoder fixes its own sizes",
            )

    def _check_sizes(self) -> None:
        assert self.strides is not None
        if self.decoder_channels is not None:
            raise ConfigError(
                f"network.decoder_channels with network.family {self.family}",
                expected="null: network.features holds the channels",
            )
        for one in fields(self):
            # Nothing would read it, and the run would say that it has such weights.
            if one.name in _OF_LIBRARY and getattr(self, one.name) != one.default:
                raise ConfigError(
                    f"network.{one.name} is {getattr(self, one.name)} with network.family "
                    f"{self.family}",
                    expected="null" if one.default is None else f"{one.default}, which is unused",
                    remedy="set network.family to smp to have a network of "
                    "segmentation-models-pytorch",
                )
        stages = len(self.strides)
        if stages < 2:
            raise ConfigError(f"network.strides has {stages} entry", expected="at least two stages")
        for name, expected in (
            ("kernel_sizes", stages),
            ("features", stages),
            ("encoder_blocks", stages),
            ("decoder_blocks", stages - 1),
            ("decoder_kernel_sizes", stages - 1),
        ):
            value = getattr(self, name)
            if value is not None and len(value) != expected:
                raise ConfigError(
                    f"network.{name} has {len(value)} entries",
                    expected=f"{expected}, since network.strides has {stages} stages",
                )
        for name in ("strides", "kernel_sizes", "decoder_kernel_sizes"):
            for entry in getattr(self, name) or ():
                if len(entry) != self.dimensions:
                    raise ConfigError(
                        f"network.{name} has an entry {list(entry)}",
                        expected=f"{self.dimensions} numbers, one an axis",
                    )
        if any(step != 1 for step in self.strides[0]):
            raise ConfigError(
                f"the first entry of network.strides is {list(self.strides[0])}",
                expected="ones: the first stage works at full resolution",
            )

    def divisor(self) -> tuple[int, ...]:
        """What each edge of an input must be a multiple of (`plain` and `residual`)."""
        self.check()
        assert self.strides is not None
        product = [1] * self.dimensions
        for stride in self.strides:
            product = [p * s for p, s in zip(product, stride, strict=True)]
        return tuple(product)
