import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from covidseg.core.errors import ConfigError, ScoringError
from covidseg.scoring import wilcoxon as module
from covidseg.scoring.wilcoxon import (
    SignedRankTests,
    holm,
    most_algorithms,
    significant_tests,
    smallest_adjusted,
    smallest_p_value,
    wilcoxon_greater,
)

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "ranking_golden"


def once(tests: SignedRankTests) -> np.ndarray:
    return np.ones((1, tests.cases))


def by_the_book(x, y) -> float:
    """The test written down from its definition, one pair at a time."""
    d = np.asarray(x, float) - np.asarray(y, float)
    d = d[(d != 0) & ~np.isnan(d)]
    if not len(d):
        return 1.0
    n = len(d)
    ranks = stats.rankdata(np.abs(d))
    ties = np.unique(ranks, return_counts=True)[1]
    variance = n * (n + 1) * (2 * n + 1) / 24 - (ties**3 - ties).sum() / 48
    return stats.norm.sf((ranks[d > 0].sum() - n * (n + 1) / 4 - 0.5) / np.sqrt(variance))


# Few distinct values, so that zeros and ties abound; NaN for missing cases, infinity for NAVE.
coarse = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 0.1, 0.3, -np.inf, np.nan])
fine = st.floats(0, 1, allow_subnormal=False)


some_algorithms = st.integers(2, 5)


def tables(elements, algorithms=some_algorithms):
    return st.tuples(algorithms, st.integers(1, 12)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=elements)
    )


def test_worked_example():
    # d = .1 0 .2 .3 .5 -.05: ranks of the rest 2 3 4 5 1, W+ = 14, n = 5,
    # z = (14 - 7.5 - .5) / sqrt(13.75) = 1.618, p = .0528
    p = wilcoxon_greater([0.5, 0.6, 0.7, 0.8, 0.9, 0.3], [0.4, 0.6, 0.5, 0.5, 0.4, 0.35])
    assert p == pytest.approx(0.05282271460093846, abs=1e-15)


def test_tie_correction_by_hand():
    # d = 1 1 1 -1 2: ranks 2.5 2.5 2.5 2.5 5, W+ = 12.5, t = 4;
    # variance 5*6*11/24 - (64 - 4)/48 = 12.5, z = (12.5 - 7.5 - .5)/sqrt(12.5)
    p = wilcoxon_greater([1, 1, 1, 0, 2], [0, 0, 0, 1, 0])
    assert p == pytest.approx(stats.norm.sf(4.5 / np.sqrt(12.5)), rel=1e-14)


@pytest.mark.parametrize("file", ["synth_full", "synth_nan"])
@pytest.mark.parametrize("treatment", ["zero", "narm"])
def test_p_values_equal_those_of_r(file, treatment):
    golden = json.loads((GOLDEN / "ttr.json").read_text())[file][treatment]["p"]
    scores = pd.read_csv(GOLDEN / f"{file}.csv")
    for task, rows in golden.items():
        table = scores[scores.task == task].pivot(index="alg", columns="case", values="value")
        values = table.fillna(0).to_numpy() if treatment == "zero" else table.to_numpy()
        tests = SignedRankTests(values)
        ours = tests.matrix(tests.p_values(once(tests))[0])
        expected = np.array([[np.nan if p is None else p for p in row] for row in rows], float)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
        assert np.isnan(np.diag(ours)).all()


@settings(max_examples=60)
@given(tables(st.one_of(coarse, fine)))
def test_all_pairs_equal_the_definition(values):
    tests = SignedRankTests(values)
    matrix = tests.matrix(tests.p_values(once(tests))[0])
    for i in range(len(values)):
        for j in range(len(values)):
            common = ~np.isnan(values[i]) & ~np.isnan(values[j])
            if i == j or not common.any():
                assert np.isnan(matrix[i, j])
            else:
                with np.errstate(invalid="ignore"):
                    expected = by_the_book(values[i, common], values[j, common])
                assert matrix[i, j] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60)
@given(tables(st.floats(0, 1, allow_subnormal=False), algorithms=st.just(2)))
def test_equal_to_scipy(values):
    x, y = values
    if (x == y).all():
        assert wilcoxon_greater(x, y) == 1
        return
    expected = stats.wilcoxon(
        x, y, zero_method="wilcox", correction=True, alternative="greater", method="approx"
    )
    assert wilcoxon_greater(x, y) == pytest.approx(expected.pvalue, abs=1e-12)


@settings(max_examples=60)
@given(tables(st.one_of(coarse, fine)), st.data())
def test_a_weight_is_a_case_repeated(values, data):
    weights = data.draw(arrays(np.int64, (3, values.shape[1]), elements=st.integers(0, 4)))
    weights[:, 0] += 1  # a sample holds at least one case
    ours = SignedRankTests(values).p_values(weights)
    for row, weight in zip(ours, weights, strict=True):
        repeated = SignedRankTests(np.repeat(values, weight, axis=1))
        np.testing.assert_allclose(row, repeated.p_values(once(repeated))[0], rtol=0, atol=1e-12)


@settings(max_examples=60)
@given(tables(st.integers(-50, 50).map(float)), st.integers(1, 9), st.integers(-9, 9))
def test_unit_and_zero_point_do_not_matter(values, factor, shift):
    # Whole numbers, because rounding would make and break ties.
    tests, moved = SignedRankTests(values), SignedRankTests(values * factor + shift)
    np.testing.assert_array_equal(tests.p_values(once(tests)), moved.p_values(once(tests)))


