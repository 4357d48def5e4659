"""From a planned recipe to the method and the streams that the loop trains with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.engine.cache import IGNORE_LABEL, CachedCase
from covidseg.engine.losses import build_loss
from covidseg.engine.method import Method
from covidseg.engine.seeds import derived_seed
from covidseg.engine.segmentation import training_stream
from covidseg.engine.stream import Stream
from covidseg.pseudolabel.config import WITH_UNLABELLED
from covidseg.pseudolabel.copy_paste import CopyPaste
from covidseg.pseudolabel.cross_supervision import CrossSupervision
from covidseg.pseudolabel.mean_teacher import MeanTeacher
from covidseg.pseudolabel.noisy_student import NoisyStudent, SupervisedStream
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.pseudolabel.streams import unlabelled_batch_size, unlabelled_stream
from covidseg.pseudolabel.uncertainty import UncertaintyAwareMeanTeacher
from covidseg.pseudolabel.unimatch import UniMatch

# What a run's provenance has of scans without manual labels.
_OF_UNLABELLED = ("pool", "pseudo_labels")
_PSEUDO_LABELLED = 3  # place of the pseudo-labelled patches' draws among those of the recipe's seed


def new_method(recipe: PseudolabelRecipe, make_network: Callable[[int], nn.Module]) -> Method:
    """The method that ``recipe.method`` names, with new networks.

    Parameters
    ----------
    recipe
        Planned.
    make_network
        A network with the first weights of a place: 0, and for methods with two networks 1, which
        must differ (``covidseg.engine.segmentation.new_network`` does so). A network that has
        learnt already may come for place 0, to be fine-tuned.

    Raises
    ------
    ConfigError
        Settings that cannot be.
    """
    recipe.check_method()
    config, loss = recipe.method, build_loss(recipe.loss)
    ignoring = build_loss(dataclasses.replace(recipe.loss, ignore_label=IGNORE_LABEL))
    match config.name:
        case "supervised":
            return SupervisedStream(make_network(0), loss)
        case "noisy-student":
            return NoisyStudent(make_network(0), ignoring)
        case "mean-teacher":
            return MeanTeacher(make_network(0), loss, config.mean_teacher)
        case "ua-mt":
            return UncertaintyAwareMeanTeacher(make_network(0), loss, config.ua_mt)
        case "cps":
            return CrossSupervision(make_network(0), make_network(1), loss, config.cps)
        case "bcp":
            return CopyPaste(make_network(0), ignoring, config.bcp)
        case "unimatch":
            return UniMatch(make_network(0), loss, config.unimatch)


def training_streams(
    recipe: PseudolabelRecipe,
    labelled: Sequence[CachedCase],
    unlabelled: Sequence[CachedCase],
    provenance: Mapping[str, Any],
) -> dict[str, Stream]:
    """The streams that :func:`new_method`'s method learns from, by the names it knows them by.

    Parameters
    ----------
    recipe
        Planned.
    labelled
        Cases with labels: stream ``labelled``.
    unlabelled
        For `noisy-student` cases with pseudo-labels, whose label maps are ``IGNORE_LABEL`` where
        nothing is known: stream ``pseudo``. For `supervised` none are used. For the others cases
        whose labels, if any, are not read: stream ``unlabelled``.
    provenance
        What the run's manifest says of the labelled data; its ``pool`` or ``pseudo_labels`` are
        what it says of the others.

    Raises
    ------
    ConfigError
        The method needs unlabelled cases and there is none, or a pseudo-labelled case without a
        label map.
    """
    name = recipe.method.name
    if name == "supervised":
        return {"labelled": training_stream(recipe, labelled, provenance)}
    labels = {k: v for k, v in provenance.items() if k not in _OF_UNLABELLED}
    own = {k: v for k, v in provenance.items() if k in (*_OF_UNLABELLED, "phantom")}
    streams = {"labelled": training_stream(recipe, labelled, labels)}
    if not unlabelled:
        raise ConfigError(
            f"method {name} learns from unlabelled scans, and there is none",
            remedy="check unlabelled.configuration and unlabelled.part, or set method.name to "
            "supervised",
        )
    if name in WITH_UNLABELLED:
        return streams | {"unlabelled": unlabelled_stream(recipe, unlabelled, own)}
    without = next((case for case in unlabelled if case.label() is None), None)
    if without is not None:
        raise ConfigError(
            f"case {without.case_id} has no pseudo-label",
            remedy="predict the pool with a teacher first, or choose another method.name",
        )
    drawn = dataclasses.replace(
        recipe,
        seed=derived_seed(recipe.seed, _PSEUDO_LABELLED),
        patch=dataclasses.replace(recipe.patch, batch_size=unlabelled_batch_size(recipe)),
    )
    return streams | {"pseudo": training_stream(drawn, unlabelled, own)}
