"""All labels of one case, scored together: DSC, NSD at any tolerances, NAVE, volumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from covidseg.core.errors import LabelError, ScoringError
from covidseg.scoring.metrics import (
    as_slabs,
    check_dimensions,
    check_shapes,
    check_spacing,
    check_tolerance,
    dice_of_counts,
    surface_dice_of_overlap,
    volume_error_of_counts,
    whole_numbers,
)
from covidseg.scoring.nsd import Overlap, compare_packed
from covidseg.scoring.packing import Box, memory_order, occupied_box, pack
from covidseg.scoring.policy import (
    DEFAULT_POLICY,
    EmptyMaskPolicy,
    empty_mask_policy,
    empty_status,
)

Labels = Mapping[int, str] | Iterable[int]
Tolerances = float | Sequence[float] | Mapping[str, float | Sequence[float]]


@dataclass(frozen=True)
class LabelScores:
    """Scores of one label of one case.

    Attributes
    ----------
    value, label
        The label's value in the label maps, and its name.
    status
        ``ok``, ``both_empty``, ``prediction_empty`` or ``reference_empty``.
    dsc, nave
        NaN where the policy gives no value.
    nsd
        By tolerance in mm.
    voxels_prediction, voxels_reference
        Numbers of voxels (pixels in a picture).
    volume_prediction_ml, volume_reference_ml
        NaN for pictures, which have no volume.
    """

    value: int
    label: str
    status: str
    dsc: float
    nsd: dict[float, float]
    nave: float
    voxels_prediction: int
    voxels_reference: int
    volume_prediction_ml: float
    volume_reference_ml: float

    @property
    def absolute_volume_error_ml(self) -> float:
        """``|V_prediction - V_reference|``, which has a value where NAVE has none."""
        return abs(self.volume_prediction_ml - self.volume_reference_ml)


@dataclass(frozen=True)
class CaseScores:
    """Scores of all labels of one case; ``scores["left_lung"].dsc``, or iterate over the labels."""

    labels: tuple[LabelScores, ...]
    policy: str
    _by_name: dict[str, LabelScores] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {scores.label: scores for scores in self.labels})

    def __getitem__(self, label: str) -> LabelScores:
        return self._by_name[label]

    def __iter__(self) -> Iterator[LabelScores]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Labels,
    spacing_mm: Sequence[float],
    tolerances_mm: Tolerances = 1.0,
    *,
    policy: str | EmptyMaskPolicy = DEFAULT_POLICY,
    reference_labels: Mapping[int, str] | None = None,
    ignore_other_labels: bool = False,
) -> CaseScores:
    """Score every label of a case in one pass over its two label maps.

    Parameters
    ----------
    prediction, reference
        Label maps of one shape, 2D or 3D: bool or integers (floats that are whole numbers pass),
        in any memory order. 0 is background. They are not changed.
    labels
        The labels to score: ``{1: "left_lung", 2: "right_lung"}``, or values alone, which are then
        named by their digits. A label that a map does not hold is an empty mask, see ``policy``.
    spacing_mm
        Voxel size along each axis of the arrays, in their order.
    tolerances_mm
        Of NSD: one for all labels, several for all, or by label name:
        ``{"left_lung": 1, "right_lung": 1, "infection": [1, 3]}``.
    policy
        Name of an empty-mask policy (`covidseg.scoring.policy.POLICIES`), or one of one's own.
    reference_labels
        What the reference's values mean, where that differs from the prediction's: with ``labels``
        ``{1: "left_lung", 2: "right_lung", 3: "infection"}`` and ``reference_labels``
        ``{1: "infection"}``, infection alone is scored, 3 against 1.
    ignore_other_labels
        Score the given labels and say nothing of other values in the maps.

    Returns
    -------
    CaseScores
        One `LabelScores` for each label, in the order given.

    Raises
    ------
    GeometryError
        The shapes differ, there are not 2 or 3 dimensions, or the spacing does not fit or is not
        positive.
    LabelError
        Fractions (probabilities), NaN, or values other than 0 and ``labels``.
    ScoringError
        A tolerance is negative or missing.

    Examples
    --------
    >>> import numpy as np
    >>> reference = np.zeros((8, 8, 8), np.uint8)
    >>> reference[2:5, 2:5, 2:5] = 1
    >>> prediction = np.roll(reference, 1, axis=0)
    >>> scores = score_case(prediction, reference, {1: "infection"}, (1, 1, 5), [0.5, 1])
    >>> round(scores["infection"].dsc, 4), scores["infection"].nsd[1]
    (0.6667, 1.0)
    """
    names = label_names(labels)
    reference_names = names if reference_labels is None else label_names(reference_labels)
    scored = scored_labels(names, reference_names)
    tolerances = tolerances_by_label(scored, tolerances_mm)
    chosen = empty_mask_policy(policy)
    ours = _label_map(prediction, "prediction")
    theirs = _label_map(reference, "reference")
    check_shapes(ours, theirs)
    steps = check_spacing(spacing_mm, theirs.ndim)
    axes = memory_order(theirs)
    maps = (
        _LabelMap(as_slabs(ours, axes), names, "prediction"),
        _LabelMap(as_slabs(theirs, axes), reference_names, "reference"),
    )
    box = occupied_box(*(label_map.occupied for label_map in maps))
    scores = []
    for name, values in scored.items():
        if box is None:
            overlap = Overlap(0, 0, 0, (float("nan"),) * len(tolerances[name]))
        else:
            mine, other = (
                label_map.mask(value, box) for label_map, value in zip(maps, values, strict=True)
            )
            inner = occupied_box(mine, other)
            if inner is not None:
                mine, other = mine[inner], other[inner]
            overlap = compare_packed(mine, other, axes, steps, tolerances[name])
        scores.append(_label_scores(values[0], name, overlap, tolerances[name], steps, chosen))
    if not ignore_other_labels and box is not None:
        for label_map in maps:
            label_map.check(box)
    return CaseScores(tuple(scores), chosen.name)


def label_names(labels: Labels) -> dict[int, str]:
    """Values and names of the labels to score.

    Raises
    ------
    LabelError
        No label, a value below 1, or a name given twice.
    """
    names = (
        {int(value): str(name) for value, name in labels.items()}
        if isinstance(labels, Mapping)
        else {int(value): str(int(value)) for value in labels}
    )
    if not names or min(names) < 1 or len(set(names.values())) < len(names):
        raise LabelError(
            f"the labels to score are {names}",
            expected="at least one value of 1 or more (0 is background), each with its own name",
        )
    return names


def scored_labels(
    prediction: Mapping[int, str], reference: Mapping[int, str]
) -> dict[str, tuple[int, int]]:
    """Labels that both maps have: their values in the prediction and in the reference.

    Raises
    ------
    LabelError
        The reference has a label that the prediction does not, or there is none in common.
    """
    values = {name: value for value, name in prediction.items()}
    theirs = {name: value for value, name in reference.items()}
    if not set(theirs) <= set(values):
        raise LabelError(
            f"the reference has labels {sorted(theirs)}, the prediction {sorted(values)}",
            expected="every label of the reference to be one that is predicted",
        )
    return {name: (value, theirs[name]) for name, value in values.items() if name in theirs}


def tolerances_by_label(
    labels: Iterable[str], tolerances_mm: Tolerances
) -> dict[str, tuple[float, ...]]:
    """Tolerances of each label, ascending and each once.

    Raises
    ------
    ScoringError
        A tolerance is negative or not finite, or a label has none.
    """
    names = list(labels)
    given: Mapping[str, float | Sequence[float]] = (
        tolerances_mm if isinstance(tolerances_mm, Mapping) else dict.fromkeys(names, tolerances_mm)
    )
    if not set(names) <= set(given):
        raise ScoringError(
            f"NSD has no tolerance for {', '.join(sorted(set(names) - set(given)))}",
            expected="a tolerance in mm for each label",
            remedy="name one for each (on the command line --tolerance LABEL=MM)",
        )
    return {name: _ascending(given[name]) for name in names}


def _ascending(tolerances_mm: float | Sequence[float]) -> tuple[float, ...]:
    several: Any = tolerances_mm if np.ndim(tolerances_mm) else [tolerances_mm]
    return tuple(sorted({check_tolerance(tolerance) for tolerance in several}))


def _label_map(array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array)
    check_dimensions(array, name)
    return whole_numbers(array, name)


class _LabelMap:
    """One label map: what of it is not background, and the masks of its labels, packed."""

    def __init__(self, voxels: np.ndarray, names: Mapping[int, str], of: str) -> None:
        self._voxels = voxels
        self._names = names
        self._of = of
        self.occupied = pack(voxels)
        self._rest: np.ndarray | None = None
        self._left = set(names)
        self._complete = False

    def mask(self, value: int, box: Box) -> np.ndarray:
        """The voxels of a label within a box that holds everything that is not background.

        A pass over the voxels, but for the last label: it is what the others have left, where the
        largest value says that there are no other labels.
        """
        rest = self._open(box)
        if self._complete and self._left == {value}:
            return rest
        mask = pack(self._crop(box), value)
        rest &= ~mask
        self._left.discard(value)
        return mask

    def check(self, box: Box) -> None:
        """Raise `LabelError` where the map holds a value that is not among its labels."""
        rest = self._open(box)
        if self._complete or not rest.any():
            return
        found = np.unique(self._crop(box))
        others = [int(value) for value in found if value and int(value) not in self._names]
        if not others:
            return
        raise LabelError(
            f"the {self._of} holds the values {others[:10]}, which are not among its labels",
            expected="0 and "
            + ", ".join(f"{value} ({name})" for value, name in self._names.items()),
            remedy="negative values come from a wrong cast or scaling: correct it where that is "
            "done"
            if min(others) < 0
            else "name these labels too, score the task they belong to, or pass "
            "ignore_other_labels=True (--ignore-other-labels) to score the named ones alone",
        )

    def _open(self, box: Box) -> np.ndarray:
        if self._rest is None:
            self._rest = self.occupied[box].copy()
            crop = self._crop(box)
            # Values from 1 to k and labels 1 to k: no voxel has any other.
            self._complete = (
                set(self._names) == set(range(1, len(self._names) + 1))
                and crop.max() <= len(self._names)
                and (crop.dtype.kind in "bu" or crop.min() >= 0)
            )
        return self._rest

    def _crop(self, box: Box) -> np.ndarray:
        slabs, rows, row_bytes = box
        return self._voxels[slabs, rows, row_bytes.start * 8 : row_bytes.stop * 8]


def _label_scores(
    value: int,
    name: str,
    overlap: Overlap,
    tolerances: tuple[float, ...],
    steps: tuple[float, ...],
    policy: EmptyMaskPolicy,
) -> LabelScores:
    ours, theirs = overlap.voxels_prediction, overlap.voxels_reference
    status = empty_status(ours, theirs)
    voxel_ml = float(np.prod(steps)) / 1000 if len(steps) == 3 else float("nan")
    return LabelScores(
        value=value,
        label=name,
        status=status,
        dsc=policy.value("dsc", status, dice_of_counts(ours, theirs, overlap.voxels_common)),
        nsd={
            tolerance: policy.value("nsd", status, nsd)
            for tolerance, nsd in zip(tolerances, surface_dice_of_overlap(overlap), strict=True)
        },
        nave=policy.value("nave", status, volume_error_of_counts(ours, theirs)),
        voxels_prediction=ours,
        voxels_reference=theirs,
        volume_prediction_ml=ours * voxel_ml,
        volume_reference_ml=theirs * voxel_ml,
    )
