"""Words and numbers that all tables share: names of parts and labels, notes, counts."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from covidseg.scoring.policy import POLICIES
from covidseg.scoring.tables_summary import Bootstrap
from covidseg.scoring.tables_values import Missing, nsd_tolerance_mm

PARTS = {
    "validation": "Validation",
    "test_in_domain": "In-domain test",
    "test": "Test",
    "test_covid": "Test COVID-19-CT-Seg",
    "test_mosmed": "Test MosMed",
}
LABELS = {
    "left_lung": "Left lung",
    "right_lung": "Right lung",
    "infection": "Infection",
    "lesion": "Lesion",
}
METRIC_TITLES = {"dsc": "DSC", "nsd": "NSD", "nave": "NAVE"}


def label_title(label: str) -> str:
    """A label as a heading: ``Left lung``."""
    return LABELS.get(label, label.replace("_", " ").capitalize())


def interval_note(summary: pd.DataFrame, bootstrap: Bootstrap) -> str:
    """How the intervals of a table came about, in a sentence or two."""
    ways = summary["ci_method"].value_counts()
    usual = {"bca": "BCa", "percentile": "percentile"}[bootstrap.method]
    others = "; ".join(f"{number} × {way}" for way, number in ways.items() if way != usual)
    return (
        f"Intervals: bootstrap over patients, {usual}, {bootstrap.n_resamples} resamples, seed "
        f"{bootstrap.seed}" + (f" (otherwise: {others})." if others else ".")
    )


def policy_note(policy: str, missing: Missing, summary: pd.DataFrame) -> str:
    """The rules for values that are not there, and how many there were."""
    n_missing, n_undefined = int(summary["n_missing"].sum()), int(summary["n_undefined"].sum())
    known = POLICIES.get(policy)
    meaning = f" ({known.meaning.rstrip('.')})" if known else ""
    rule = {
        "refuse": "none, or there would be no table",
        "worst": f"{n_missing} values, each as the worst there is (DSC and NSD 0, NAVE infinite)",
        "remove": f"{n_missing} values, in no mean",
    }[missing]
    return (
        f"Empty masks: policy '{policy}'{meaning}. Undefined: {n_undefined} values, in no mean. "
        f"Missing: {rule}."
    )


def numbers_frame(frames: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Frames of numbers, one's own and published, under one list of columns."""
    counts = [name for name in columns if name.startswith("n_") or name == "n"]
    numbers: pd.DataFrame = pd.concat(
        [frame.reindex(columns=columns) for frame in frames], ignore_index=True
    )
    numbers[counts] = numbers[counts].astype("Int64")
    nsd = numbers["metric"] == "nsd"
    numbers["tolerance_mm"] = [
        nsd_tolerance_mm(task, label) if is_nsd else None
        for task, label, is_nsd in zip(numbers["task"], numbers["label"], nsd, strict=True)
    ]
    return numbers
