"""All labels of a case at once, and the policy on empty masks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covidseg.core.errors import ConfigError, CovidsegError, GeometryError, LabelError, ScoringError
from covidseg.scoring import nsd as nsd_module
from covidseg.scoring.case import score_case
from covidseg.scoring.metrics import (
    dice,
    normalized_absolute_volume_error,
    normalized_surface_dice,
)
from covidseg.scoring.policy import POLICIES, EmptyMaskPolicy

UNION = {1: "left_lung", 2: "right_lung", 3: "infection"}
SPACING = (0.7, 0.8, 5.0)


def chest(seed=0, shape=(20, 17, 9)):
    """Two blocks with blobs of a third label, unlike in every axis."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    labels[2:8, 3:14, 1:8] = 1
    labels[11:18, 2:13, 2:8] = 2
    labels[(random.random(shape) < 0.05) & (labels > 0)] = 3
    return labels


def test_by_hand():
    reference = np.zeros((4, 4, 4), np.uint8)
    reference[1:3, 1:3, 1:3] = 1  # 8 voxels
    reference[0, 0, 0] = 2
    prediction = np.zeros_like(reference)
    prediction[1:3, 1:3, 1:2] = 1  # 4 of the 8
    prediction[3, 3, 3] = 1  # and one elsewhere
    scores = score_case(prediction, reference, {1: "one", 2: "two"}, (1, 2, 5), 1)
    one, two = scores
    assert one.dsc == pytest.approx(2 * 4 / (5 + 8))
    assert one.nave == pytest.approx(3 / 8)
    assert (one.voxels_prediction, one.voxels_reference) == (5, 8)
    assert one.volume_prediction_ml == pytest.approx(0.05)
    assert one.absolute_volume_error_ml == pytest.approx(0.03)
    assert one.status == "ok"
    assert scores["two"] is two
    assert (two.status, two.dsc, two.nsd, two.nave) == ("prediction_empty", 0, {1.0: 0}, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.int64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_equals_the_single_functions(dtype, order):
    reference = chest(0)
    prediction = np.roll(chest(1), (1, 0, -1), (0, 1, 2))
    scores = score_case(
        prediction.astype(dtype), reference.astype(dtype, order=order), UNION, SPACING, [1, 3, 0.5]
    )
    assert [label.label for label in scores] == list(UNION.values())
    for value, name in UNION.items():
        masks = prediction == value, reference == value
        assert scores[name].dsc == dice(*masks)
        assert scores[name].nave == normalized_absolute_volume_error(*masks)
        assert list(scores[name].nsd) == [0.5, 1, 3]
        for tolerance, value_at in scores[name].nsd.items():
            expected = normalized_surface_dice(*masks, SPACING, tolerance)
            assert value_at == pytest.approx(expected, abs=1e-14)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), dimensions=st.integers(2, 3), large=st.booleans())
def test_any_maps_equal_the_single_functions(seed, dimensions, large):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 9, dimensions))
    values = [1, 2, 300] if large else [1, 2, 3]
    maps = [
        random.choice([0, *values], p=[0.7, 0.1, 0.1, 0.1], size=shape).astype(np.int16)
        for _ in range(2)
    ]
    spacing = tuple(random.choice([0.5, 0.7, 1, 3], dimensions))
    scores = score_case(*maps, values, spacing, 1)
    for value in values:
        masks = maps[0] == value, maps[1] == value
        label = scores[str(value)]
        assert label.dsc == pytest.approx(dice(*masks), nan_ok=True)
        assert label.nsd[1] == pytest.approx(
            normalized_surface_dice(*masks, spacing, 1), abs=1e-14, nan_ok=True
        )
        assert label.nave == pytest.approx(normalized_absolute_volume_error(*masks), nan_ok=True)
        assert (label.voxels_prediction, label.voxels_reference) == tuple(m.sum() for m in masks)


def test_inputs_are_not_changed_and_may_be_read_only():
    maps = [chest(0), chest(1)]
    copies = [array.copy() for array in maps]
    for array in maps:
        array.flags.writeable = False
    score_case(*maps, UNION, SPACING, 1)
    assert all(np.array_equal(array, copy) for array, copy in zip(maps, copies, strict=True))


def test_identical_maps_are_not_searched(monkeypatch):
    monkeypatch.setattr(nsd_module, "Surface", None)
    scores = score_case(chest(), chest(), UNION, SPACING, 1)
    assert all(label.dsc == label.nsd[1] == 1 and label.nave == 0 for label in scores)


def test_pictures_have_no_volume():
    mask = np.zeros((6, 6), bool)
    mask[2:4, 2:4] = True
    label = score_case(mask, mask, [1], (1, 1), 3)["1"]
    assert label.dsc == label.nsd[3] == 1
    assert math.isnan(label.volume_reference_ml)


def test_tolerances_by_label():
    scores = score_case(
        chest(0),
        chest(1),
        UNION,
        SPACING,
        {"left_lung": 1, "right_lung": 1.0, "infection": [3, 1, 3]},
    )
    assert [list(label.nsd) for label in scores] == [[1], [1], [1, 3]]


