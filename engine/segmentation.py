"""Recipes of segmentation, and planning what a recipe leaves open."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.engine.augmentation import Augmentation, AugmentationConfig, planned_augmentation
from covidseg.engine.cache import CachedCase, TrainingCase, prepare
from covidseg.engine.checkpoint import last_checkpoint, load_predictor, read_description
from covidseg.engine.config import FREE, Recipe
from covidseg.engine.cutmix import cutmix
from covidseg.engine.distributed import native_precision
from covidseg.engine.fingerprint import Fingerprint, fingerprint
from covidseg.engine.patches import Patches
from covidseg.engine.seeds import derived_seed, seed_everything
from covidseg.engine.stream import Batch, Stream
from covidseg.engine.task_data import Part, read_part
from covidseg.inference.preprocessing import Preprocessing
from covidseg.networks.build import build_network
from covidseg.networks.config import PLANNED_SIZES, NetworkConfig
from covidseg.networks.instance_norm import preferred_layout
from covidseg.networks.planning import plan, plan_for_patch
from covidseg.networks.smp2d import refuse_patch


@dataclass(frozen=True)
class DataConfig:
    """Which cases are learnt from.

    Parameters
    ----------
    configuration
        Configuration of the dataset repository, without its fold: `task1-infection`.
    fold
        Fold of it; null where it has none.
    variant
        `official` (the published split) or `patient-clean`.
    part
        The part that is trained on.
    cases
        Names of the cases of that part which are trained on; all of it where empty.
    hub
        Folder of the dataset repository.
    cache
        Folder of the training cache.
    labels
        Names of the network's classes 1, 2, ...; taken from the data where empty.
    """

    configuration: str = "task1-infection"
    fold: int | None = None
    variant: Literal["official", "patient-clean"] = "official"
    part: str = "train"
    cases: tuple[str, ...] = ()
    hub: str = field(default="data/hub", metadata=FREE)
    cache: str = field(default="data/cache", metadata=FREE)
    labels: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The configuration's whole name: `task1-infection-fold0-clean`."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return self.configuration + fold + ("-clean" if self.variant == "patient-clean" else "")


@dataclass(frozen=True)
class GridConfig:
    """Intensity scale and grid of the network's input. What is null is measured on the cases.

    Parameters
    ----------
    intensity
        `ct`: nnU-Net's, clipped to the 0.5 and 99.5 percentiles of the foreground, then zero mean
        and unit variance; `window`: the benchmark's window onto zero mean and unit variance of an
        even spread; `picture`: 8-bit grey values likewise.
    window_hu
        Of `window`.
    spacing_mm
        (z, y, x); null takes nnU-Net's choice. Null for z alone, which is its choice in 2D, leaves
        each scan's planes as they are.
    plane_size
        (y, x) that slice pictures are stretched to.
    lung_and_tissue
        Of `picture`: the greys that each picture's aerated lung and soft tissue are brought to, so
        that pictures of different windows look alike; null leaves them as they are.
    low, high, mean, std
        See `covidseg.inference.preprocessing.Preprocessing`.
    """

    intensity: Literal["ct", "window", "picture"] = "ct"
    window_hu: tuple[float, float] = (-1250.0, 250.0)
    spacing_mm: tuple[float | None, float, float] | None = None
    plane_size: tuple[int, int] | None = None
    lung_and_tissue: tuple[float, float] | None = None
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None

    def check(self) -> None:
        """Raise ConfigError for spacings and sizes that cannot be."""
        for step in self.spacing_mm or ():
            if step is not None and not 0 < step < math.inf:
                raise ConfigError(
                    f"grid.spacing_mm is {_yaml(self.spacing_mm or ())}",
                    expected="numbers above 0, in mm",
                )
        if self.plane_size is not None and min(self.plane_size) < 1:
            raise ConfigError(
                f"grid.plane_size is {_yaml(self.plane_size)}", expected="numbers of at least 1"
            )

    def preprocessing(self) -> Preprocessing:
        """Settings of the preprocessing; `ConfigError` while something is still null."""
        if self.low is None or self.high is None or self.mean is None or self.std is None:
            raise ConfigError("the intensities are not measured yet")
        return Preprocessing(
            self.low,
            self.high,
            self.mean,
            self.std,
            self.spacing_mm,
            self.plane_size,
            self.lung_and_tissue,
        )


@dataclass(frozen=True)
class PatchConfig:
    """What the network sees at once. What is null is planned by nnU-Net's rules.

    Parameters
    ----------
    size
        Voxels (z, y, x), or (y, x) in 2D.
    batch_size
        Patches a step, over all processes.
    foreground_share
        Share of the patches that are placed on foreground.
    by_source
        Draw sources evenly instead of cases.
    """

    size: tuple[int, ...] | None = None
    batch_size: int | None = None
    foreground_share: float = 0.5
    by_source: bool = False

    def check(self, dimensions: int) -> None:
        """Raise ConfigError for numbers that cannot be, with a network of so many dimensions."""
        if self.size is not None and (len(self.size) != dimensions or min(self.size) < 1):
            raise ConfigError(
                f"patch.size is {self.size}", expected=f"{dimensions} numbers of at least 1"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(
                f"patch.batch_size is {self.batch_size}", expected="at least 1, or null"
            )
        if not 0 <= self.foreground_share <= 1:
            raise ConfigError(
                f"patch.foreground_share is {self.foreground_share}", expected="a share, 0 to 1"
            )


@dataclass(frozen=True)
class WindowConfig:
    """How predictions are made. Windows are the size of the patch: instance normalisation sees
    other statistics in larger ones, and predictions suffer.

    Parameters
    ----------
    overlap
        Share of a window that neighbours have in common, at least.
    mirror
        Average over mirrored inputs, along the axes that training mirrors.
    batch_size
        Windows at once; null for as many as patches a step.
    one_piece
        Labels of which the largest connected piece alone is predicted, such as a lung's.
    logit_adjustment
        Added to the logits of all classes but background: above zero where networks, having learnt
        from few labels, find too little. 0.85 makes foreground of what had 30 % or more. (Post-hoc
        logit adjustment, Menon et al., ICLR 2021.)
    """

    overlap: float = field(default=0.5, metadata=FREE)
    mirror: bool = field(default=True, metadata=FREE)
    batch_size: int | None = field(default=None, metadata=FREE)
    one_piece: tuple[str, ...] = field(default=(), metadata=FREE)
    logit_adjustment: float = field(default=0.0, metadata=FREE)

    def check(self) -> None:
        """Raise ConfigError for numbers that cannot be."""
        if not 0 <= self.overlap < 1:
            raise ConfigError(
                f"window.overlap is {self.overlap}", expected="at least 0 and below 1"
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(
                f"window.batch_size is {self.batch_size}", expected="at least 1, or null"
            )
        if not math.isfinite(self.logit_adjustment):
            raise ConfigError(
                f"window.logit_adjustment is {self.logit_adjustment}", expected="a finite number"
            )


@dataclass(frozen=True)
class SegmentationRecipe(Recipe):
    """A recipe that learns to segment from a part of a dataset repository."""

    data: DataConfig = field(default_factory=DataConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    patch: PatchConfig = field(default_factory=PatchConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    window: WindowConfig = field(default_factory=WindowConfig)


# A recipe of a trainer's own keeps its sections.
SomeRecipe = TypeVar("SomeRecipe", bound=SegmentationRecipe)


def with_precision(recipe: SomeRecipe) -> SomeRecipe:
    """The recipe with `mixed_precision: auto` decided for this machine."""
    if recipe.train.mixed_precision != "auto":
        return recipe
    train = dataclasses.replace(recipe.train, mixed_precision=native_precision())
    return dataclasses.replace(recipe, train=train)


def training_part(data: DataConfig) -> Part:
    """The cases that a recipe learns from, as files; errors as `read_part` and `Part.chosen`."""
    part = read_part(data.hub, data.name, data.part)
    return part.chosen(data.cases) if data.cases else part


def planned(
    recipe: SomeRecipe,
    cases: Sequence[TrainingCase],
    targets: dict[int, str],
    *,
    progress: bool = True,
) -> SomeRecipe:
    """The recipe with everything it leaves open measured on the training cases or planned.

    Raises
    ------
    ConfigError
        The recipe contradicts itself or the data, or has numbers that cannot be.
    LabelError
        No training case has foreground.
    """
    _check(recipe)
    if sorted(targets) != list(range(1, len(targets) + 1)):
        raise ConfigError(f"the targets' values are {sorted(targets)}", expected="1, 2, ...")
    labels = tuple(targets[value] for value in sorted(targets))
    if recipe.data.labels and recipe.data.labels != labels:
        raise ConfigError(
            f"data.labels is {', '.join(recipe.data.labels)}", expected=", ".join(labels)
        )
    for name in recipe.window.one_piece:
        # Networks of several datasets call it <dataset>_<name>.
        if not any(label == name or label.endswith(f"_{name}") for label in labels):
            raise ConfigError(
                f"window.one_piece names {name}", expected="some of " + ", ".join(labels)
            )
    measured = fingerprint(cases, Path(recipe.data.cache), progress=progress)
    network = _with_classes(recipe.network, labels)
    dimensions = network.dimensions
    grid = _planned_grid(recipe.grid, dimensions, measured)
    spacing, shape = _median_scan(grid, measured)
    plan_ = plan(
        spacing[3 - dimensions :],
        shape[3 - dimensions :],
        voxels=len(cases) * math.prod(shape),
        family="residual" if network.family == "residual" else "plain",
        classes=network.outputs,
    )
    size = recipe.patch.size or plan_.patch_size
    if network.family != "smp" and network.strides is None:
        # The recipe's patch, not the planned one, decides how deep the network can be, and the
        # stages that it states how deep it is.
        stages = None if network.features is None else max(1, len(network.features))
        plan_ = plan_for_patch(plan_, size, stages)
    network = network.with_plan(plan_)
    network.check()
    if network.family == "smp":
        refuse_patch(network, size)
    else:
        _refuse_undivided(size, network)
    augmentation = planned_augmentation(recipe.augmentation, size)
    patch = dataclasses.replace(
        recipe.patch, size=tuple(size), batch_size=recipe.patch.batch_size or plan_.batch_size
    )
    data = dataclasses.replace(recipe.data, labels=labels)
    return dataclasses.replace(
        recipe, data=data, grid=grid, network=network, augmentation=augmentation, patch=patch
    )


def planned_as_before(recipe: SomeRecipe, run: Path) -> SomeRecipe:
    """The recipe with what it leaves open as the begun ``run`` has it: no scan is measured.

    What `planned` would make of it can differ where the data or the plan's rules have changed.
    """
    checkpoint = last_checkpoint(run)
    if checkpoint is None:
        return recipe
    before = read_description(checkpoint)["config"]
    on_grid = ["low", "high", "mean", "std"]
    if recipe.grid.plane_size is None:
        on_grid.append("spacing_mm")
    patch = _filled(recipe.patch, before, "patch", ("size", "batch_size"))
    augmentation = recipe.augmentation
    if patch.size is not None:
        augmentation = planned_augmentation(augmentation, patch.size)
    labels = recipe.data.labels or tuple(before.get("data", {}).get("labels", ()))
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, labels=labels),
        grid=_filled(recipe.grid, before, "grid", on_grid),
        network=_filled(recipe.network, before, "network", ("classes", *PLANNED_SIZES)),
        augmentation=augmentation,
        patch=patch,
    )


def _filled(section: Any, config: Mapping[str, Any], name: str, planned: Sequence[str]) -> Any:
    """A section of a recipe with those of its ``planned`` values that are null from ``config``."""
    known = config.get(name, {})
    null = [one for one in planned if getattr(section, one) is None]
    return dataclasses.replace(section, **{one: known.get(one) for one in null})


def _check(recipe: SegmentationRecipe) -> None:
    """Raise ConfigError for numbers that cannot be, before anything is measured or trained."""
    recipe.grid.check()
    dimensions = recipe.network.dimensions
    recipe.train.check()
    recipe.optim.check()
    recipe.loss.check()
    recipe.patch.check(dimensions)
    recipe.augmentation.check(dimensions)
    recipe.window.check()
    if recipe.network.in_channels != 1:
        raise ConfigError(
            f"network.in_channels is {recipe.network.in_channels}",
            expected="1: scans and pictures are grey values alone",
        )


def _refuse_undivided(size: Sequence[int], network: NetworkConfig) -> None:
    """Raise ConfigError where a patch would not come back whole from the network."""
    divisor = network.divisor()
    if any(edge % step for edge, step in zip(size, divisor, strict=True)):
        whole = [math.ceil(edge / step) * step for edge, step in zip(size, divisor, strict=True)]
        raise ConfigError(
            f"the network divides a patch of {list(size)} by {list(divisor)}, with a rest",
            expected=f"patch.size {whole}, say",
        )


def _with_classes(network: NetworkConfig, labels: Sequence[str]) -> NetworkConfig:
    classes = len(labels) + 1
    if network.classes not in (None, classes):
        raise ConfigError(
            f"network.classes is {network.classes}",
            expected=f"{classes}: the background, {', '.join(labels)}",
            remedy="leave it out, or choose another data.configuration",
        )
    return dataclasses.replace(network, classes=classes)


def _planned_grid(grid: GridConfig, dimensions: int, measured: Fingerprint) -> GridConfig:
    if grid.lung_and_tissue is not None and grid.intensity != "picture":
        raise ConfigError(
            f"grid.lung_and_tissue is set and grid.intensity is {grid.intensity}",
            remedy="leave it out; it is for pictures, whose greys mean something else in each",
        )
    if grid.intensity == "ct":
        numbers = measured.low, measured.high, measured.mean, measured.std
    else:
        low, high = grid.window_hu if grid.intensity == "window" else (0.0, 255.0)
        numbers = low, high, (low + high) / 2, (high - low) / math.sqrt(12)
    given = (grid.low, grid.high, grid.mean, grid.std)
    low, high, mean, std = (
        own if own is not None else float(number)
        for own, number in zip(given, numbers, strict=True)
    )
    if grid.plane_size is None and grid.spacing_mm is None:
        z, y, x = measured.spacing_mm
        # As nnU-Net: a 2D network sees no spacing between planes, so that none is made equal.
        grid = dataclasses.replace(grid, spacing_mm=(z if dimensions == 3 else None, y, x))
    if dimensions == 3 and grid.spacing_mm is not None and grid.spacing_mm[0] is None:
        raise ConfigError(
            f"grid.spacing_mm is {_yaml(grid.spacing_mm)} and network.dimensions is 3",
            expected="three numbers",
            remedy="state the spacing between planes too: null, each scan's own planes, is for "
            "2D networks",
        )
    return dataclasses.replace(grid, low=low, high=high, mean=mean, std=std)


def _median_scan(
    grid: GridConfig, measured: Fingerprint
) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Spacing in mm and voxels, (z, y, x), of the median training scan on a planned grid."""
    if grid.plane_size is not None:
        return (1.0, 1.0, 1.0), (1, *grid.plane_size)
    assert grid.spacing_mm is not None
    z, y, x = grid.spacing_mm
    spacing = (measured.spacing_mm[0] if z is None else z, y, x)
    depth, height, width = (
        round(size * old / new)
        for size, old, new in zip(measured.shape, measured.spacing_mm, spacing, strict=True)
    )
    return spacing, (depth, height, width)


