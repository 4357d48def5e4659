"""Intervals: by hand, against scipy, and for what must hold of any interval."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap

from covidseg.core.errors import ScoringError
from covidseg.scoring.statistics import _mean_of_fold_means, _per_patient, bootstrap_mean

finite = st.floats(0, 1, allow_subnormal=False)


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_scipy_where_each_patient_has_one_case(method, seed):
    values = np.random.default_rng(seed).beta(5, 1.5, 19)
    ours = bootstrap_mean(values, np.arange(19), method=method, seed=seed, n_resamples=999)
    theirs = scipy_bootstrap(
        (values,), np.mean, method=method, n_resamples=999, rng=seed
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)
    assert ours.estimate == pytest.approx(values.mean(), abs=1e-15)


def test_by_hand_two_patients():
    """Patients a (0.2, 0.4) and b (0.9): resamples aa 0.3, ab 0.5, bb 0.9 with 1/4, 1/2, 1/4."""
    interval = bootstrap_mean(
        [0.2, 0.4, 0.9], ["a", "a", "b"], method="percentile", confidence=0.9, n_resamples=4000
    )
    assert interval.estimate == pytest.approx(0.5)
    assert (interval.low, interval.high) == (pytest.approx(0.3), pytest.approx(0.9))
    # Between the two tails lies the middle value alone.
    middle = bootstrap_mean(
        [0.2, 0.4, 0.9], ["a", "a", "b"], method="percentile", confidence=0.4, n_resamples=4000
    )
    assert (middle.low, middle.high) == (pytest.approx(0.5), pytest.approx(0.5))
    assert interval.n_patients == 2
    assert interval.n_values == 3


def test_against_a_bootstrap_that_builds_every_resample():
    """A slow loop over drawn patients, fold means taken with numpy, and the same draws."""
    rng = np.random.default_rng(5)
    patients = rng.integers(0, 8, 40)
    folds = rng.integers(0, 3, 40)
    values = rng.random(40)
    ours = bootstrap_mean(values, patients, folds, method="percentile", n_resamples=200, seed=9)
    names = np.unique(patients)
    drawn = np.random.default_rng(9).integers(0, len(names), (200, len(names)))
    means = []
    for draw in drawn:
        rows = np.concatenate([np.flatnonzero(patients == names[patient]) for patient in draw])
        means.append(
            np.mean([values[rows][folds[rows] == f].mean() for f in np.unique(folds[rows])])
        )
    assert ours.low == pytest.approx(np.quantile(means, 0.025), abs=1e-12)
    assert ours.high == pytest.approx(np.quantile(means, 0.975), abs=1e-12)


def test_bca_with_clusters_against_the_formula():
    """z0 and a from their definitions, the jackknife leaving out whole patients."""
    from scipy.stats import norm

    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(10), 2)
    values = rng.beta(4, 1, 20)
    ours = bootstrap_mean(values, patients, seed=4, n_resamples=500)
    drawn = np.random.default_rng(4).integers(0, 10, (500, 10))
    by_patient = values.reshape(10, 2)
    resampled = by_patient[drawn].mean(axis=(1, 2))
    z0 = norm.ppf((resampled < values.mean()).mean())
    left_out = np.array([np.delete(by_patient, i, axis=0).mean() for i in range(10)])
    d = left_out.mean() - left_out
    a = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    for tail, got in ((0.025, ours.low), (0.975, ours.high)):
        z = z0 + norm.ppf(tail)
        assert got == pytest.approx(np.quantile(resampled, norm.cdf(z0 + z / (1 - a * z))))
    assert ours.method == "BCa"


def test_clusters_widen_the_interval():
    """Four copies of each case are no new evidence: the interval is that of one copy."""
    values = np.random.default_rng(0).random(12)
    once = bootstrap_mean(values, np.arange(12))
    copies = bootstrap_mean(np.repeat(values, 4), np.repeat(np.arange(12), 4))
    naive = bootstrap_mean(np.repeat(values, 4), np.arange(48))
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert naive.high - naive.low < 0.7 * (copies.high - copies.low)


def test_coverage_of_the_true_mean():
    """Of 300 samples of 20 patients with two correlated scans each, about 95 % cover the mean."""
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(300):
        patient = rng.normal(0.7, 0.1, 20)
        values = np.repeat(patient, 2) + rng.normal(0, 0.02, 40)
        interval = bootstrap_mean(values, np.repeat(np.arange(20), 2), n_resamples=499, seed=seed)
        covered += interval.low <= 0.7 <= interval.high
    assert 0.88 * 300 <= covered <= 0.98 * 300


def test_seed_decides():
    values = np.random.default_rng(0).random(15)
    first, again, other = (bootstrap_mean(values, np.arange(15), seed=s) for s in (3, 3, 4))
    assert first == again
    assert first.low != other.low


def test_blocks_draw_what_one_draw_would(monkeypatch):
    values = np.random.default_rng(0).random(15)
    whole = bootstrap_mean(values, np.arange(15), n_resamples=501)
    monkeypatch.setattr("covidseg.scoring.statistics._BLOCK_INDICES", 15 * 50)
    assert bootstrap_mean(values, np.arange(15), n_resamples=501) == whole


@pytest.mark.parametrize(
    ("values", "patients", "method", "bounds"),
    [
        ([0.5], ["a"], "one patient", (np.nan, np.nan)),
        ([0.5, 0.9], ["a", "a"], "one patient", (np.nan, np.nan)),
        ([0.3] * 4, list("abcd"), "no spread", (0.3, 0.3)),
        ([0.1, np.inf], list("ab"), "infinite values", (np.nan, np.nan)),
        ([np.inf, -np.inf], list("aa"), "infinite values", (np.nan, np.nan)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_where_there_is_no_usual_interval(values, patients, method, bounds):
    interval = bootstrap_mean(values, patients)
    assert interval.method == method
    assert (interval.low, interval.high) == pytest.approx(bounds, nan_ok=True)


def test_a_fold_that_a_resample_misses_is_left_out_of_it():
    """Fold 1 is patient b alone; the resample aa has only fold 0 and must not count fold 1 as 0."""
    sums, counts = _per_patient([0.4, 0.8], ["a", "b"], [0, 1])
    weights = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    means = _mean_of_fold_means(weights @ sums, weights @ counts)
    assert means == pytest.approx([0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "no value"),
        (([0.1, np.nan], ["a", "b"]), "1 of 2 values are NaN"),
        (([0.1, 0.2], ["a"]), "do not match"),
    ],
)
def test_bad_values_are_refused(arguments, message):
    with pytest.raises(ScoringError, match=message):
        bootstrap_mean(*arguments)


@pytest.mark.parametrize("options", [{"confidence": 1.0}, {"confidence": 0}, {"n_resamples": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ScoringError, match="impossible"):
        bootstrap_mean([0.1, 0.2], ["a", "b"], **options)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(finite, st.integers(0, 6), st.integers(0, 2)), min_size=2, max_size=25),
    st.randoms(use_true_random=False),
)
def test_interval_holds_the_mean_and_ignores_the_order(rows, random):
    values, patients, folds = map(list, zip(*rows, strict=True))
    interval = bootstrap_mean(values, patients, folds, n_resamples=300)
    expected = np.mean(
        [
            np.mean([value for value, _, fold in rows if fold == which])
            for which in sorted(set(folds))
        ]
    )
    assert interval.estimate == pytest.approx(expected)
    if interval.method == "percentile":
        assert interval.low - 1e-9 <= interval.estimate <= interval.high + 1e-9
    if np.isfinite(interval.low):
        assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    random.shuffle(rows)
    again = bootstrap_mean(*map(list, zip(*rows, strict=True)), n_resamples=300)
    assert (again.low, again.high) == pytest.approx((interval.low, interval.high), nan_ok=True)


@settings(max_examples=40)
@given(st.lists(finite, min_size=4, max_size=20), st.floats(-3, 3), st.floats(0.1, 5))
def test_interval_moves_and_scales_with_the_values(values, shift, scale):
    patients = np.arange(len(values))
    plain = bootstrap_mean(values, patients, n_resamples=200, method="percentile")
    moved = bootstrap_mean(
        scale * np.array(values) + shift, patients, n_resamples=200, method="percentile"
    )
    assert moved.low == pytest.approx(scale * plain.low + shift, abs=1e-9)
    assert moved.high == pytest.approx(scale * plain.high + shift, abs=1e-9)


def test_confidence_orders_the_intervals():
    values = np.random.default_rng(3).beta(5, 2, 20)
    intervals = [
        bootstrap_mean(values, np.arange(20), confidence=c) for c in (0.5, 0.8, 0.95, 0.99)
    ]
    for narrow, wide in itertools.pairwise(intervals):
        assert wide.low < narrow.low < narrow.high < wide.high
    assert intervals[2].low < intervals[2].estimate < intervals[2].high
