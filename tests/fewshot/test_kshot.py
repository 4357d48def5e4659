"""The k-shot protocol follows from the published folds; its curve is worked by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from covidseg.core.errors import ConfigError
from covidseg.fewshot.curve import algorithm, curve_figure, curve_table, summarise
from covidseg.fewshot.kshot import DRAWS, SHOTS, draw, reverse
from covidseg.splits.audit import audit
from covidseg.splits.load import load_split
from covidseg.splits.records import CaseRecord

EVERY_DRAW = pytest.mark.parametrize("number", range(DRAWS))


@EVERY_DRAW
def test_supports_are_nested_and_as_large_as_they_say(number):
    one = draw(number)
    supports = [one.support(shots) for shots in SHOTS]
    for smaller, larger in itertools.pairwise(supports):
        assert larger[: len(smaller)] == smaller
    largest = 14 if number in (2, 4) else 16
    assert [len(set(support)) for support in supports] == [1, 2, 4, 8, largest]


@EVERY_DRAW
def test_no_scan_or_patient_is_on_both_sides(number):
    one = draw(number)
    listed = {"train": one.pool, "test": one.test}
    assert not audit(
        {
            part: [CaseRecord(case.dataset, case.case_id) for case in cases]
            for part, cases in listed.items()
        }
    )


@EVERY_DRAW
def test_four_shots_are_a_fold_of_task_1_and_the_test_is_the_reversed_one(number):
    after = load_split(f"task1-infection-fold{(number + 1) % DRAWS}")
    assert draw(number).support(4) == after.parts["train"]
    assert draw(number).test == load_split(reverse(number)).parts["test"]
    assert set(draw(number).pool) <= set(load_split(reverse(number)).parts["train"])


def test_each_scan_is_tested_once():
    tested = [case for number in range(DRAWS) for case in draw(number).test]
    assert len(tested) == len(set(tested)) == 20


def test_what_there_is_not():
    with pytest.raises(ConfigError, match="no draw 5"):
        draw(5)
    with pytest.raises(ConfigError, match="0 shots"):
        draw(0).support(0)


def scores():
    """Two draws of two scans; DSC rises by 0.1 with each doubling."""
    rows = [
        {
            "task": "task1-reverse-infection", "algorithm": algorithm(shots), "fold": number,
            "part": "test", "dataset": "covid-ct-seg", "case_id": f"{number}-{case}",
            "patient_id": f"{number}-{case}", "label": "infection",
            "dsc": 0.3 + 0.1 * np.log2(shots) + 0.02 * number + 0.04 * case,
            "nsd_3mm": 0.5, "nave": 0.1, "volume_prediction_ml": 1.0, "volume_reference_ml": 1.0,
            "status": "ok", "message": "", "policy": "benchmark", "phantom": True,
        }
        for shots in (1, 2, 16) for number in range(2) for case in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_curve_worked_by_hand():
    summary = summarise(scores())
    mean = summary[(summary["draw"] == "average") & (summary["metric"] == "dsc")]
    assert mean["shots"].tolist() == [1, 16, 2]
    np.testing.assert_allclose(mean["mean"], [0.33, 0.73, 0.43])
    text = curve_table(scores()).render("md")
    assert "PHANTOM DATA" in text
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")][2:]
    assert [(shots.strip(), dsc.strip()[:4]) for shots, dsc in rows] == [
        ("1", "33.0"), ("2", "43.0"), ("16", "73.0"),
    ]  # fmt: skip


def test_a_scan_without_prediction_counts_as_the_worst():
    frame = scores()
    frame.loc[0, ["dsc", "nsd_3mm", "status"]] = [np.nan, np.nan, "missing_prediction"]
    summary = summarise(frame)
    mean = summary[
        (summary["draw"] == "average") & (summary["metric"] == "dsc") & (summary["shots"] == 1)
    ]
    np.testing.assert_allclose(mean["mean"], [0.33 - 0.3 / 4])


def test_the_figure_has_a_point_for_each_number_of_scans():
    figure = curve_figure(scores())
    [axis] = figure.axes
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "2", "16"]
    assert "PHANTOM" in figure.get_suptitle()
