"""What a driver of the benchmark's tasks leaves behind."""

from __future__ import annotations

import pandas as pd
import pytest

from covidseg.trainers.report import write_report


def scores(*algorithms):
    rows = [
        {
            "task": "task2-structseg-lung", "algorithm": algorithm, "fold": 0, "part": "test_covid",
            "dataset": "covid-ct-seg", "case_id": f"case{number}", "patient_id": f"case{number}",
            "label": label, "dsc": 0.5 + number / 10, "nsd_1mm": 0.5, "nave": 1.0,
            "volume_prediction_ml": 1.0, "volume_reference_ml": 1.0, "status": "ok",
            "message": "", "policy": "undefined", "phantom": True,
        }
        for algorithm in algorithms
        for number in range(4)
        for label in ("left_lung", "right_lung")
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("algorithms", [("plain",), ("plain", "gin")])
def test_one_algorithm_has_tables_and_several_are_compared(tmp_path, algorithms):
    tables = write_report(scores(*algorithms), tmp_path, "task2", compare=True, repetition="Seed")
    assert len(tables) == len(algorithms)
    for name in ("scores.csv", "task2.md", "task2.csv", "task2.tex"):
        assert (tmp_path / name).stat().st_size > 200
    assert "Seed 0" in (tmp_path / "task2.md").read_text()
    assert list((tmp_path / "figures").glob("*.png"))
