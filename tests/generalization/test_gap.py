"""The share of a gap that is closed, by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from covidseg.generalization.gap import gap_report, gap_table


def score(algorithm, part, case, dsc):
    return {
        "task": "task2-nsclc-lung", "algorithm": algorithm, "fold": 0, "part": part,
        "dataset": part, "case_id": case, "patient_id": case, "label": "left_lung", "dsc": dsc,
        "nave": 1.0, "volume_prediction_ml": 1.0, "volume_reference_ml": 1.0, "status": "ok",
        "message": "", "policy": "undefined", "phantom": True,
    }  # fmt: skip


def scores(*rows):
    return pd.DataFrame([score(*row) for row in rows])


def test_by_hand():
    plain, gin = "plain, this source", "gin, this source"
    table = gap_table(scores(
        (plain, "test_in_domain", "a", 0.9), (plain, "test_in_domain", "b", 0.7),
        (plain, "test_covid", "c", 0.3), (plain, "test_covid", "d", 0.5),
        (gin, "test_in_domain", "a", 0.8), (gin, "test_in_domain", "b", 0.8),
        (gin, "test_covid", "c", 0.6), (gin, "test_covid", "d", 0.7),
    ))  # fmt: skip
    found = table.set_index("algorithm")
    assert found.loc[plain, "in_domain"] == pytest.approx(80)
    assert found.loc[plain, "unseen"] == pytest.approx(40)
    assert found.loc[plain, "closed"] == pytest.approx(0)
    # 65 of 40 to 80: five eighths.
    assert found.loc[gin, "closed"] == pytest.approx(62.5)


def test_the_report():
    rows = [("plain, this source", "test_in_domain", "a", 0.9)]
    rows.append(("plain, this source", "test_covid", "c", 0.3))
    printed = gap_report(scores(*rows)).markdown()
    assert "PHANTOM DATA" in printed
    assert "| plain, this source | 90.0 | 30.0 | 0.0 | 0.0 |" in printed


def test_no_baseline_and_no_gap():
    alone = gap_table(scores(("gin, all sources", "test_covid", "c", 0.6)))
    assert alone["closed"].isna().all()
    assert alone["in_domain"].isna().all()
    upside_down = gap_table(scores(
        ("plain, this source", "test_in_domain", "a", 0.2),
        ("plain, this source", "test_covid", "c", 0.6),
    ))  # fmt: skip
    assert upside_down["closed"].isna().all()
    tiny = gap_table(scores(
        ("plain, this source", "test_in_domain", "a", 0.91),
        ("plain, this source", "test_covid", "c", 0.90),
        ("gin, this source", "test_covid", "c", 0.88),
    ))  # fmt: skip
    assert tiny["closed"].isna().all()


def test_each_seed_has_its_own_share():
    plain, gin = "plain, this source", "gin, this source"
    frames = [
        scores(
            (plain, "test_in_domain", "a", 0.9), (plain, "test_covid", "c", 0.5),
            (gin, "test_covid", "c", unseen),
        ).assign(fold=seed)
        for seed, unseen in ((0, 0.6), (3, 0.8))
    ]  # fmt: skip
    printed = gap_report(pd.concat(frames, ignore_index=True)).markdown()
    # 10 and 30 of 40 points; together 20 of 40.
    assert f"| {gin} | – | 70.0 | 50.0 | 25.0, 75.0 |" in printed
