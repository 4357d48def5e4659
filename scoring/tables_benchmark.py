"""The benchmark's tables: fold by fold, average, mean±std in percent.

After the tables of JunMa11/COVID-19-CT-Seg-Benchmark (Task1 to Task3/README.md) and of Ma et al.,
*Medical Physics* 48 (2021), with what they lack: counts, patient-clustered intervals, and official
and patient-clean results side by side.
"""

from __future__ import annotations

import pandas as pd

from covidseg.scoring.published import published_benchmark, published_sources
from covidseg.scoring.tables import (
    EMPTY,
    Row,
    Table,
    count,
    percent,
    percent_interval,
)
from covidseg.scoring.tables_notes import (
    LABELS,
    METRIC_TITLES,
    PARTS,
    interval_note,
    label_title,
    numbers_frame,
    policy_note,
)
from covidseg.scoring.tables_summary import (
    AVERAGE,
    DEFAULT_BOOTSTRAP,
    Bootstrap,
    summarise_folds,
)
from covidseg.scoring.tables_values import (
    Missing,
    case_values,
    check_scores,
    is_phantom,
    nsd_tolerance_mm,
)
from covidseg.scoring.tables_variants import CLEAN, OFFICIAL, with_variants
from covidseg.splits.tasks import SUBTASKS

_METRICS = ("dsc", "nsd")


def benchmark_tables(
    scores: pd.DataFrame,
    *,
    published: bool = True,
    missing: Missing = "refuse",
    bootstrap: Bootstrap | None = DEFAULT_BOOTSTRAP,
    repetition: str = "Fold",
) -> list[Table]:
    """One table a subtask, rows by method and fold, columns by part, label and metric.

    Parameters
    ----------
    scores
        Per-case scores of any number of subtasks and algorithms
        (`covidseg.scoring.scores.read_scores`).
    published
        Set the published U-Net rows of the subtask beneath one's own.
    missing
        What a case without a score does: ``refuse``, ``worst`` or ``remove``
        (`covidseg.scoring.tables_values`).
    bootstrap
        How the intervals of the averages are drawn; None leaves them out.
    repetition
        What the numbers in the column ``fold`` are called: seeds, where that is what was repeated.

    Raises
    ------
    ScoringError, ConfigError
        See `covidseg.scoring.tables_values.case_values`.
    """
    check_scores(scores)
    phantom = is_phantom(scores)
    policy = str(scores["policy"].iloc[0])
    scores, variant_notes = with_variants(scores)
    summaries = [
        summarise_folds(
            case_values(of_variant, metrics=_METRICS, missing=missing), bootstrap
        ).assign(variant=str(variant), filtered=bool(filtered))
        for (variant, filtered), of_variant in scores.groupby(["variant", "filtered"], sort=True)
    ]
    summary = pd.concat(summaries, ignore_index=True)
    tables = []
    for task, of_task in summary.groupby("task", sort=True):
        theirs = _chosen(published_benchmark(str(task)), of_task) if published else None
        notes = [
            *_reading_notes(str(task), of_task, bootstrap, repetition.lower()),
            *variant_notes,
            policy_note(policy, missing, _counted_once(of_task)),
            *_published_notes(theirs, phantom),
        ]
        columns = _columns(of_task)
        tables.append(
            Table(
                title=f"{_title(str(task))} ({task})",
                header=_header(columns, repetition),
                rows=tuple(
                    _own_rows(of_task, columns, missing, bootstrap, repetition)
                    + ([] if theirs is None else _published_rows(theirs, columns))
                ),
                notes=tuple(notes),
                numbers=_numbers(of_task, theirs, policy, missing, bootstrap),
                phantom=phantom,
                text_columns=2,
            )
        )
    return tables


def _counted_once(summary: pd.DataFrame) -> pd.DataFrame:
    """The averages without those of official scores that are filtered, and stand there twice."""
    return summary[(summary["fold"] == AVERAGE) & ~summary["filtered"]]


# A column: part, dataset, label, metric. The metric "n" counts; of all labels if ``label`` is "".
_Column = tuple[str, str, str, str]
_COLUMN = ["part", "dataset", "label", "metric"]


