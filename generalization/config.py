"""Recipes of domain generalisation: sources, a method, and synthetic lesions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from covidseg.engine.segmentation import SegmentationRecipe
from covidseg.generalization.batch_norm import AdaptationConfig
from covidseg.generalization.bigaug import BigAugConfig
from covidseg.generalization.consistency import IpaConfig
from covidseg.generalization.lesions import LesionConfig
from covidseg.generalization.mixstyle import MixStyleConfig
from covidseg.generalization.random_convolutions import GinConfig, RandConvConfig
from covidseg.generalization.slaug import SlaugConfig

MethodName = Literal["none", "gin", "gin-ipa", "slaug", "randconv", "mixstyle", "bigaug"]


@dataclass(frozen=True)
class SourcesConfig:
    """Further sources than `data.configuration`, and what must not be learnt from.

    Parameters
    ----------
    more
        Configurations of the dataset repository whose training parts are learnt from too.
    one_class
        Learn labels of different names, such as tumours and effusions, as one class; without it
        sources that differ in what they label are refused.
    tested
        Further configurations that the run will be tested on. No patient of a test part of these,
        or of any source, may be learnt from.
    overlap
        What to do with training cases of such patients: `refuse` to start, or `leave_out` the
        cases and note them in the manifest.
    """

    more: tuple[str, ...] = ()
    one_class: bool = False
    tested: tuple[str, ...] = ()
    overlap: Literal["refuse", "leave_out"] = "refuse"


@dataclass(frozen=True)
class GeneralizationConfig:
    """How the network is made to hold on unseen scanners and patients.

    Parameters
    ----------
    name
        The method: `gin`, `gin-ipa`, `slaug`, `randconv`, `mixstyle`, `bigaug`, or `none`.
    synthetic_lesions
        Learn from lesions painted into the sources' lungs instead of from the sources' labels.
    lesions_in_lungs
        Paint them and learn the lungs as labelled: a lung that is consolidated is a lung.
    adaptation
        `batch-norm` takes batch normalisation's statistics from each scan that is predicted; needs
        `network.norm` batch.
    """

    name: MethodName = "none"
    synthetic_lesions: bool = False
    lesions_in_lungs: bool = False
    adaptation: Literal["none", "batch-norm"] = "none"
    gin: GinConfig = field(default_factory=GinConfig)
    ipa: IpaConfig = field(default_factory=IpaConfig)
    slaug: SlaugConfig = field(default_factory=SlaugConfig)
    randconv: RandConvConfig = field(default_factory=RandConvConfig)
    mixstyle: MixStyleConfig = field(default_factory=MixStyleConfig)
    bigaug: BigAugConfig = field(default_factory=BigAugConfig)
    lesions: LesionConfig = field(default_factory=LesionConfig)
    batch_norm: AdaptationConfig = field(default_factory=AdaptationConfig)

    @property
    def paints(self) -> bool:
        """Whether lesions are painted, whatever is learnt of them."""
        return self.synthetic_lesions or self.lesions_in_lungs


@dataclass(frozen=True)
class GeneralizationRecipe(SegmentationRecipe):
    """A recipe that learns from sources without COVID-19 and is tested on COVID-19."""

    sources: SourcesConfig = field(default_factory=SourcesConfig)
    generalization: GeneralizationConfig = field(default_factory=GeneralizationConfig)
