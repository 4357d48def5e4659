"""Make the example of docs/tables.md: made-up scores, their table and their figures.

The scores are drawn at random for two methods that do not exist, on the case names of the published
Task 1 split, and are marked as phantoms, so that every output says what they are.

    python docs/tables_example.py /tmp/example        # scores only
    python docs/tables_example.py /tmp/example --figures docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from covidseg.scoring.plots import box_plot, case_strips, forest_plot, paired_lines, save_figure
from covidseg.scoring.scores import write_scores
from covidseg.scoring.tables_summary import Bootstrap, summarise_folds
from covidseg.scoring.tables_values import case_values
from covidseg.splits.identity import patient_of
from covidseg.splits.load import load_split

TASK = "task1-infection"
METHODS = {"made-up U-Net": 0.0, "made-up teacher": 0.05}


def made_up_scores(seed: int = 0) -> pd.DataFrame:
    """Cases differ in difficulty, methods differ by a little, folds add noise."""
    rng = np.random.default_rng(seed)
    rows = []
    difficulty: dict[str, float] = {}
    for fold in range(5):
        for case in load_split(f"{TASK}-fold{fold}").parts["test"]:
            hard = difficulty.setdefault(case.case_id, rng.beta(2, 4))
            for method, gain in METHODS.items():
                dsc = float(np.clip(0.9 + gain - 0.7 * hard + rng.normal(0, 0.04), 0.02, 0.98))
                rows.append(
                    {
                        "task": TASK,
                        "algorithm": method,
                        "fold": fold,
                        "part": "test",
                        "dataset": case.dataset,
                        "case_id": case.case_id,
                        "patient_id": patient_of(case),
                        "label": "infection",
                        "dsc": round(dsc, 4),
                        "nsd_3mm": round(min(1.0, dsc + 0.03), 4),
                        "nave": round(abs(float(rng.normal(0, 0.6 * (1 - dsc)))), 4),
                        "volume_prediction_ml": np.nan,
                        "volume_reference_ml": np.nan,
                        "status": "ok",
                        "message": "",
                        "policy": "undefined",
                        "phantom": True,
                    }
                )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the two CSV files go")
    parser.add_argument("--figures", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    scores = made_up_scores()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for method, rows in scores.groupby("algorithm"):
        write_scores(rows, arguments.folder / f"{str(method).replace(' ', '-')}.csv")
    if arguments.figures:
        values = case_values(scores)
        summary = summarise_folds(values, Bootstrap())
        figures = {
            "box": box_plot(values, "dsc", phantom=True),
            "cases": case_strips(values, "dsc", phantom=True),
            "lines": paired_lines(values, "dsc", phantom=True),
            "intervals": forest_plot(summary, "dsc", confidence=0.95, phantom=True),
        }
        for name, figure in figures.items():
            save_figure(figure, arguments.figures / f"tables-{name}")


if __name__ == "__main__":
    main()
