"""The published numbers, checked against each other as far as they can be recomputed."""

import json
from importlib.resources import files

import numpy as np
import pytest

from covidseg.scoring.published import (
    parse_printed,
    published_benchmark,
    published_covid1920,
    published_sources,
)
from covidseg.splits.tasks import SUBTASKS

# Cases of a fold's part; the README prints none.
CASES = {
    ("task1", "test"): 16,
    ("task1-reverse", "test"): 4,
    ("task3", "test"): 16,
    ("task3-structseg-lung", "validation"): 10,
    ("task3-nsclc-lung", "validation"): 80,
    ("task3-msd-tumour", "validation"): 12,
    ("task3-structseg-target", "validation"): 10,
    ("task3-nsclc-effusion", "validation"): 15,
}
# What the remarks say a misprinted number should have been.
MISPRINTS = {
    ("task1-lung", "4", "left_lung", "dsc"): ("std", 0.07597),
    ("task3-nsclc-lung", "0", "right_lung", "nsd"): ("mean", 0.7526),
}

# Printed stds that their folds miss in the third or fourth digit, for a reason that is not known.
INEXACT = {
    ("task3-nsclc-lung", "validation", "right_lung", "nsd"),
    ("task3-nsclc-effusion", "validation", "lesion", "dsc"),
    ("task3-nsclc-effusion", "test", "lesion", "nsd"),
}


def fold_blocks():
    """(key, fold means, fold stds, printed mean, printed std) of every column that has folds."""
    frame = published_benchmark()
    keys = ["source", "task", "part", "label", "metric"]
    for key, block in frame.groupby(keys, sort=False):
        block = block.set_index("fold")
        if len(block) != 6:
            continue
        folds = block.drop(index="average")
        mean, std = folds["mean"].copy(), folds["std"].copy()
        for fold in folds.index:
            misprint = MISPRINTS.get((key[1], fold, key[3], key[4]))
            if misprint and key[2] == "test":
                assert folds.loc[fold, "remark"], "a misprint without its remark"
                {"mean": mean, "std": std}[misprint[0]][fold] = misprint[1]
        average = block.loc["average"]
        yield key, mean.to_numpy(), std.to_numpy(), average["mean"], average["std"]


def counts_of(key) -> np.ndarray:
    _, task, part, _, _ = key
    family = "task1-reverse" if task.startswith("task1-reverse") else task.split("-")[0]
    n = CASES.get((task, part)) or CASES[family, part]
    counts = np.full(5, n)
    if task == "task1-union":
        counts[0] = 15
    return counts


def pooled_std(means, stds, counts, ddof=1):
    """Std of all values together from the folds' means, stds and counts."""
    total = counts.sum()
    mean = (counts * means).sum() / total
    within = ((counts - ddof) * stds**2).sum()
    return np.sqrt((within + (counts * (means - mean) ** 2).sum()) / (total - ddof))


BLOCKS = list(fold_blocks())
NAMES = ["/".join(key[1:]) for key, *_ in BLOCKS]


def test_every_column_with_folds_is_checked():
    assert len(BLOCKS) == 6 + 6 + 8 + 2 * 2 * 4 + 3 * 2 * 2


@pytest.mark.parametrize("block", BLOCKS, ids=NAMES)
def test_printed_average_is_the_mean_over_cases(block):
    key, means, _, printed, _ = block
    counts = counts_of(key)
    # Four printed digits in the folds and in the average.
    assert (counts * means).sum() / counts.sum() == pytest.approx(printed, abs=1.01e-4)


@pytest.mark.parametrize("block", BLOCKS, ids=NAMES)
def test_printed_std_is_the_sample_std_over_all_pairs_of_fold_and_case(block):
    key, means, stds, _, printed = block
    got = pooled_std(means, stds, counts_of(key))
    if key[1:] in INEXACT:
        assert 1.5e-4 < abs(got - printed) < 8e-4
    else:
        assert got == pytest.approx(printed, abs=1.5e-4 if printed >= 0.1 else 8e-5)


