import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from covidseg.core.errors import ConfigError, ScoringError
from covidseg.scoring import bootstrap_ranking as bootstrap_module
from covidseg.scoring.bootstrap_ranking import (
    bootstrap_ranking,
    draw_weights,
    rank_quantiles,
    rank_shares,
    ranks_of_samples,
)
from covidseg.scoring.ranking import (
    Challenge,
    Task,
    doubled_average_ranks,
    doubled_consensus,
    expected_distinct,
    kendall_tau_b,
    lowest_ranks,
    rank_challenge,
    task_tests,
)
from covidseg.scoring.ranking_data import read_challenge
from covidseg.scoring.ranking_methods import METHODS, ranks_by_method, ranks_of_cases

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "ranking_golden"
HOLES = [(0, 1), (2, 0)]


def task(values, name="DSC", missing=(), worst=0.0) -> Task:
    values = np.array(values, dtype=float)
    gone = np.zeros(values.shape, dtype=bool)
    for place in missing:
        values[place], gone[place] = np.nan, True
    algorithms = tuple(f"T{k:02}" for k in range(values.shape[0]))
    return Task(
        name, algorithms, tuple(f"c{k}" for k in range(values.shape[1])), values, gone, worst
    )


def ladder(algorithms=6, cases=23, seed=0) -> np.ndarray:
    """Algorithms of falling skill on cases of varying difficulty."""
    rng = np.random.default_rng(seed)
    skill = np.linspace(0.8, 0.4, algorithms)[:, None]
    return skill + 0.05 * rng.standard_normal((algorithms, cases)) + 0.1 * rng.random(cases)


def golden_challenge(file: str, zero: bool) -> Challenge:
    challenge = read_challenge([GOLDEN / f"{file}.csv"])
    if not zero:
        return challenge
    tasks = [
        Task(t.name, t.algorithms, t.cases, np.nan_to_num(t.values), t.missing & False, t.worst)
        for t in challenge.tasks
    ]
    return Challenge(tuple(tasks))


@pytest.mark.parametrize("file", ["synth_full", "synth_nan"])
@pytest.mark.parametrize("treatment", ["zero", "narm"])
@pytest.mark.parametrize("adjust", ["none", "holm"])
def test_ranks_and_consensus_equal_those_of_challenger(file, treatment, adjust):
    golden = json.loads((GOLDEN / "ttr.json").read_text())[file][treatment][adjust]
    ranking = rank_challenge(
        golden_challenge(file, treatment == "zero"), adjust=adjust, missing="remove"
    )
    assert len(ranking.tasks) == len(golden["tasks"]) == 6
    for result in ranking.tasks:
        expected = golden["tasks"][result.task.name]
        assert list(result.task.algorithms) == expected["alg"]
        assert result.ranks.tolist() == expected["rank"]
        np.testing.assert_allclose(result.share_of_wins, expected["prop"], atol=1e-12)
    ours = dict(zip(ranking.challenge.algorithms, ranking.mean_ranks, strict=True))
    assert ours == pytest.approx(golden["consensus"], abs=1e-12)
    best_first = [golden["consensus"][ranking.challenge.algorithms[k]] for k in ranking.order]
    assert best_first == sorted(best_first)


def test_bootstrap_ranks_and_tau_equal_those_of_challenger():
    golden = json.loads((GOLDEN / "boot.json").read_text())
    ranking = rank_challenge(golden_challenge("synth_full", zero=False), adjust="holm")
    for result in ranking.tasks:
        name = result.task.name
        drawn = [set(sample[name]) for sample in golden["idx"]]
        weights = np.array([[case in cases for case in result.task.cases] for cases in drawn])
        ranks = ranks_of_samples(task_tests(result.task, "remove"), weights, ranking)
        assert list(result.task.algorithms) == golden["ranks"][name]["alg"]
        np.testing.assert_array_equal(ranks.T, golden["ranks"][name]["r"])
        tau = [np.nan if value == "NA" else value for value in golden["tau"][name]]
        np.testing.assert_allclose(kendall_tau_b(result.ranks, ranks), tau, rtol=0, atol=1e-12)


def test_ties_share_the_lowest_rank():
    assert lowest_ranks(np.array([3, 5, 3, 0])).tolist() == [2, 1, 2, 4]