def _yaml(values: Sequence[float | None]) -> str:
    """A list as a recipe has it."""
    return json.dumps(list(values))


def cached_cases(
    recipe: SegmentationRecipe, cases: Sequence[TrainingCase], *, progress: bool = True
) -> list[CachedCase]:
    """The cases in the training cache, preprocessed as a planned recipe says."""
    return prepare(cases, recipe.grid.preprocessing(), Path(recipe.data.cache), progress=progress)


def new_network(
    recipe: SegmentationRecipe, place: int = 0, *, run: str | Path | None = None
) -> nn.Module:
    """A network with first weights that are a function of the recipe's seed and ``place``, or
    those of the run `train.start`, which the network of place 0 alone takes.

    Where the folder ``run`` holds a checkpoint already, whose weights take the place of these, no
    weights are read: they may be gone by now.

    Raises
    ------
    UnreadableFileError
        That run has no whole checkpoint.
    ConfigError
        It is of another network, or of other labels.
    """
    seed_everything(derived_seed(recipe.seed, place))
    begun = run is not None and last_checkpoint(run) is not None
    network = build_network(without_weights(recipe.network) if begun else recipe.network)
    if recipe.train.start is not None and place == 0 and not begun:
        _refuse_other_labels(recipe, Path(recipe.train.start))
        load_predictor(network, recipe.train.start)
    if recipe.network.dimensions == 2:
        network.to(memory_format=preferred_layout(network))
    return network