def _columns(summary: pd.DataFrame) -> list[_Column]:
    order: list[list[str]] = [[*PARTS], [], [*LABELS]]

    def position(place: tuple[str, ...]) -> list[tuple[int, str]]:
        return [
            (known.index(name) if name in known else len(known), name)
            for known, name in zip(order, place, strict=True)
        ]

    columns: list[_Column] = []
    places = {
        (str(part), str(dataset)) for part, dataset in summary[["part", "dataset"]].to_numpy()
    }
    for part, dataset in sorted(places, key=lambda place: position((*place, ""))):
        of_part = summary[(summary["part"] == part) & (summary["dataset"] == dataset)]
        labels = sorted(
            {str(label) for label in of_part["label"]}, key=lambda label: position(("", "", label))
        )
        # One column of counts is enough where they are the same for all labels and metrics.
        counts = of_part.groupby(["variant", "algorithm", "fold"])[
            ["n", "n_missing", "n_undefined"]
        ]
        shared = bool((counts.nunique() == 1).all(axis=None))
        for label in labels:
            own = [] if shared else ["n"]
            columns += [(part, dataset, label, metric) for metric in (*_METRICS, *own)]
        if shared:
            columns.append((part, dataset, "", "n"))
    return columns


def _header(columns: list[_Column], repetition: str) -> tuple[tuple[str, ...], ...]:
    parts = {column[:2] for column in columns}
    many_datasets = len({part for part, _ in parts}) < len(parts)
    header = [("", "", "Method"), ("", "", repetition)]
    for part, dataset, label, metric in columns:
        place = PARTS.get(part, part) + (f" {dataset}" if many_datasets and dataset else "")
        header.append(
            (
                place if len(parts) > 1 else "",
                label_title(label),
                METRIC_TITLES.get(metric, metric),
            )
        )
    return tuple(header)


def _own_rows(
    summary: pd.DataFrame,
    columns: list[_Column],
    missing: Missing,
    bootstrap: Bootstrap | None,
    repetition: str,
) -> list[Row]:
    rows = []
    for algorithm, of_algorithm in summary.groupby("algorithm", sort=True):
        named = str(algorithm)
        for variant in (OFFICIAL, CLEAN):
            of_variant = of_algorithm[of_algorithm["variant"] == variant]
            if of_variant.empty:
                continue
            found = of_variant.set_index(["fold", *_COLUMN]).to_dict("index")
            folds = sorted(set(of_variant["fold"]) - {AVERAGE}, key=int)
            average = "Average" if folds else "All cases"
            suffix = "" if variant == OFFICIAL else f", {CLEAN}"
            # The folds without a leak repeat the official ones; the CSV has them all.
            shown = [*folds, AVERAGE] if variant == OFFICIAL else [AVERAGE]
            for fold in shown:
                cells = [_own_cell(found, fold, column, missing) for column in columns]
                name = (average if fold == AVERAGE else f"{repetition} {fold}") + suffix
                rows.append(Row((named, name, *cells), new_block=bool(named)))
                named = ""
            if bootstrap is not None:
                cells = [_interval_cell(found, column) for column in columns]
                rows.append(Row(("", f"{100 * bootstrap.confidence:g} % interval", *cells)))
    return rows


def _own_cell(found: dict, fold: str, column: _Column, missing: Missing) -> str:
    part, dataset, label, metric = column
    if metric != "n":
        values = found.get((fold, *column))
        return EMPTY if values is None else percent(values["mean"], values["std"])
    counts = [
        count(values["n"], values["n_missing"], values["n_undefined"], missing=missing)
        for key, values in found.items()
        if key[:3] == (fold, part, dataset) and label in ("", key[3])
    ]
    return " / ".join(dict.fromkeys(counts)) or EMPTY


def _interval_cell(found: dict, column: _Column) -> str:
    values = found.get((AVERAGE, *column))
    return "" if values is None else percent_interval(values["ci_low"], values["ci_high"])