@settings(max_examples=60)
@given(arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 5)))
def test_ranks_equal_scipy(scores):
    np.testing.assert_array_equal(lowest_ranks(scores), stats.rankdata(-scores, "min"))
    ranks = stats.rankdata(-scores, "min")
    np.testing.assert_array_equal(doubled_average_ranks(ranks), 2 * stats.rankdata(ranks))


def test_consensus_by_hand():
    # Average-tie ranks: 1.5 1.5 3 and 3 1.5 1.5 and 1 2 3; means 11/6, 10/6, 15/6
    ranks = np.array([[1, 1, 3], [3, 1, 1], [1, 2, 3]])
    assert doubled_consensus(ranks).tolist() == [11, 10, 15]


def test_equal_means_tie_although_floats_would_not():
    # 1.5 + 1.5 + 2 in two orders: as sums of floats divided by three they can differ in a bit.
    ranks = np.array([[1, 1, 3, 3], [2, 1, 3, 4], [1, 2, 4, 3]])
    assert doubled_consensus(ranks)[0] == doubled_consensus(ranks)[1]


@settings(max_examples=60)
@given(
    arrays(np.int64, 6, elements=st.integers(1, 6)),
    arrays(np.int64, (3, 6), elements=st.integers(1, 6)),
)
def test_tau_equals_scipy(one, many):
    expected = [stats.kendalltau(one, row).statistic for row in many]
    np.testing.assert_allclose(kendall_tau_b(one, many), expected, rtol=0, atol=1e-12)


def test_tau_of_a_constant_ranking_is_nan():
    assert np.isnan(kendall_tau_b(np.array([1, 2, 3]), np.array([[1, 1, 1]]))).all()
    assert np.isnan(kendall_tau_b(np.array([1, 1, 1]), np.array([[1, 2, 3]]))).all()


def test_a_clear_order_is_found():
    ranking = rank_challenge(Challenge((task(ladder()),)), adjust="holm")
    assert ranking.consensus.tolist() == [1, 2, 3, 4, 5, 6]
    assert ranking.tasks[0].wins.tolist() == [5, 4, 3, 2, 1, 0]


def test_equal_algorithms_share_a_rank():
    values = ladder(4)
    values[2] = values[1]
    ranks = rank_challenge(Challenge((task(values),))).tasks[0].ranks
    assert ranks[1] == ranks[2]


@settings(max_examples=25)
@given(arrays(np.float64, (4, 10), elements=st.sampled_from([0.0, 0.5, 0.75, 1.0])), st.randoms())
def test_relabelling_algorithms_relabels_ranks(values, random):
    order = random.sample(range(4), 4)
    one = rank_challenge(Challenge((task(values),)), adjust="none")
    other = rank_challenge(Challenge((task(values[order]),)), adjust="none")
    assert other.consensus.tolist() == one.consensus[order].tolist()


@settings(max_examples=25)
@given(arrays(np.float64, (4, 12), elements=st.integers(0, 20).map(float)))
def test_doing_better_on_every_case_never_lowers_a_rank(values):
    before = rank_challenge(Challenge((task(values),)), adjust="none").consensus
    values[2] += 100
    after = rank_challenge(Challenge((task(values),)), adjust="none").consensus
    assert after[2] <= before[2]


def test_a_missing_case_is_the_worst_and_never_the_best_nave():
    nave = -np.abs(ladder() - 1)
    whole = rank_challenge(Challenge((task(nave, "NAVE", worst=-np.inf),)), adjust="none")
    holes = [(0, k) for k in range(23)]
    none_there = task(nave, "NAVE", holes, worst=-np.inf)
    ranking = rank_challenge(Challenge((none_there,)), adjust="none")
    assert whole.consensus[0] == 1
    assert ranking.consensus[0] == 6
    assert ranking.tasks[0].wins[0] == 0


def test_missing_cases_can_be_left_out():
    values = ladder()
    removed = rank_challenge(Challenge((task(values, missing=HOLES),)), missing="remove")
    p = removed.tasks[0].p_values
    tests = task_tests(task(np.delete(values, [0, 1], axis=1)), "remove")
    both_missing = tests.matrix(tests.p_values(np.ones((1, tests.cases)))[0])
    assert p[0, 2] == pytest.approx(both_missing[0, 2], abs=1e-12)


