"""Pseudo-labels and their judgement against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from covidseg.core.errors import ConfigError
from covidseg.pseudolabel.filtering import (
    agreement,
    confidence,
    judge,
    pseudo_label,
    quantised,
)
from covidseg.pseudolabel.rounds_config import FilterConfig, RoundsConfig

CONFIG = FilterConfig()


def of(*values):
    """Quantised probabilities of one foreground class, as a row of voxels."""
    return quantised(np.array(values, np.float32).reshape(1, 1, 1, -1))


def test_sure_voxels_count_and_the_others_are_ignored():
    # Background counts from 0.95 on, that is p up to 0.05; foreground from 0.9 on.
    label = pseudo_label(of(0, 0.04, 0.06, 0.5, 0.89, 0.91, 1), CONFIG)
    assert label.ravel().tolist() == [0, 0, 255, 255, 255, 1, 1]


def test_thresholds_are_met_exactly():
    steps = np.arange(256, dtype=np.uint8).reshape(1, 1, 1, -1)
    label = pseudo_label(steps, CONFIG).ravel()
    # 0.9 · 255 = 229.5 and 0.05 · 255 = 12.75
    assert np.flatnonzero(label == 1)[0] == 230
    assert np.flatnonzero(label == 0)[-1] == 12
    # 0.8 · 255 = 204 exactly, 0.2 · 255 = 51
    label = pseudo_label(steps, FilterConfig(foreground=0.8, background=0.8)).ravel()
    assert np.flatnonzero(label == 1)[0] == 204
    assert np.flatnonzero(label == 0)[-1] == 51


def test_two_classes():
    p = quantised(np.array([[0.95, 0.5, 0.02, 0.04], [0.02, 0.45, 0.02, 0.92]], np.float32))
    p = p.reshape(2, 1, 1, 4)
    assert pseudo_label(p, CONFIG).ravel().tolist() == [1, 255, 0, 2]
    np.testing.assert_allclose(confidence(p).ravel() / 255, [0.95, 0.5, 0.96, 0.92], atol=0.005)


def test_confidence_and_entropy_are_of_the_questioned_voxels():
    p = of(*[0] * 96, 0.5, 0.5, 1, 1)
    found = judge(p, pseudo_label(p, CONFIG), 1.0, CONFIG)
    # Four voxels are questioned: two of entropy ln 2 (128/255 is near enough), two of none.
    assert found.mean_entropy == pytest.approx(0.5, abs=1e-4)
    assert found.mean_confidence == pytest.approx((2 * 128 / 255 + 2) / 4)
    assert found.labelled_share == 0.5
    assert found.foreground_voxels == 2
    assert found.kept


def test_entropy_of_three_classes():
    third = quantised(np.full((2, 1, 1, 1), 1 / 3, np.float32))
    assert judge(third, pseudo_label(third, CONFIG), 1.0, CONFIG).mean_entropy == pytest.approx(1)
    p = quantised(np.array([0.6, 0.2], np.float32).reshape(2, 1, 1, 1))
    expected = -(0.6 * math.log(0.6) + 2 * 0.2 * math.log(0.2)) / math.log(3)
    found = judge(p, pseudo_label(p, CONFIG), 1.0, CONFIG).mean_entropy
    assert found == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize(
    ("p", "agreed", "reason"),
    [
        ([0.5, 0.5, 0.95], 0.9, "entropy 0.7"),
        ([0.0, 0.95, 0.95], 0.4, "agreement 0.400 below 0.5"),
        ([0.0, 0.0, 0.06], 1.0, "empty pseudo-label"),
        ([0.0, 0.0, 0.0], 1.0, "empty pseudo-label"),
        ([0.0, 0.0, 0.95], 1.0, ""),
    ],
)
def test_why_a_scan_is_left_out(p, agreed, reason):
    maps = of(*p)
    found = judge(maps, pseudo_label(maps, CONFIG), agreed, CONFIG).reason
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_empty_ones_can_be_kept():
    maps = of(0, 0, 0)
    config = FilterConfig(keep_empty=True)
    found = judge(maps, pseudo_label(maps, config), 1.0, config)
    assert found.kept
    assert (found.mean_confidence, found.mean_entropy) == (1, 0)


def test_agreement_is_the_mean_dice_of_all_pairs():
    a = np.array([1, 1, 0, 0], np.uint8)
    b = np.array([1, 0, 0, 0], np.uint8)
    c = np.array([0, 0, 1, 2], np.uint8)
    assert agreement([a, b]) == pytest.approx(2 / 3)
    assert agreement([a, b, c]) == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert agreement([a]) == 1
    assert agreement([0 * a, 0 * a]) == 1


@given(
    hnp.arrays(np.uint8, (1, 2, 3, 4)),
    st.floats(0.55, 1),
    st.floats(0.55, 1),
    st.floats(0, 0.4),
)
def test_a_stricter_threshold_labels_no_more(p, foreground, background, more):
    loose = FilterConfig(foreground=foreground, background=background)
    strict = FilterConfig(
        foreground=min(1, foreground + more), background=min(1, background + more)
    )
    a, b = pseudo_label(p, loose), pseudo_label(p, strict)
    assert ((a == b) | (b == 255)).all()
    sure = confidence(p)[b != 255] / 255
    assert (sure >= min(strict.foreground, strict.background) - 1e-6).all()


@pytest.mark.parametrize(
    "config",
    [
        RoundsConfig(count=0),
        RoundsConfig(teachers=0),
        RoundsConfig(fine_tune_epochs=10),
        RoundsConfig(fine_tune_epochs=-1),
        RoundsConfig(fine_tune_epochs=1, fine_tune_lr=0),
        RoundsConfig(fine_tune_epochs=1, fine_tune_batch_size=0),
        RoundsConfig(fine_tune_epochs=1, filter=FilterConfig(foreground=0.5)),
        RoundsConfig(fine_tune_epochs=1, filter=FilterConfig(background=1.1)),
        RoundsConfig(fine_tune_epochs=1, filter=FilterConfig(max_entropy=2)),
    ],
)
def test_settings_that_cannot_be(config):
    with pytest.raises(ConfigError, match=r"rounds\."):
        config.check(epochs=10)
    RoundsConfig(fine_tune_epochs=1).check(epochs=10)
