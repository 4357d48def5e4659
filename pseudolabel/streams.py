"""Unlabelled patches as a stream: a weak view of each, and strong ones on top of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from covidseg.engine.augmentation import Augmentation, AugmentationConfig
from covidseg.engine.cache import CachedCase
from covidseg.engine.patches import Patches
from covidseg.engine.seeds import derived_seed
from covidseg.engine.stream import Batch, Stream
from covidseg.pseudolabel.recipe import PseudolabelRecipe, strong_part

_UNLABELLED = 2  # place of the unlabelled patches' draws among those of the recipe's seed
STRONG_VIEWS = ("strong_1", "strong_2")


@dataclass(frozen=True)
class Views:
    """Augments a batch's ``image``, and adds strong views of the result where there are any.

    Each strong view changes the weak one's intensities alone: a voxel of ``strong_1`` shows what
    the same voxel of ``image`` shows. A view's random numbers are a function of the sample's seed
    and the view's number.
    """

    weak: Augmentation
    strong: Augmentation | None = None

    def __call__(self, batch: Batch) -> Batch:
        seeds = [int(seed) for seed in batch["seed"].tolist()]
        image, _ = self.weak(batch["image"], None, seeds)
        views = {"image": image}
        if self.strong is not None:
            for number, name in enumerate(STRONG_VIEWS, start=1):
                own = [derived_seed(seed, number) for seed in seeds]
                views[name], _ = self.strong(image, None, own)
        return {**batch, **views}


class _WithoutLabels(Patches):
    """Patches of images alone, also of cases whose labels are known."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        sample.pop("label", None)
        return sample


def spatial_part(config: AugmentationConfig) -> AugmentationConfig:
    """Turning, zooming and mirroring alone."""
    return dataclasses.replace(
        config,
        p_noise=0.0,
        p_blur=0.0,
        p_brightness=0.0,
        p_contrast=0.0,
        p_low_resolution=0.0,
        p_inverted_gamma=0.0,
        p_gamma=0.0,
    )


def unlabelled_stream(
    recipe: PseudolabelRecipe, cases: Sequence[CachedCase], provenance: Mapping[str, Any]
) -> Stream:
    """Random patches of unlabelled cases, as a planned recipe's method wants to see them.

    Patches lie anywhere in their case. UniMatch gets a weak view (turned, zoomed and mirrored) as
    ``image``, and ``strong_1`` and ``strong_2``; the other methods get patches augmented as the
    labelled ones are.
    """
    assert recipe.patch.size is not None
    if recipe.method.name == "unimatch":
        strong = strong_part(recipe.unlabelled.strong)
        views = Views(
            Augmentation(spatial_part(recipe.augmentation), recipe.patch.size),
            Augmentation(strong, recipe.patch.size),
        )
    else:
        views = Views(Augmentation(recipe.augmentation, recipe.patch.size))
    patches = _WithoutLabels(
        cases,
        recipe.patch.size,
        cut=views.weak.input_size,
        foreground_share=0,
        pad_value=recipe.grid.preprocessing().air,
        seed=derived_seed(recipe.seed, _UNLABELLED),
        by_source=recipe.patch.by_source,
        provenance=provenance,
    )
    return Stream(patches, unlabelled_batch_size(recipe), views)


def unlabelled_batch_size(recipe: PseudolabelRecipe) -> int:
    """Unlabelled patches a step of a planned recipe."""
    assert recipe.patch.batch_size is not None
    return recipe.unlabelled.batch_size or recipe.patch.batch_size
