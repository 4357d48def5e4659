"""From a planned recipe to the stream and the method that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.engine.cache import CachedCase
from covidseg.engine.losses import build_loss
from covidseg.engine.method import Method, Supervised
from covidseg.engine.runs import open_run, read_run
from covidseg.engine.seeds import derived_seed
from covidseg.engine.segmentation import FixedPatches, SegmentationRecipe, training_stream
from covidseg.engine.stream import Batch, Sample, SizedDataset, Stream, collate
from covidseg.generalization.batch_norm import AdaptedPredictor
from covidseg.generalization.bigaug import BigAug, spatial_augmentation
from covidseg.generalization.config import GeneralizationRecipe
from covidseg.generalization.consistency import (
    Consistent,
    GinIpa,
    ThreeVersions,
    divergence_to_mean,
)
from covidseg.generalization.lesions import LesionConfig, PaintLesions
from covidseg.generalization.mixstyle import MixStyle
from covidseg.generalization.random_convolutions import Gin, RandConv
from covidseg.generalization.slaug import SaliencyBalanced, Slaug
from covidseg.inference.predictor import Predictor
from covidseg.splits.tasks import TARGETS

BatchChange = Callable[[Batch], Batch]


@dataclass(frozen=True)
class InTurn:
    """Changes of a batch, one after the other."""

    changes: tuple[BatchChange, ...]

    def __call__(self, batch: Batch) -> Batch:
        for change in self.changes:
            batch = change(batch)
        return batch


def check(recipe: GeneralizationRecipe, targets: dict[int, str]) -> dict[int, str]:
    """What the network will predict; ``targets`` is what the sources label.

    Raises
    ------
    ConfigError
        The recipe contradicts itself, or the sources do not label what it needs.
    """
    chosen = recipe.generalization
    if chosen.adaptation == "batch-norm" and (
        recipe.network.family != "smp" and recipe.network.norm != "batch"
    ):
        raise ConfigError(
            f"generalization.adaptation is batch-norm, network.norm is {recipe.network.norm}",
            expected="network.norm batch",
        )
    if not chosen.paints:
        return targets
    if chosen.synthetic_lesions and chosen.lesions_in_lungs:
        raise ConfigError(
            "generalization.synthetic_lesions and lesions_in_lungs are both true",
            expected="one of them: the lesions are learnt, or the lungs",
        )
    if targets != TARGETS["lung"]:
        raise ConfigError(
            "generalization's lesions are painted into lungs, but the sources label "
            + ", ".join(targets.values()),
            expected="sources that label the lungs: task2-structseg-lung, task2-nsclc-lung",
        )
    return TARGETS["lesion"] if chosen.synthetic_lesions else targets


def completed(recipe: GeneralizationRecipe) -> GeneralizationRecipe:
    """A planned recipe with what its method changes of the engine's settings."""
    if recipe.generalization.name != "bigaug":
        return recipe
    augmentation = spatial_augmentation(recipe.augmentation, recipe.generalization.bigaug)
    return dataclasses.replace(recipe, augmentation=augmentation)


def painter(
    recipe: SegmentationRecipe, lesions: LesionConfig, *, relabel: bool = True
) -> PaintLesions:
    """What paints lesions into the patches of a planned recipe, whose labels are lungs."""
    grid = recipe.grid.preprocessing()
    assert grid.spacing_mm is not None
    z, y, x = grid.spacing_mm
    spacing = (y, x) if z is None or recipe.network.dimensions == 2 else (z, y, x)
    clip = grid.low, grid.high
    return PaintLesions(lesions, spacing, grid.mean, grid.std, clip, relabel=relabel)


def _own_painter(recipe: GeneralizationRecipe) -> PaintLesions | None:
    """What a recipe says is painted, if anything."""
    chosen = recipe.generalization
    if not chosen.paints:
        return None
    return painter(recipe, chosen.lesions, relabel=chosen.synthetic_lesions)


def changes(recipe: GeneralizationRecipe) -> list[BatchChange]:
    """What the recipe's method does to batches after the engine's augmentation."""
    chosen, grid = recipe.generalization, recipe.grid.preprocessing()
    low, high = grid.air, (grid.high - grid.mean) / grid.std
    if chosen.name == "gin":
        return [Gin(chosen.gin)]
    if chosen.name == "gin-ipa":
        return [GinIpa(Gin(chosen.gin), chosen.ipa)]
    if chosen.name == "randconv":
        augment = RandConv(chosen.randconv)
        return [ThreeVersions(augment) if chosen.randconv.consistency_weight else augment]
    if chosen.name == "slaug":
        return [Slaug(chosen.slaug, low, high, recipe.network.outputs)]
    if chosen.name == "bigaug":
        return [BigAug(chosen.bigaug, low, high)]
    return []


def generalising_stream(
    recipe: GeneralizationRecipe, cases: Sequence[CachedCase], provenance: Mapping[str, Any]
) -> Stream:
    """The engine's stream of a planned recipe, with lesions painted before its augmentation and
    the method's own changes after it.
    """
    paint = _own_painter(recipe)
    stream = training_stream(recipe, cases, provenance)
    return changed(stream, before=[paint] if paint else [], after=changes(recipe))


def changed(
    stream: Stream, *, before: Sequence[BatchChange] = (), after: Sequence[BatchChange] = ()
) -> Stream:
    """The stream with further changes of its batches, before and after its augmentation."""
    assert stream.augment is not None
    return dataclasses.replace(stream, augment=InTurn((*before, stream.augment, *after)))


def build_method(recipe: GeneralizationRecipe, network: nn.Module) -> Method:
    """The method that a planned recipe names."""
    chosen, loss = recipe.generalization, build_loss(recipe.loss)
    if chosen.name == "gin-ipa":
        return Consistent(network, loss, chosen.ipa.consistency_weight)
    if chosen.name == "randconv" and chosen.randconv.consistency_weight:
        weight = chosen.randconv.consistency_weight
        return Consistent(network, loss, weight, divergence_to_mean)
    if chosen.name == "slaug":
        return SaliencyBalanced(network, loss, chosen.slaug.grid)
    if chosen.name == "mixstyle":
        return MixStyle(network, loss, chosen.mixstyle)
    return Supervised(network, loss)


def watched_patches(recipe: GeneralizationRecipe, cases: Sequence[CachedCase]) -> SizedDataset:
    """The patches of the training side that a run is watched by, with lesions if it paints them."""
    plain, paint = FixedPatches(recipe, cases), _own_painter(recipe)
    return PaintedPatches(plain, paint, recipe.seed) if paint else plain


class PaintedPatches:
    """Fixed patches with lesions in all of them."""

    def __init__(self, patches: FixedPatches, paint: PaintLesions, seed: int) -> None:
        paint = dataclasses.replace(paint, config=dataclasses.replace(paint.config, p=1.0))
        self.samples: list[Sample] = []
        for number, sample in enumerate(patches.samples):
            drawn = torch.tensor([derived_seed(seed, 2, number)])
            batch = paint({**collate([sample]), "seed": drawn})
            painted = {"image": batch["image"][0], "label": batch["label"][0]}
            self.samples.append({**sample, **painted})

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def open_generalising_run(
    run: str | Path, *, device: str | torch.device | None = None
) -> Predictor | AdaptedPredictor:
    """A predictor from a run, adapting to each scan if its recipe says so."""
    predictor = open_run(run, device=device)
    chosen = read_run(run, GeneralizationRecipe).generalization
    if chosen.adaptation == "none":
        return predictor
    return AdaptedPredictor(predictor, chosen.batch_norm)