def test_the_references_values_may_mean_something_else():
    prediction = chest(0)
    reference = (chest(1) == 3).astype(np.uint8)
    scores = score_case(prediction, reference, UNION, SPACING, 3, reference_labels={1: "infection"})
    assert [label.label for label in scores] == ["infection"]
    assert scores["infection"].dsc == dice(prediction == 3, reference == 1)
    with pytest.raises(LabelError, match="one that is predicted"):
        score_case(prediction, reference, UNION, SPACING, 3, reference_labels={1: "heart"})


EMPTIES = {"both_empty": (0, 0), "prediction_empty": (0, 1), "reference_empty": (1, 0)}


@pytest.mark.parametrize(
    ("policy", "status", "dsc", "nsd", "nave"),
    [
        ("undefined", "both_empty", math.nan, math.nan, math.nan),
        ("undefined", "prediction_empty", 0, 0, 1),
        ("undefined", "reference_empty", 0, 0, math.inf),
        ("agreement", "both_empty", 1, 1, 0),
        ("agreement", "prediction_empty", 0, 0, 1),
        ("agreement", "reference_empty", 0, 0, math.inf),
        ("reference-only", "both_empty", math.nan, math.nan, math.nan),
        ("reference-only", "prediction_empty", 0, 0, 1),
        ("reference-only", "reference_empty", math.nan, math.nan, math.nan),
        ("surface-distance", "both_empty", math.nan, math.nan, math.nan),
        ("surface-distance", "prediction_empty", 0, 0, 1),
        ("surface-distance", "reference_empty", 0, 0, math.nan),
    ],
)
def test_empty_masks(policy, status, dsc, nsd, nave):
    maps = [np.full((3, 3, 3), value, np.uint8) for value in EMPTIES[status]]
    scores = score_case(*maps, {1: "infection"}, (1, 1, 1), 2, policy=policy)
    label = scores["infection"]
    assert (scores.policy, label.status) == (policy, status)
    assert [label.dsc, label.nsd[2], label.nave] == pytest.approx([dsc, nsd, nave], nan_ok=True)


def test_every_policy_is_tested_and_says_what_it_means():
    assert set(POLICIES) == {"undefined", "agreement", "reference-only", "surface-distance"}
    assert all(policy.meaning for policy in POLICIES.values())


def test_a_policy_of_ones_own():
    strict = EmptyMaskPolicy("strict", "both empty counts as 0", dsc=dict.fromkeys(EMPTIES, 0.0))
    empty = np.zeros((2, 2, 2), np.uint8)
    scores = score_case(empty, empty, [1], (1, 1, 1), 1, policy=strict)
    assert scores.policy == "strict"
    assert scores["1"].dsc == 0
    assert math.isnan(scores["1"].nsd[1])


def bad(error, words, **change):
    return pytest.param(change, error, words, id=words)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        bad(GeometryError, "one grid", prediction=chest()[:-1]),
        bad(GeometryError, "4 dimensions", prediction=chest()[None]),
        bad(GeometryError, "1 dimensions", prediction=chest().ravel()),
        bad(LabelError, "fractions such as 0.5", prediction=chest() / 2),
        bad(LabelError, "not finite", prediction=np.where(chest() > 0, np.nan, 0)),
        bad(LabelError, r"\[-1\].*Negative", prediction=-(chest() > 0).astype(np.int16)),
        bad(LabelError, r"prediction holds the values \[4\]", prediction=chest() * 4 // 3),
        bad(LabelError, r"reference holds the values \[3\]", labels=[1, 2], prediction=chest() % 3),
        bad(LabelError, "0 is background", labels={0: "background"}),
        bad(LabelError, "at least one", labels={}),
        bad(LabelError, "its own name", labels={1: "lung", 2: "lung"}),
        bad(GeometryError, "positive", spacing_mm=(1, 0, 1)),
        bad(GeometryError, "2 numbers", spacing_mm=(1, 1)),
        bad(ScoringError, "tolerance is -1", tolerances_mm=-1),
        bad(ScoringError, "tolerance is nan", tolerances_mm=[1, math.nan]),
        bad(ScoringError, "tolerance is 'x'", tolerances_mm=dict.fromkeys(UNION.values(), "x")),
        bad(ScoringError, "no tolerance for infection", tolerances_mm={"left_lung": 1}),
        bad(ConfigError, "reference-only", policy="zero"),
    ],
)  # fmt: skip
def test_bad_input(change, error, words):
    arguments = {
        "prediction": chest(),
        "reference": chest(),
        "labels": UNION,
        "spacing_mm": SPACING,
        "tolerances_mm": 1,
    }
    with pytest.raises(error, match=words) as caught:
        score_case(**{**arguments, **change})
    assert isinstance(caught.value, CovidsegError)


def test_other_labels_can_be_ignored():
    arguments = (chest(1), chest(0), {3: "infection"}, SPACING, 3)
    with pytest.raises(LabelError, match="ignore_other_labels"):
        score_case(*arguments)
    scores = score_case(*arguments, ignore_other_labels=True)
    assert scores["infection"].dsc == dice(chest(1) == 3, chest(0) == 3)