def test_a_case_missing_for_all_changes_nothing():
    values = ladder()
    extra = np.concatenate([values, np.zeros((6, 1))], axis=1)
    one = rank_challenge(Challenge((task(values),)))
    other = rank_challenge(Challenge((task(extra, missing=[(k, 23) for k in range(6)]),)))
    np.testing.assert_array_equal(one.tasks[0].p_values, other.tasks[0].p_values)


def test_an_undefined_value_is_not_a_missing_one():
    values = ladder()
    values[0, :5] = np.nan
    undefined = task(values)
    assert undefined.undefined.sum() == 5
    assert rank_challenge(Challenge((undefined,)), missing="worst").consensus[0] == 1


def test_an_algorithm_without_any_value_is_an_error_when_cases_are_removed():
    empty = task(ladder(), missing=[(1, k) for k in range(23)])
    with pytest.raises(ScoringError, match="no value at all of T01"):
        rank_challenge(Challenge((empty,)), missing="remove")
    assert rank_challenge(Challenge((empty,)), missing="worst").consensus[1] == 6


def test_all_differences_zero():
    ranking = rank_challenge(Challenge((task(np.ones((3, 5))),)), adjust="none")
    assert ranking.consensus.tolist() == [1, 1, 1]
    off_diagonal = ~np.eye(3, dtype=bool)
    assert (ranking.tasks[0].p_values[off_diagonal] == 1).all()
    assert "share rank 1" in " ".join(ranking.warnings())


@pytest.mark.parametrize("adjust", ["none", "holm"])
def test_one_case_has_no_power_and_says_so(adjust):
    ranking = rank_challenge(Challenge((task(ladder(cases=1)),)), adjust=adjust)
    assert ranking.consensus.tolist() == [1] * 6
    assert "No power in DSC: with 1 case and" in ranking.warnings()[0]


def test_one_algorithm_is_an_error():
    with pytest.raises(ScoringError, match=r"only one algorithm \(T00\)"):
        Challenge((task(ladder(1)),))


def test_no_task_is_an_error():
    with pytest.raises(ScoringError, match="no task"):
        Challenge(())


def test_tasks_of_other_algorithms_are_an_error():
    with pytest.raises(ScoringError, match="other algorithms"):
        Challenge((task(ladder(3)), task(ladder(4))))


def test_power_of_the_challenge_of_98_teams():
    values = np.random.default_rng(0).random((98, 23))
    challenge = Challenge((task(values),))
    sentence = rank_challenge(challenge, adjust="holm").warnings()[0]
    assert "9,506 tests among 98 algorithms" in sentence
    assert "0.137" in sentence
    assert "at most 59 algorithms" in sentence
    assert rank_challenge(challenge, adjust="none").warnings() == []


@pytest.mark.parametrize("alpha", [0, 1, -0.05, float("nan")])
def test_impossible_alpha(alpha):
    with pytest.raises(ConfigError, match="alpha"):
        rank_challenge(Challenge((task(ladder()),)), alpha=alpha)


def test_an_unknown_missing_policy_is_refused():
    with pytest.raises(ConfigError, match="zero"):
        rank_challenge(Challenge((task(ladder()),)), missing="zero")


def two_tasks() -> Challenge:
    return Challenge((task(ladder(seed=1), "DSC"), task(ladder(seed=2), "NSD", HOLES)))


@pytest.mark.parametrize("mode", ["unique", "multiplicity"])
def test_the_result_depends_on_the_seed_and_not_on_workers(mode, monkeypatch):
    ranking = rank_challenge(two_tasks(), adjust="none")
    one = bootstrap_ranking(ranking, samples=70, seed=3, mode=mode, workers=1, progress=False)
    monkeypatch.setattr(bootstrap_module, "_BLOCK", 7)
    three = bootstrap_ranking(ranking, samples=70, seed=3, mode=mode, workers=3, progress=False)
    np.testing.assert_array_equal(one.ranks, three.ranks)
    np.testing.assert_array_equal(one.consensus, three.consensus)
    np.testing.assert_array_equal(one.tau, three.tau)
    longer = bootstrap_ranking(ranking, samples=90, seed=3, mode=mode, progress=False)
    np.testing.assert_array_equal(longer.ranks[:, :70], one.ranks)
    other = bootstrap_ranking(ranking, samples=70, seed=4, mode=mode, progress=False)
    assert (other.ranks != one.ranks).any()


