"""All scores below some folders, a table a task: where each method stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from covidseg.core.errors import ScoringError
from covidseg.scoring.published import published_benchmark
from covidseg.scoring.scores import IDENTITY, read_scores
from covidseg.scoring.tables import EMPTY, Row, Table, percent
from covidseg.scoring.tables_notes import LABELS, METRIC_TITLES, PARTS, label_title, policy_note
from covidseg.scoring.tables_summary import AVERAGE, summarise_folds
from covidseg.scoring.tables_values import base_task, case_values, check_scores
from covidseg.scoring.tables_variants import CLEAN, OFFICIAL, with_variants
from covidseg.splits.tasks import SUBTASKS

WHOLE, PIECES = "scores.csv", "scores-*.csv"
# Folders of a run in which no scores lie, but many files.
_PASSED_OVER = {"predictions", "checkpoints", "figures", "tensorboard"}
# The part that methods are ordered by: the first of these that a task has.
_MAIN = ("test_covid", "test", "test_in_domain", "validation")
_METRICS = ("dsc", "nsd")
_SERIES = ["task", "algorithm", "part"]


def find_scores(folders: Sequence[Path]) -> list[Path]:
    """Files of per-case scores in and below ``folders``.

    A folder's ``scores.csv`` is what its driver was called for last; ``scores-*.csv`` are of single
    runs, and `read_runs` takes of those below a ``scores.csv`` what that one lacks. A path of a
    file stands for itself.

    Raises
    ------
    ScoringError
        A path does not exist, or there is no score anywhere.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.exists():
            raise ScoringError("does not exist", path=folder)
        for path in [folder] if folder.is_file() else _below(folder):
            # A link to a run is that run.
            found.setdefault(path.resolve(), path)
    if not found:
        raise ScoringError(
            f"no scores in {', '.join(map(str, folders))}",
            expected=f"{WHOLE} or {PIECES} in or below",
            remedy="name the folder that a driver wrote to (runs/task1), or score predictions "
            "with `covidseg score`",
        )
    return list(found.values())


def _below(folder: Path, whole: bool = False) -> Iterator[Path]:
    if not whole and (folder / WHOLE).is_file():
        yield folder / WHOLE
        whole = True
    yield from sorted(folder.glob(PIECES))
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name not in _PASSED_OVER and not inner.name.endswith("-references"):
            yield from _below(inner, whole)


def read_runs(files: Sequence[Path]) -> pd.DataFrame:
    """The scores of several files as one frame.

    Where two files score the same case by methods of one name, the names get the files' folders; so
    they do where the files are two drivers', or where one numbers folds and the other does not. A
    column ``origin`` says where a row is from.
    """
    frames = {
        path: read_scores(path).assign(origin=str(path.parent), driver=_driver(path, files))
        for path in files
    }
    for path, frame in frames.items():
        for above in [] if path.name == WHOLE else path.parents:
            if (whole := frames.get(above / WHOLE)) is not None:
                known = pd.MultiIndex.from_frame(whole[_SERIES])
                frames[path] = frame[~pd.MultiIndex.from_frame(frame[_SERIES]).isin(known)]
    scores = pd.concat(list(frames.values()), ignore_index=True)
    same = [scores[name] for name in IDENTITY if name != "fold"]
    of_two = scores["driver"].groupby(same, dropna=False).transform("nunique") > 1
    # A run on its own may be another fold of a driver's method; one that names no fold is not.
    of_two |= scores["fold"].isna().groupby(same, dropna=False).transform("nunique") > 1
    repeated = scores.duplicated([*IDENTITY], keep=False) | of_two
    names = set(scores.loc[repeated, ["task", "algorithm"]].itertuples(index=False, name=None))
    clashes = [
        (task, algorithm) in names
        for task, algorithm in zip(scores["task"], scores["algorithm"], strict=True)
    ]
    named = scores["algorithm"] + " (" + scores["origin"] + ")"
    scores["algorithm"] = scores["algorithm"].where(~pd.Series(clashes), named)
    return scores.drop(columns="driver")


def _driver(path: Path, files: Sequence[Path]) -> str | None:
    """The nearest folder that holds a driver's ``scores.csv``; None for a run on its own."""
    above = [path.parent] if path.name == WHOLE else list(path.parents)
    return next((str(folder) for folder in above if folder / WHOLE in files), None)


def leaderboard_tables(scores: pd.DataFrame) -> list[Table]:
    """A table a task, methods in the order of their mean DSC; phantoms and patients apart.

    ``scores`` are as `read_runs` gives them; without a column ``origin`` all are of one file.
    Cases without a score count as the worst. Published averages stand beneath, without a rank.

    Raises
    ------
    ScoringError, ConfigError
        See `covidseg.scoring.tables_values.case_values`.
    """
    tables = []
    if "origin" not in scores:
        scores = scores.assign(origin="")
    for phantom, frame in scores.groupby("phantom"):
        check_scores(frame)
        for task, of_task in frame.groupby(frame["task"].map(base_task), sort=True):
            of_task, unmeasured = _with_reference(of_task)
            if of_task.empty:
                continue
            of_variants, notes = with_variants(of_task)
            tables.append(_table(str(task), of_variants, bool(phantom), notes + unmeasured))
    return tables