def without_weights(network: NetworkConfig) -> NetworkConfig:
    """The same network, of which no weights are read that others made."""
    return dataclasses.replace(network, encoder_weights=None)


def _refuse_other_labels(recipe: SegmentationRecipe, start: Path) -> None:
    checkpoint = last_checkpoint(start)
    if checkpoint is None:
        return  # which loading says
    labels = read_description(checkpoint)["config"].get("data", {}).get("labels", [])
    if tuple(labels) != recipe.data.labels:
        raise ConfigError(
            f"this run, which train.start names, predicts {', '.join(labels) or 'nothing named'}",
            path=start,
            expected=", ".join(recipe.data.labels),
            remedy="start from a run that was trained for the recipe's labels, or from random "
            "weights: --train.start null",
        )


@dataclass(frozen=True)
class AugmentBatch:
    """`Augmentation` as the stream calls it."""

    augmentation: Augmentation

    def __call__(self, batch: Batch) -> Batch:
        seeds = [int(seed) for seed in batch["seed"].tolist()]
        image, label = self.augmentation(batch["image"], batch["label"], seeds)
        if self.augmentation.config.p_cutmix > 0:
            image, label = cutmix(image, label, seeds, self.augmentation.config.p_cutmix)
        return {**batch, "image": image, "label": label}