def test_no_other_reading_of_the_std_fits():
    """Population std, std of the fold means, mean of the fold stds: all miss by far more."""
    readings = {"population": [], "of fold means": [], "mean of stds": [], "sample": []}
    for key, means, stds, _, printed in BLOCKS:
        counts = counts_of(key)
        readings["sample"].append(pooled_std(means, stds, counts) - printed)
        readings["population"].append(pooled_std(means, stds, counts, ddof=0) - printed)
        readings["of fold means"].append(means.std(ddof=1) - printed)
        readings["mean of stds"].append(stds.mean() - printed)
    error = {name: np.median(np.abs(values)) for name, values in readings.items()}
    assert error["sample"] < 5e-5
    assert min(error[name] for name in error if name != "sample") > 20 * error["sample"]


def test_task1_union_average_is_over_79_cases_and_only_fold_0_can_be_short():
    """Of all fold sizes from 14 to 17, one reproduces the twelve printed numbers."""
    union = [block for block in BLOCKS if block[0][1] == "task1-union"]
    fits = []
    for counts in np.stack(np.meshgrid(*[range(14, 18)] * 5), -1).reshape(-1, 5):
        worst = 0.0
        for _, means, stds, mean, std in union:
            worst = max(
                worst,
                abs((counts * means).sum() / counts.sum() - mean),
                abs(pooled_std(means, stds, counts) - std),
            )
        if worst < 3e-4:
            fits.append(counts.tolist())
    assert fits == [[15, 16, 16, 16, 16]]


def test_covid1920_std_is_the_populations():
    """Seen and unseen (23 each) combine to the printed std of all 46 with divisor n, not n - 1."""
    frame = published_covid1920()
    half = 0.0005
    fits = {0: 0, 1: 0}
    for _, team in frame[frame["part"] != "training"].groupby("method"):
        row = team.set_index("part")
        seen, unseen, both = row.loc["test_seen"], row.loc["test_unseen"], row.loc["all"]
        assert (seen["mean"] + unseen["mean"]) / 2 == pytest.approx(both["mean"], abs=1.01e-3)
        gap = abs(seen["mean"] - unseen["mean"])
        for ddof in fits:
            low, high = (
                np.sqrt(
                    (
                        (23 - ddof) * ((seen["std"] + e) ** 2 + (unseen["std"] + e) ** 2)
                        + 46 * ((gap + 2 * e) / 2) ** 2
                    )
                    / (46 - ddof)
                )
                for e in (-half, half)
            )
            fits[ddof] += low <= both["std"] + half and high >= both["std"] - half
    assert fits == {0: 10, 1: 0}


def test_tasks_parts_and_labels_are_the_splits_own():
    subtasks = {subtask.name: subtask for subtask in SUBTASKS}
    for task, part, label in (
        published_benchmark()[["task", "part", "label"]].drop_duplicates().itertuples(index=False)
    ):
        assert label in subtasks[task].targets.values()
        assert part in subtasks[task].parts or part == "test_mosmed"


def test_known_rows():
    """Read off the README by eye."""
    frame = published_benchmark("task1-infection")
    fold0 = frame[(frame["fold"] == "0") & (frame["metric"] == "dsc")].iloc[0]
    assert (fold0["mean"], fold0["std"], fold0["printed"]) == (0.6808, 0.2049, "0.6808±0.2049")
    flat = frame[(frame["method"] == "2D U-Net") & (frame["part"] == "test")]
    assert flat.set_index("metric").loc["nsd", "mean"] == 0.615
    assert set(frame["part"]) == {"test", "test_mosmed"}
    assert published_benchmark("no-such-task").empty


def test_every_source_is_named():
    used = set(published_benchmark()["source"]) | set(published_covid1920()["source"])
    assert used == set(published_sources())
    assert all(source.url.startswith("https://") for source in published_sources().values())


def test_remarks_point_at_existing_cells():
    content = json.loads(files("covidseg.scoring").joinpath("published.json").read_text("utf-8"))
    for table in content["benchmark"]:
        for remark in table.get("remarks", []):
            assert remark["row"] in table["rows"]
            assert remark["column"] in (*table["columns"], "*")


@pytest.mark.parametrize("text", ["0.85", "85.8±", "±1", "0.8±0.1 0.9", "0.8+-0.1"])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="mean±std"):
        parse_printed(text)


def test_percent_are_scaled_in_decimal():
    assert parse_printed("85.8±10.5", percent=True)[:2] == (0.858, 0.105)
    assert parse_printed("0.666±0.236 (0.754)") == (0.666, 0.236, 0.754)
