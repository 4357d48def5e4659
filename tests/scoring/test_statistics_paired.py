"""Paired comparison: exact test by enumeration and against scipy, the frame of results."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon

from covidseg.core.errors import ScoringError
from covidseg.scoring.statistics_paired import compare_methods, signed_rank_test


def frame(scores: dict[str, list[float]], **columns) -> pd.DataFrame:
    """Scores of one fold and label, a list of DSC a method; NSD is the same number."""
    rows = [
        {
            "task": "task1-infection",
            "algorithm": algorithm,
            "fold": 0,
            "part": "test",
            "dataset": "covid-ct-seg",
            "case_id": f"case_{number:02d}",
            "patient_id": f"case_{number:02d}",
            "label": "infection",
            "dsc": value,
            "nsd_3mm": value,
            "nave": 1 - value,
            "status": "ok",
            "policy": "undefined",
            "phantom": False,
        }
        for algorithm, values in scores.items()
        for number, value in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(**columns)


def enumerated_p(differences) -> float:
    """Every sign flip of the ranks counted one by one."""
    ranks = rankdata(np.abs(differences))
    observed = ranks[np.asarray(differences) > 0].sum()
    flips = np.array(list(itertools.product([0, 1], repeat=len(ranks)))) @ ranks
    below, above = (flips <= observed + 1e-9).mean(), (flips >= observed - 1e-9).mean()
    return min(1.0, 2 * min(below, above))


def test_by_hand_three_pairs():
    """Ranks 1, 2, 3 all positive: of the eight sign flips one is as extreme, p = 2/8."""
    test = signed_rank_test([0.1, 0.2, 0.3])
    assert (test.w_plus, test.n_nonzero, test.p, test.method) == (6.0, 3, 0.25, "exact")
    assert signed_rank_test([-0.1, 0.2, 0.3]).p == 0.5
    assert signed_rank_test([-0.3, 0.2, 0.1]).p == 1.0


@settings(max_examples=80)
@given(st.lists(st.integers(-4, 4).filter(bool), min_size=1, max_size=9))
def test_exact_with_ties_equals_enumeration(differences):
    test = signed_rank_test(np.array(differences) / 10)
    assert test.p == pytest.approx(enumerated_p(differences), abs=1e-12)


@pytest.mark.parametrize("n", [5, 12, 19, 50])
def test_exact_without_ties_equals_scipy(n):
    differences = np.random.default_rng(n).normal(0.2, 1, n)
    ours = signed_rank_test(differences)
    theirs = wilcoxon(differences, method="exact")
    assert ours.p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert min(ours.w_plus, n * (n + 1) / 2 - ours.w_plus) == theirs.statistic


def test_many_pairs_equal_scipys_approximation():
    differences = np.round(np.random.default_rng(0).normal(0.1, 1, 400), 1)
    ours = signed_rank_test(differences)
    theirs = wilcoxon(differences, method="approx", correction=True)
    assert ours.method == "normal approximation"
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)


def test_exact_and_approximate_agree_where_they_meet(monkeypatch):
    differences = np.random.default_rng(4).normal(0.08, 1, 290)
    exact = signed_rank_test(differences)
    monkeypatch.setattr("covidseg.scoring.statistics_paired._EXACT_UP_TO", 100)
    assert exact.p == pytest.approx(signed_rank_test(differences).p, rel=0.05)


def test_special_differences():
    assert signed_rank_test([0.0, 0.0]).p == 1.0
    assert signed_rank_test([0.0]).method == "all differences zero"
    assert signed_rank_test([0.4]).p == 1.0
    assert signed_rank_test([0.0, 0.1, 0.2, 0.3]).n_nonzero == 3
    assert signed_rank_test([np.inf, 0.1, 0.2]).p == 0.25
    # 0.1 + 0.2 - 0.3 is 5e-17: rounding, not a difference.
    assert signed_rank_test([0.1 + 0.2 - 0.3, 0.5]).n_nonzero == 1
    for bad, message in (([], "no pair"), ([0.1, np.nan], "NaN")):
        with pytest.raises(ScoringError, match=message):
            signed_rank_test(bad)


def test_comparison_of_two_methods():
    first = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    second = [0.4, 0.55, 0.5, 0.75, 0.6, 0.9]
    table = compare_methods(frame({"a": first, "b": second}), metrics=["dsc"])
    (row,) = table.to_dict("records")
    assert (row["method"], row["other"]) == ("a", "b")
    assert row["mean_difference"] == pytest.approx(np.mean(np.subtract(first, second)))
    assert row["ci_low"] < row["mean_difference"] < row["ci_high"]
    assert row["p"] == pytest.approx(2 / 64)
    assert (row["n"], row["n_patients"], row["n_excluded"]) == (6, 6, 0)
    assert row["p_adjusted"] == row["p"]
    assert row["correction"] == "Holm over 1 tests"


def test_holm_is_over_everything_that_is_shown():
    rng = np.random.default_rng(0)
    scores = {name: list(rng.random(8)) for name in "abc"}
    table = compare_methods(frame(scores), metrics=["dsc", "nsd", "nave"])
    assert len(table) == 9
    assert set(table["correction"]) == {"Holm over 9 tests"}
    smallest = table["p"].idxmin()
    assert table.loc[smallest, "p_adjusted"] == pytest.approx(min(1, 9 * table["p"].min()))
    against = compare_methods(frame(scores), metrics=["dsc"], against="b")
    assert list(zip(against["method"], against["other"], strict=True)) == [("a", "b"), ("c", "b")]


def test_swapping_the_methods_turns_the_sign():
    a, b = list(np.random.default_rng(1).random((2, 9)))
    forth = compare_methods(frame({"a": a, "b": b}), metrics=["dsc"]).iloc[0]
    back = compare_methods(frame({"a": b, "b": a}), metrics=["dsc"]).iloc[0]
    assert back["mean_difference"] == pytest.approx(-forth["mean_difference"])
    assert back["p"] == forth["p"]


@pytest.mark.filterwarnings("error")
def test_equal_scores_and_one_case():
    equal = compare_methods(frame({"a": [0.5, 0.6], "b": [0.5, 0.6]}), metrics=["dsc"]).iloc[0]
    assert (equal["p"], equal["mean_difference"], equal["ci_method"]) == (1.0, 0.0, "no spread")
    assert (equal["ci_low"], equal["ci_high"]) == (0.0, 0.0)
    one = compare_methods(frame({"a": [0.5], "b": [0.6]}), metrics=["dsc"]).iloc[0]
    assert (one["p"], one["ci_method"]) == (1.0, "one patient")
    assert np.isnan(one["ci_low"])


@pytest.mark.filterwarnings("error")
def test_infinite_volume_errors():
    """Both infinite: equal. One infinite: a difference of rank one, and no finite mean."""
    both = frame({"a": [0.5, 0.6, 0.7], "b": [0.5, 0.7, 0.6]})
    both.loc[both["case_id"] == "case_00", "nave"] = np.inf
    row = compare_methods(both, metrics=["nave"]).iloc[0]
    assert row["mean_difference"] == pytest.approx(0.0)
    assert row["n_nonzero"] == 2
    both.loc[0, "nave"] = 0.1
    row = compare_methods(both, metrics=["nave"]).iloc[0]
    assert row["mean_difference"] == -np.inf
    assert row["ci_method"] == "infinite values"
    # One patient on whom each method is infinitely worse once favours neither.
    both.loc[both["case_id"] == "case_01", "patient_id"] = "case_00"
    both.loc[(both["case_id"] == "case_01") & (both["algorithm"] == "a"), "nave"] = np.inf
    row = compare_methods(both, metrics=["nave"]).iloc[0]
    assert (row["n_nonzero"], row["ci_method"]) == (1, "infinite values")


def test_a_patient_counts_once_in_the_test():
    """Five folds of one case are one difference: p is that of the patients' means."""
    scores = frame({"a": [0.5, 0.6, 0.7], "b": [0.4, 0.4, 0.4]})
    folds = pd.concat([scores.assign(fold=fold) for fold in range(5)])
    row = compare_methods(folds, metrics=["dsc"]).iloc[0]
    assert (row["n"], row["n_patients"], row["p"]) == (15, 3, 0.25)
    twins = scores.assign(patient_id=scores["case_id"].replace("case_01", "case_00"))
    assert compare_methods(twins, metrics=["dsc"]).iloc[0]["n_nonzero"] == 2


