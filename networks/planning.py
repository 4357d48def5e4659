"""Patch size, depth and width of a U-Net from spacing and shape, by nnU-Net v2's rules.

The rules are those of Isensee et al., Nature Methods 2021, as nnU-Net v2's planners apply them; the
memory that a network takes is estimated, as there, by the number of values in its convolutions'
outputs. The constants are chosen there so that plain networks fit a GPU with 8 GB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from covidseg.core.errors import ConfigError

# Shortest edge of a feature map that is still halved further is twice this.
_SHORTEST_EDGE = 4
# A low-resolution plan is wanted where the patch covers less than this share of the median volume.
_PATCH_SHARE = 0.25
# A batch covers no more of all training voxels than this.
_DATASET_SHARE = 0.05


@dataclass(frozen=True)
class _Budget:
    """Values in one patch's feature maps at which ``batch_size`` patches fill the memory."""

    values: int
    batch_size: int
    most_values: int  # above this the patch itself is made smaller


_BUDGETS = {
    # In 2D a plain network's patch shrinks only when not even two of them would fit.
    ("plain", 2): _Budget(85_000_000, 12, most_values=85_000_000 * 12 // 2),
    ("plain", 3): _Budget(560_000_000, 2, most_values=560_000_000),
    ("residual", 2): _Budget(135_000_000, 12, most_values=135_000_000),
    ("residual", 3): _Budget(680_000_000, 2, most_values=680_000_000),
}
_BASE_FEATURES = 32
_MOST_FEATURES = {2: 512, 3: 320}
_RESIDUAL_BLOCKS = (1, 3, 4, 6)


@dataclass(frozen=True)
class Plan:
    """What nnU-Net's rules make of one spacing and shape. Axes are in the order they were given in.

    ``strides`` and ``kernel_sizes`` have one entry a stage, the highest resolution first;
    ``strides[0]`` is all ones. ``decoder_kernel_sizes`` has one entry a decoder stage, in the same
    order.

    The decoder of a plain network has the kernels of the stage below, as in nnU-Net v1, which the
    benchmark's published baselines are (44.8 M parameters for the COVID-19 scans); v2 takes the
    encoder's kernels of the same stage (44.6 M), and so do residual networks here.
    """

    family: Literal["plain", "residual"]
    spacing_mm: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    decoder_kernel_sizes: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """Pooling and kernels that a spacing and a patch allow, and the patch padded to fit them."""

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    divisor: tuple[int, ...]


def topology(spacing_mm: Sequence[float], patch_size: Sequence[int]) -> Topology:
    """Pool an axis while its edge is at least 8 and its spacing within a factor 2 of the finest.

    A kernel is 1 along an axis until that axis' spacing is within a factor 2 of the finest, 3 from
    then on. A single axis that is left is pooled only while its edge is at least 12.
    """
    axes = range(len(spacing_mm))
    spacing, size = list(spacing_mm), list(patch_size)
    kernel = [1 for _ in axes]
    strides, kernels = [tuple(1 for _ in axes)], []
    while True:
        long_enough = [a for a in axes if size[a] >= 2 * _SHORTEST_EDGE]
        if not long_enough:
            break
        finest = min(spacing[a] for a in long_enough)
        pooled = [a for a in long_enough if spacing[a] / finest < 2]
        if len(pooled) == 1 and size[pooled[0]] < 3 * _SHORTEST_EDGE:
            break
        finest = min(spacing)
        kernel = [3 if k == 3 or spacing[a] / finest < 2 else 1 for a, k in enumerate(kernel)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in pooled else 1 for a in axes))
        for a in pooled:
            spacing[a] *= 2
            size[a] = math.ceil(size[a] / 2)
    kernels.append(tuple(3 for _ in axes))
    divisor = _divisor(strides)
    return Topology(
        patch_size=tuple(
            math.ceil(edge / step) * step for edge, step in zip(patch_size, divisor, strict=True)
        ),
        strides=tuple(strides),
        kernel_sizes=tuple(kernels),
        divisor=divisor,
    )