def _chosen(published: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame | None:
    """The published numbers of the columns at hand, each from its most detailed source."""
    datasets = summary.groupby("part")["dataset"].nunique()
    parts = set(datasets[datasets == 1].index)
    labels = set(summary["label"])
    chosen = published[published["part"].isin(parts) & published["label"].isin(labels)]
    if chosen.empty:
        return None
    # The README repeats averages, rounded, of the tables that have the folds.
    place = ["method", "part", "label", "metric"]
    detailed = chosen["source"] != "benchmark-readme"
    covered = set(chosen.loc[detailed, place].itertuples(index=False, name=None))
    repeated = [
        not is_detailed and where in covered
        for is_detailed, where in zip(
            detailed, chosen[place].itertuples(index=False, name=None), strict=True
        )
    ]
    return chosen[[not drop for drop in repeated]]


def _published_rows(published: pd.DataFrame, columns: list[_Column]) -> list[Row]:
    rows = []
    for method, of_method in published.groupby("method", sort=False):
        found = of_method.set_index(["fold", "part", "label", "metric"]).to_dict("index")
        folds = sorted(set(of_method["fold"]) - {AVERAGE})
        named = f"{method} (published)"
        for fold in (*folds, AVERAGE):
            cells = []
            for part, _, label, metric in columns:
                values = found.get((fold, part, label, metric))
                if values is None:
                    cells.append("" if metric == "n" else EMPTY)
                else:
                    mark = "†" if values["remark"] else ""
                    cells.append(percent(values["mean"], values["std"]) + mark)
            name = f"Fold {fold}" if fold != AVERAGE else "Average"
            rows.append(Row((named, name, *cells), new_block=bool(named)))
            named = ""
    return rows


def _title(task: str) -> str:
    return next((subtask.title for subtask in SUBTASKS if subtask.name == task), task)


def _reading_notes(
    task: str, summary: pd.DataFrame, bootstrap: Bootstrap | None, repetition: str
) -> list[str]:
    tolerances: dict[float, list[str]] = {}
    for label in dict.fromkeys(summary["label"]):
        tolerances.setdefault(nsd_tolerance_mm(task, label), []).append(label_title(label).lower())
    nsd = "; ".join(
        f"{tolerance:g} mm for {' and '.join(sorted(names))}"
        for tolerance, names in sorted(tolerances.items())
    )
    notes = [
        f"DSC and NSD in percent, mean±std; NSD at {nsd}. A {repetition}'s std is the sample "
        f"standard deviation over its cases; the average is the mean of the {repetition} means, "
        f"its std is over all ({repetition}, case) pairs together, as in the published tables. n "
        "counts the values in the mean."
    ]
    averages = summary[summary["fold"] == AVERAGE]
    largest = (averages["mean"] - averages["mean_over_cases"]).abs().max()
    if largest >= 0.0005:
        notes.append(
            f"Some {repetition}s hold fewer values than others, so that the mean over all "
            f"({repetition}, case) "
            f"pairs is another; it differs by at most {100 * largest:.1f} and stands in the CSV as "
            "mean_over_cases."
        )
    if bootstrap is not None:
        notes.append(interval_note(averages, bootstrap))
    return notes


def _published_notes(published: pd.DataFrame | None, phantom: bool) -> list[str]:
    if published is None:
        return []
    sources = published_sources()
    where = "; ".join(
        f"{sources[key].title}, {sources[key].url}" for key in dict.fromkeys(published["source"])
    )
    notes = [f"Published rows: {where}."]
    if phantom:
        notes.append(
            "The published rows are of patients, the others of phantoms: not to be compared."
        )
    for (method, fold, remark), group in published[published["remark"] != ""].groupby(
        ["method", "fold", "remark"], sort=False
    ):
        marked = [
            f"{label_title(label)} {METRIC_TITLES[metric]}"
            for label, metric in group[["label", "metric"]].itertuples(index=False)
        ]
        where = ", ".join(marked) if len(marked) < 3 else "all columns"
        row = fold if fold == AVERAGE else f"fold {fold}"
        notes.append(f"† {method}, {row}, {where}: {remark}.")
    return notes


_NUMBERS = [
    "origin",
    "task",
    "variant",
    "method",
    "part",
    "dataset",
    "fold",
    "label",
    "metric",
    "tolerance_mm",
    "mean",
    "std",
    "median",
    "mean_over_cases",
    "ci_low",
    "ci_high",
    "ci_method",
    "confidence",
    "n",
    "n_missing",
    "n_undefined",
    "n_infinite",
    "n_patients",
    "policy",
    "missing",
    "remark",
]


def _numbers(
    summary: pd.DataFrame,
    published: pd.DataFrame | None,
    policy: str,
    missing: Missing,
    bootstrap: Bootstrap | None,
) -> pd.DataFrame:
    own = summary.rename(columns={"algorithm": "method"}).assign(
        origin="own", policy=policy, missing=missing
    )
    frames = [own.assign(confidence=bootstrap.confidence) if bootstrap else own]
    if published is not None:
        frames.append(published.rename(columns={"source": "origin"}).assign(variant=OFFICIAL))
    return numbers_frame(frames, _NUMBERS)