def test_undefined_and_missing_values():
    scores = frame({"a": [0.5, 0.6, 0.7], "b": [0.4, 0.4, 0.4]})
    scores.loc[0, ["status", "dsc"]] = ["both_empty", np.nan]
    row = compare_methods(scores, metrics=["dsc"]).iloc[0]
    assert (row["n"], row["n_excluded"]) == (2, 1)
    scores.loc[0, "status"] = "missing_prediction"
    with pytest.raises(ScoringError, match="case_00"):
        compare_methods(scores, metrics=["dsc"])
    worst = compare_methods(scores, metrics=["dsc"], missing="worst").iloc[0]
    assert worst["mean_difference"] == pytest.approx((-0.4 + 0.2 + 0.3) / 3)
    scores["dsc"], scores["status"] = np.nan, "both_empty"
    nothing = compare_methods(scores, metrics=["dsc"]).iloc[0]
    assert nothing["test"] == "no pair"
    assert nothing["correction"] == "Holm over 0 tests"
    assert np.isnan(nothing["p_adjusted"])


def test_what_cannot_be_compared():
    with pytest.raises(ScoringError, match="1 algorithm"):
        compare_methods(frame({"a": [0.5]}))
    with pytest.raises(ScoringError, match="'z'"):
        compare_methods(frame({"a": [0.5], "b": [0.6]}), against="z")
    with pytest.raises(ScoringError, match=r"'b'.*case_01"):
        compare_methods(frame({"a": [0.5, 0.6], "b": [0.6]}))
    apart = pd.concat(
        [frame({"a": [0.5]}), frame({"b": [0.6]}, part="test_mosmed", dataset="mosmed")]
    )
    with pytest.raises(ScoringError, match="no part in common"):
        compare_methods(apart)
