"""Recipes of semi-supervised learning: a supervised recipe, a method, and the unlabelled scans."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field

from covidseg.core.errors import ConfigError
from covidseg.engine.augmentation import AugmentationConfig
from covidseg.engine.config import FREE
from covidseg.engine.losses import LossConfig
from covidseg.engine.segmentation import SegmentationRecipe
from covidseg.pseudolabel.config import METHOD_SECTIONS, MethodConfig
from covidseg.pseudolabel.mixing import require_pairs
from covidseg.pseudolabel.rounds_config import RoundsConfig


@dataclass(frozen=True)
class StrongViewConfig:
    """What makes a strong view of a weak one: intensities alone, so that voxels stay in place.

    Parameters
    ----------
    p_brightness, p_contrast, p_blur
        Probability of each.
    brightness, contrast
        Ranges of the factors.
    blur_sigma
        Range, in voxels.
    """

    p_brightness: float = 0.8
    brightness: tuple[float, float] = (0.5, 1.5)
    p_contrast: float = 0.8
    contrast: tuple[float, float] = (0.5, 1.5)
    p_blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)


def strong_part(config: StrongViewConfig) -> AugmentationConfig:
    """An augmentation that moves nothing."""
    return AugmentationConfig(
        p_rotation=0.0,
        p_scale=0.0,
        p_mirror=0.0,
        p_noise=0.0,
        p_low_resolution=0.0,
        p_inverted_gamma=0.0,
        p_gamma=0.0,
        p_brightness=config.p_brightness,
        brightness=config.brightness,
        p_contrast=config.p_contrast,
        contrast=config.contrast,
        p_blur=config.p_blur,
        p_blur_per_channel=1.0,
        blur_sigma=config.blur_sigma,
    )


@dataclass(frozen=True)
class UnlabelledConfig:
    """Scans without labels, and the batches of them.

    Parameters
    ----------
    configuration
        Configuration of the dataset repository that holds them; `data.configuration` where empty.
    part
        Its part.
    also
        Further pools: folders of scans, or `hub:CONFIGURATION/PART` for parts of the repository.
    cases
        Learn from so many scans of the pool alone, drawn by the seed. Null: all.
    labelled_cases
        Learn with labels from so many cases alone, drawn by the seed; the others join the pool
        without theirs. Null: all.
    batch_size
        Unlabelled (or pseudo-labelled) patches a step, over all processes; null for as many as
        labelled ones.
    """

    configuration: str = ""
    part: str = "unlabelled"
    also: tuple[str, ...] = field(default=(), metadata=FREE)
    cases: int | None = None
    labelled_cases: int | None = None
    batch_size: int | None = None
    strong: StrongViewConfig = field(default_factory=StrongViewConfig)

    def check(self) -> None:
        """Raise ConfigError for numbers that cannot be."""
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(
                f"unlabelled.batch_size is {self.batch_size}", expected="at least 1, or null"
            )


@dataclass(frozen=True)
class PseudolabelRecipe(SegmentationRecipe):
    """A recipe that learns from labelled and unlabelled scans.

    The supervised loss is the papers' ½·(cross-entropy + Dice), so that their weights of the other
    terms mean the same here.
    """

    loss: LossConfig = field(
        default_factory=lambda: LossConfig(dice_weight=0.5, cross_entropy_weight=0.5)
    )
    method: MethodConfig = field(default_factory=MethodConfig)
    unlabelled: UnlabelledConfig = field(default_factory=UnlabelledConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)

    def idle(self) -> Collection[str]:
        """The other methods' sections; also the rounds, of which a teacher knows nothing, and where
        labels alone are learnt from the pool.
        """
        found = [f"method.{one}" for one in METHOD_SECTIONS if one != self.method.section]
        if self.method.name != "noisy-student":
            found.append("rounds")
        if self.method.name == "supervised":
            pool = (one.name for one in dataclasses.fields(UnlabelledConfig))
            found += [f"unlabelled.{name}" for name in pool if name != "labelled_cases"]
        return found

    def check(self) -> None:
        """Raise ConfigError for numbers of a method and of its pool that cannot be."""
        self.check_method()
        if self.method.name == "noisy-student":
            self.rounds.check(self.train.epochs)

    def check_method(self) -> None:
        """The same of one training: a student's epochs are some of its rounds' alone."""
        self.train.check()
        self.method.check()
        self.unlabelled.check()
        if self.method.name == "unimatch":
            strong_part(self.unlabelled.strong).check(self.network.dimensions, "unlabelled.strong")
        batch, beside = self.patch.batch_size, self.unlabelled.batch_size
        if self.method.name == "bcp" and batch and beside and beside != batch:
            raise ConfigError(
                "method bcp mixes as many labelled as unlabelled patches: patch.batch_size is "
                f"{batch}, unlabelled.batch_size {beside}",
                remedy="leave unlabelled.batch_size out, or set it to patch.batch_size",
            )
        mixed = {
            "bcp": batch if self.method.bcp.pretraining else None,
            "unimatch": (beside or batch) if self.method.unimatch.p_cutmix else None,
        }
        require_pairs((mixed.get(self.method.name) or 0) // self.train.accumulate)