@settings(max_examples=60)
@given(tables(st.one_of(coarse, fine)), st.randoms())
def test_order_of_algorithms_and_cases_does_not_matter(values, random):
    rows, columns = (random.sample(range(size), size) for size in values.shape)
    tests, other = SignedRankTests(values), SignedRankTests(values[rows][:, columns])
    expected = tests.matrix(tests.p_values(once(tests))[0])[np.ix_(rows, rows)]
    np.testing.assert_allclose(other.matrix(other.p_values(once(other))[0]), expected, atol=1e-14)


def test_equal_algorithms_have_p_one_both_ways():
    tests = SignedRankTests(np.tile([0.3, 0.7, 0.9], (2, 1)))
    assert tests.p_values(once(tests)).tolist() == [[1.0, 1.0]]


def test_one_case():
    # n = 1: W+ = 1, z = (1 - .5 - .5)/.5 = 0
    assert wilcoxon_greater([0.9], [0.1]) == 0.5


def test_equal_infinities_tie_and_unequal_ones_are_the_largest_difference():
    worst = -np.inf
    assert wilcoxon_greater([0.1, worst, 0.5], [0.2, worst, 0.1]) == wilcoxon_greater(
        [0.1, 0.5], [0.2, 0.1]
    )
    assert wilcoxon_greater([0.1, 0.2, 0.9], [worst, 0.3, 0.5]) == wilcoxon_greater(
        [100, 0.2, 0.9], [0, 0.3, 0.5]
    )


def test_no_common_case_has_no_p_value():
    assert np.isnan(wilcoxon_greater([0.5, np.nan], [np.nan, 0.5]))


def test_memory_bound_changes_nothing(monkeypatch):
    values = np.random.default_rng(0).integers(0, 9, (9, 14)) / 8
    weights = np.random.default_rng(1).integers(0, 3, (5, 14))
    expected = SignedRankTests(values).p_values(weights)
    monkeypatch.setattr(module, "_CHUNK_ENTRIES", 200)
    monkeypatch.setattr(module, "_CACHED_ENTRIES", 0)
    np.testing.assert_array_equal(SignedRankTests(values).p_values(weights), expected)


def test_rank_sums_are_exact():
    # float32 holds every whole number up to 2^24 = 16,777,216; 4095 * 4096 = 16,773,120.
    assert module._exact_type(4095) is np.float32
    assert module._exact_type(4096) is np.float64


def test_the_wide_type_computes_the_same(monkeypatch):
    values = np.random.default_rng(0).integers(0, 9, (4, 30)) / 8
    weights = np.random.default_rng(1).integers(0, 3, (5, 30))
    expected = SignedRankTests(values).p_values(weights)
    monkeypatch.setattr(module, "_exact_type", lambda cases: np.float64)
    np.testing.assert_array_equal(SignedRankTests(values).p_values(weights), expected)


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((2, 2, 2))])
def test_values_of_other_shapes_are_refused(values):
    with pytest.raises(ScoringError, match="algorithms, cases"):
        SignedRankTests(values)


def test_weights_of_another_length_are_refused():
    with pytest.raises(ScoringError, match=r"weights of shape \(1, 3\)"):
        SignedRankTests(np.zeros((2, 4))).p_values(np.ones((1, 3)))


def test_holm_leaves_nan_out_as_r_does():
    adjusted = holm(np.array([0.01, 0.02, np.nan, 0.03, 0.01]))
    np.testing.assert_allclose(adjusted, [0.04, 0.04, np.nan, 0.04, 0.04])


def test_holm_by_hand():
    # .01*4, .02*3, .04*2, .3*1 in order of size, made monotone
    np.testing.assert_allclose(holm(np.array([0.3, 0.01, 0.04, 0.02])), [0.3, 0.04, 0.08, 0.06])


p_lists = st.lists(
    st.one_of(st.floats(0, 1), st.just(np.nan), st.sampled_from([0.001, 0.01])), min_size=1
)


@settings(max_examples=60)
@given(p_lists, st.sampled_from([0.01, 0.05, 0.5]))
def test_significance_is_the_adjusted_p_value_under_alpha(p, alpha):
    p = np.array(p)
    with np.errstate(invalid="ignore"):
        expected = holm(p) <= alpha
        np.testing.assert_array_equal(significant_tests(p[None], alpha, "holm")[0], expected)
        np.testing.assert_array_equal(significant_tests(p[None], alpha, "none")[0], p <= alpha)


@settings(max_examples=60)
@given(p_lists)
def test_holm_is_monotone_and_between_the_p_value_and_bonferroni(p):
    p = np.array(p)
    adjusted, count = holm(p), np.count_nonzero(~np.isnan(p))
    known = ~np.isnan(p)
    assert (adjusted[known] >= p[known]).all()
    assert (adjusted[known] <= np.minimum(1, count * p[known]) + 1e-15).sum() >= 1 or not count
    order = np.argsort(p[known])
    assert (np.diff(adjusted[known][order]) >= 0).all()


def test_an_unknown_adjustment_is_refused():
    with pytest.raises(ConfigError, match="bonferroni"):
        significant_tests(np.zeros((1, 2)), 0.05, "bonferroni")


@settings(max_examples=30)
@given(st.integers(1, 60))
def test_the_smallest_p_value_is_that_of_all_wins(cases):
    steps = np.arange(1, cases + 1, dtype=float)
    assert smallest_p_value(cases) == pytest.approx(wilcoxon_greater(steps, 0 * steps), abs=1e-15)


def test_power():
    assert [most_algorithms(n) for n in (1, 10, 13, 20, 23, 30)] == [1, 4, 8, 32, 59, 234]
    assert smallest_p_value(23) * 98 * 97 == pytest.approx(0.137, abs=5e-4)
    assert smallest_adjusted(23, 98, "holm") > 0.05 > smallest_adjusted(23, 98, "none")
    assert smallest_adjusted(0, 5, "holm") == 1