@pytest.mark.parametrize("mode", ["unique", "multiplicity"])
def test_a_sample_is_the_ranking_of_its_cases(mode):
    challenge = two_tasks()
    ranking = rank_challenge(challenge, adjust="none")
    samples = bootstrap_ranking(ranking, samples=5, seed=1, mode=mode, progress=False)
    for k in range(5):
        drawn = []
        for one in challenge.tasks:
            weights = draw_weights(1, k, one.name, len(one.cases), mode)
            values = np.repeat(one.completed("worst"), weights, axis=1)
            drawn.append(task(values, one.name))
        expected = rank_challenge(Challenge(tuple(drawn)), adjust="none")
        for row, result in enumerate(expected.tasks):
            assert samples.ranks[row, k].tolist() == result.ranks.tolist()
        assert samples.consensus[k].tolist() == expected.consensus.tolist()


def test_draws():
    counts = draw_weights(0, 0, "DSC", 23, "multiplicity")
    assert counts.sum() == 23
    assert draw_weights(0, 0, "DSC", 23, "unique").tolist() == (counts > 0).tolist()
    distinct = [draw_weights(0, k, "DSC", 23, "unique").sum() for k in range(400)]
    assert np.mean(distinct) == pytest.approx(expected_distinct(23), abs=0.3)
    assert draw_weights(0, 0, "NSD", 23, "multiplicity").tolist() != counts.tolist()


def test_one_case_bootstraps_to_itself():
    ranking = rank_challenge(Challenge((task(ladder(cases=1)),)))
    samples = bootstrap_ranking(ranking, samples=3, progress=False)
    assert (samples.ranks == 1).all()
    assert np.isnan(samples.tau).all()


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"seed": -1}, {"mode": "both"}])
def test_impossible_bootstraps(wrong):
    with pytest.raises(ConfigError):
        bootstrap_ranking(rank_challenge(two_tasks()), progress=False, **wrong)


def test_shares_and_quantiles():
    ranks = np.array([[1, 2, 3], [1, 3, 2], [1, 3, 2], [2, 1, 3]])
    shares = rank_shares(ranks)
    assert shares[0].tolist() == [0.75, 0.25, 0]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    # Type 7: position 1 + (n - 1) q among the sorted 1 1 1 2
    assert rank_quantiles(ranks, [0.9])[0, 0] == pytest.approx(1.7)


def test_other_methods_by_hand():
    values = [[0.9, 0.5, 0.4], [0.8, 0.6, 0.8], [0.1, 0.7, 0.3]]
    ranks = ranks_by_method(rank_challenge(Challenge((task(values),))), 0)
    assert tuple(ranks) == METHODS
    assert ranks["test then rank"].tolist() == [1, 1, 1]
    assert ranks["mean then rank"].tolist() == [2, 1, 3]
    assert ranks["median then rank"].tolist() == [2, 1, 3]
    assert ranks["rank then mean"].tolist() == [2, 1, 3]  # 1+3+2, 2+2+1, 3+1+3
    assert ranks["rank then median"].tolist() == [1, 1, 3]


def test_equal_values_in_another_order_have_equal_means():
    values = [[0.1, 0.2, 0.3, 0.7], [0.7, 0.3, 0.2, 0.1], [0.0, 0.1, 0.1, 0.1]]
    ranks = ranks_by_method(rank_challenge(Challenge((task(values),))), 0)
    assert ranks["mean then rank"].tolist() == [1, 1, 3]


@settings(max_examples=60)
@given(arrays(np.float64, (4, 5), elements=st.integers(-9, 9).map(float)))
def test_ranks_of_cases_depend_on_order_alone(values):
    np.testing.assert_array_equal(ranks_of_cases(values), ranks_of_cases(np.arctan(values)))


def test_missing_values_come_last_on_a_case():
    assert ranks_of_cases(np.array([[np.nan], [-np.inf], [0.5]])).ravel().tolist() == [3, 2, 1]