def feature_map_values(
    family: Literal["plain", "residual"],
    patch_size: Sequence[int],
    strides: Sequence[Sequence[int]],
    features: Sequence[int],
    encoder_blocks: Sequence[int],
    decoder_blocks: Sequence[int],
    *,
    classes: int,
) -> int:
    """Number of values in the outputs of all convolutions for one patch: nnU-Net's memory measure.

    The same as ``compute_conv_feature_map_size`` of dynamic-network-architectures, without building
    the network.
    """
    sizes, size = [], tuple(patch_size)
    for stride in strides:
        size = tuple(edge // step for edge, step in zip(size, stride, strict=True))
        sizes.append(math.prod(size))
    total = 0
    if family == "residual":
        total += features[0] * math.prod(patch_size)  # the stem
    for stage, (voxels, width, blocks) in enumerate(
        zip(sizes, features, encoder_blocks, strict=True)
    ):
        if family == "plain":
            convolutions = blocks
        else:
            before = features[stage - 1] if stage else features[0]
            projected = before != width or any(step != 1 for step in strides[stage])
            convolutions = 2 * blocks + projected
        total += convolutions * width * voxels
    for stage in range(len(strides) - 1):
        # decoder_blocks run from the lowest stage up; one transposed convolution a stage.
        total += (decoder_blocks[len(strides) - 2 - stage] + 1) * features[stage] * sizes[stage]
    return total + classes * sizes[0]


def plan(
    spacing_mm: Sequence[float],
    median_shape: Sequence[float],
    *,
    voxels: float | None = None,
    family: Literal["plain", "residual"] = "plain",
    classes: int = 2,
) -> Plan:
    """Plan a network and its patch for volumes of one spacing and median shape.

    Parameters
    ----------
    spacing_mm
        Target spacing in mm, one number an axis; two numbers plan a 2D network. nnU-Net puts the
        coarsest axis first.
    median_shape
        Median shape in voxels after resampling to that spacing, in the same order.
    voxels
        Voxels of all training volumes together, at their spacing: a batch may not cover more than
        5 % of them, but is never under 2. A 2D network learns from all their planes, so it is the
        volumes' voxels there too. ``None`` leaves that limit out.
    family
        `plain` or `residual` encoder.
    classes
        Output channels, background among them.

    Raises
    ------
    ConfigError
        Spacing or shape is not positive, or they have not the same two or three axes.
    """
    spacing, shape = _checked(spacing_mm, median_shape)
    dimensions = len(spacing)
    budget = _BUDGETS[family, dimensions]
    volume = 256**3 if dimensions == 3 else 2048**2
    scale = (volume * math.prod(spacing)) ** (1 / dimensions)
    start = [min(round(scale / step), edge) for step, edge in zip(spacing, shape, strict=True)]
    # Fewer voxels than one (a median edge below 1) cannot be a patch.
    current = topology(spacing, [max(1, math.floor(edge)) for edge in start])
    draft = _draft(family, spacing, current)
    while (values := _values(draft, classes)) > budget.most_values:
        ratios = [edge / median for edge, median in zip(draft.patch_size, shape, strict=True)]
        axis = max(range(dimensions), key=lambda a: (ratios[a], a))
        # Subtracting the divisor at once could skip sizes that a shallower network allows (224
        # between 256 and 192), so the divisor is that of the smaller patch.
        smaller = list(draft.patch_size)
        smaller[axis] -= current.divisor[axis]
        step = topology(spacing, smaller).divisor[axis]
        smaller = list(draft.patch_size)
        smaller[axis] -= step
        current = topology(spacing, smaller)
        draft = _draft(family, spacing, current)
    batch_size = round(budget.values / values * budget.batch_size)
    if voxels is not None:
        covered = round(_DATASET_SHARE * voxels / math.prod(draft.patch_size))
        batch_size = min(batch_size, covered)
    return _draft(family, spacing, current, max(2, batch_size))


def plan_for_patch(planned: Plan, patch_size: Sequence[int], stages: int | None = None) -> Plan:
    """``planned`` with another patch: as deep as that allows, and of the same family's sizes.

    ``stages`` is the most that there are to be; null for as many as the patch allows.

    Raises
    ------
    ConfigError
        An edge cannot be halved as often as the network would.
    """
    size = tuple(patch_size)
    found = topology(planned.spacing_mm, size)
    draft = _draft(planned.family, planned.spacing_mm, found, planned.batch_size)
    if stages is not None:
        draft = shallower(draft, stages)
    whole = tuple(
        math.ceil(edge / step) * step
        for edge, step in zip(size, _divisor(draft.strides), strict=True)
    )
    if whole != size:
        raise ConfigError(
            f"patch.size {size} cannot be halved as often as the network wants",
            expected=f"{whole}",
        )
    return replace(draft, patch_size=size)


def _divisor(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(math.prod, zip(*strides, strict=True)))


def shallower(planned: Plan, stages: int) -> Plan:
    """The first ``stages`` of the stages of ``planned``, or all where it has no more."""
    return replace(
        planned,
        **{
            name: getattr(planned, name)[:stages]
            for name in ("strides", "kernel_sizes", "features", "encoder_blocks")
        },
        **{
            name: getattr(planned, name)[: stages - 1]
            for name in ("decoder_kernel_sizes", "decoder_blocks")
        },
    )


def plan_low_resolution(
    spacing_mm: Sequence[float],
    median_shape: Sequence[float],
    *,
    voxels: float | None = None,
    family: Literal["plain", "residual"] = "plain",
    classes: int = 2,
) -> Plan | None:
    """Plan the low-resolution network of nnU-Net's cascade, or ``None`` where it is not worthwhile.

    Spacing grows by 3 % a step, first along the axes that are over twice as fine as the coarsest,
    until a patch covers a quarter of the median volume. ``None`` where the full-resolution patch
    does so already or where the volume would not even halve. Arguments as in :func:`plan`.
    """
    spacing, shape = _checked(spacing_mm, median_shape)
    full = plan(spacing, shape, voxels=voxels, family=family, classes=classes)
    found, low, low_shape = full, list(spacing), list(shape)
    while math.prod(found.patch_size) / math.prod(low_shape) < _PATCH_SHARE:
        coarsest = max(low)
        fine = [coarsest / step > 2 for step in low]
        low = [
            step * 1.03 if f or not any(fine) else step for step, f in zip(low, fine, strict=True)
        ]
        low_shape = [e * s / n for e, s, n in zip(shape, spacing, low, strict=True)]
        rounded = [round(edge) for edge in low_shape]
        left = voxels and voxels * math.prod(low_shape) / math.prod(shape)
        found = plan(low, rounded, voxels=left, family=family, classes=classes)
    if found is full or math.prod(shape) / math.prod(low_shape) < 2:
        return None
    return found


def _checked(
    spacing_mm: Sequence[float], median_shape: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    spacing = tuple(float(step) for step in spacing_mm)
    shape = tuple(float(edge) for edge in median_shape)
    if len(spacing) not in (2, 3) or len(spacing) != len(shape):
        raise ConfigError(
            f"cannot plan for spacing {spacing_mm} and shape {median_shape}",
            expected="two or three axes, as many in one as in the other",
        )
    if any(not (math.isfinite(v) and v > 0) for v in (*spacing, *shape)):
        raise ConfigError(
            f"cannot plan for spacing {spacing_mm} and shape {median_shape}",
            expected="positive numbers",
        )
    return spacing, shape


def _draft(
    family: Literal["plain", "residual"],
    spacing: tuple[float, ...],
    found: Topology,
    batch_size: int = 0,
) -> Plan:
    stages = len(found.strides)
    most = _MOST_FEATURES[len(spacing)]
    if family == "plain":
        encoder, decoder = (2,) * stages, (2,) * (stages - 1)
    else:
        encoder = (_RESIDUAL_BLOCKS + (6,) * stages)[:stages]
        decoder = (1,) * (stages - 1)
    return Plan(
        family=family,
        spacing_mm=spacing,
        patch_size=found.patch_size,
        batch_size=batch_size,
        strides=found.strides,
        kernel_sizes=found.kernel_sizes,
        decoder_kernel_sizes=(
            found.kernel_sizes[1:] if family == "plain" else found.kernel_sizes[:-1]
        ),
        features=tuple(min(most, _BASE_FEATURES * 2**stage) for stage in range(stages)),
        encoder_blocks=encoder,
        decoder_blocks=decoder,
    )


def _values(draft: Plan, classes: int) -> int:
    return feature_map_values(
        draft.family,
        draft.patch_size,
        draft.strides,
        draft.features,
        draft.encoder_blocks,
        draft.decoder_blocks,
        classes=classes,
    )