def training_stream(
    recipe: SegmentationRecipe, cases: Sequence[CachedCase], provenance: Mapping[str, Any]
) -> Stream:
    """Random augmented patches of labelled cases, as a planned recipe says.

    ``provenance`` is what the run's manifest says of the data.
    """
    assert recipe.patch.size is not None
    assert recipe.patch.batch_size is not None
    augmentation = Augmentation(recipe.augmentation, recipe.patch.size)
    patches = Patches(
        cases,
        recipe.patch.size,
        cut=augmentation.input_size,
        foreground_share=recipe.patch.foreground_share,
        pad_value=recipe.grid.preprocessing().air,
        seed=recipe.seed,
        by_source=recipe.patch.by_source,
        provenance=provenance,
    )
    return Stream(patches, recipe.patch.batch_size, AugmentBatch(augmentation))


class FixedPatches:
    """A few patches of the training side, always the same, to watch a run by."""

    def __init__(self, recipe: SegmentationRecipe, cases: Sequence[CachedCase], count: int = 8):
        assert recipe.patch.size is not None
        patches = Patches(
            cases,
            recipe.patch.size,
            foreground_share=1,
            pad_value=recipe.grid.preprocessing().air,
            seed=derived_seed(recipe.seed, 1),
        )
        self.samples = [patches[number] for number in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int):
        return self.samples[index]