def _with_reference(scores: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Scores without the cases that have no reference, which no method can be blamed for."""
    without = scores["status"] == "missing_reference"
    cases = sorted(scores.loc[without, "case_id"].unique())
    if not cases:
        return scores, []
    shown = ", ".join(cases[:5]) + (f" and {len(cases) - 5} more" if len(cases) > 5 else "")
    return scores[~without], [f"Left out, as they have no reference: {shown}."]


def _table(task: str, scores: pd.DataFrame, phantom: bool, notes: list[str]) -> Table:
    # Completed file by file: folds of one driver are seeds to another, and no fold to a third.
    completed = [
        case_values(frame.drop(columns="origin"), metrics=_METRICS, missing="worst").assign(
            variant=str(variant), filtered=bool(filtered)
        )
        for (variant, filtered, _), frame in scores.groupby(["variant", "filtered", "origin"])
    ]
    summaries = [
        summarise_folds(of_variant.drop(columns=["variant", "filtered"])).assign(
            variant=str(variant), filtered=bool(filtered)
        )
        for (variant, filtered), of_variant in pd.concat(completed, ignore_index=True).groupby(
            ["variant", "filtered"]
        )
    ]
    summary = pd.concat(summaries, ignore_index=True)
    means = summary[summary["fold"] == AVERAGE]
    folds = scores.groupby(["variant", "algorithm"])["fold"].nunique()
    places = _places(means)
    main = next((part for part in _MAIN if part in set(means["part"])), str(places[0][0]))
    first = means[(means["part"] == main) & (means["metric"] == "dsc")]
    # Without a DSC there of every label a method is last, and has no rank.
    by_label = first.pivot(index=["variant", "algorithm"], columns="label", values="mean")
    standing = by_label.mean(axis=1, skipna=False).dropna()
    ordered = sorted(
        {(str(v), str(a)) for v, a in means[["variant", "algorithm"]].to_numpy()},
        key=lambda key: (key[0] != OFFICIAL, -standing.get(key, -1.0), key[1]),
    )
    rows = []
    for number, key in enumerate(ordered, start=1):
        own = means[(means["variant"] == key[0]) & (means["algorithm"] == key[1])]
        values = _shown(own)
        rank = ""
        if key[0] == OFFICIAL and key in standing.index:
            rank = str(1 + int((standing.loc[OFFICIAL] > standing[key]).sum()))
        name = key[1] + ("" if key[0] == OFFICIAL else f", {CLEAN}")
        cells = [values.get(place, EMPTY) for place in places]
        rows.append(Row((rank, name, str(folds.get(key, 0) or ""), *cells), number == 1))
    rows += _published_rows(task, places)
    header = [("", "", "Rank"), ("", "", "Method"), ("", "", "Folds")] + [
        (PARTS.get(part, part), label_title(label), METRIC_TITLES[metric])
        for part, label, metric in places
    ]
    text = [
        f"DSC and NSD in percent, mean±std over cases, fold by fold; ordered by the mean DSC of "
        f"{PARTS.get(main, main)}. A case without a score counts as 0, where other "
        "scores of the same file have it; a method that lacks a label has no rank; folds (or "
        "seeds) that a method lacks count as nothing.",
        policy_note(str(scores["policy"].iloc[0]), "worst", means[~means["filtered"]]),
        *notes,
    ]
    if phantom:
        text.append("Published rows are of patients, the others of phantoms: not to be compared.")
    title = next((subtask.title for subtask in SUBTASKS if subtask.name == task), task)
    return Table(
        f"Leaderboard, {title} ({task})",
        tuple(header),
        tuple(rows),
        tuple(text),
        means.drop(columns=["fold", "filtered"]),
        phantom,
        2,
    )


def _places(means: pd.DataFrame) -> list[tuple[str, str, str]]:
    def position(names: list[str], name: str) -> tuple[int, str]:
        return (names.index(name) if name in names else len(names), name)

    found = {(str(part), str(label)) for part, label in means[["part", "label"]].to_numpy()}
    order = sorted(found, key=lambda p: (position([*PARTS], p[0]), position([*LABELS], p[1])))
    return [(part, label, metric) for part, label in order for metric in _METRICS]


def _shown(means: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Mean and std of each part, label and metric as a table prints them."""
    return {
        (row["part"], row["label"], row["metric"]): percent(row["mean"], row["std"])
        for row in means.to_dict("records")
    }


def _published_rows(task: str, places: list[tuple[str, str, str]]) -> list[Row]:
    published = published_benchmark(task)
    averages = published[published["fold"] == AVERAGE]
    rows: list[Row] = []
    for method, of_method in averages.groupby("method", sort=False):
        values = _shown(of_method)
        cells = [values.get(place, EMPTY) for place in places]
        if any(cell != EMPTY for cell in cells):
            rows.append(Row(("", f"{method} (published)", "", *cells), new_block=not rows))
    return rows
