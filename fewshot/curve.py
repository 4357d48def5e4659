"""The k-shot curve: scores over the number of training scans, as a table and a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from covidseg.scoring.plots import COLOURS, MARKERS, new_figure
from covidseg.scoring.tables import PHANTOM_NOTICE, Row, Table, percent, percent_interval
from covidseg.scoring.tables_notes import LABELS, label_title
from covidseg.scoring.tables_summary import AVERAGE, DEFAULT_BOOTSTRAP, summarise_folds
from covidseg.scoring.tables_values import case_values, is_phantom, nsd_tolerance_mm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METRICS = ("dsc", "nsd")


def algorithm(shots: int) -> str:
    """The name under which scores of a support's size stand in a scores file."""
    return f"{shots}-shot"


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """`summarise_folds` of a curve's scores, with the draw as the fold and a column ``shots``.

    A scan that could not be predicted counts as the worst. Intervals are patient-clustered.
    """
    values = case_values(scores, metrics=_METRICS, missing="worst")
    summary = summarise_folds(values, DEFAULT_BOOTSTRAP)
    shots = summary["algorithm"].str.removesuffix("-shot").astype(int)
    return summary.assign(shots=shots).rename(columns={"fold": "draw"})


def curve_table(scores: pd.DataFrame) -> Table:
    """A row for each number of training scans: mean over all draws' test scans, and interval."""
    summary = summarise(scores)
    task = str(scores["task"].iloc[0])
    labels = _labels(summary)
    averages = summary[summary["draw"] == AVERAGE]
    of_point = {
        (row["shots"], row["label"], row["metric"]): row for row in averages.to_dict("records")
    }
    header: list[tuple[str, ...]] = [("", "training scans")]
    for label in labels:
        tolerance = nsd_tolerance_mm(task, label)
        for metric in ("DSC", f"NSD {tolerance:g} mm"):
            header += [(label_title(label), metric), (label_title(label), f"{metric} 95 %")]
    rows = []
    for shots in sorted(summary["shots"].unique()):
        cells = [str(shots)]
        for label in labels:
            for metric in _METRICS:
                found = of_point[shots, label, metric]
                cells.append(percent(found["mean"], found["std"]))
                cells.append(percent_interval(found["ci_low"], found["ci_high"]))
        rows.append(Row(tuple(cells)))
    draws = summary.loc[summary["draw"] != AVERAGE, "draw"].nunique()
    first = averages.iloc[0]
    over = "1 draw" if draws == 1 else f"{draws} draws"
    notes = (
        f"Per cent, mean±std over {int(first['n'])} test scans of {int(first['n_patients'])} "
        f"patients in {over}, which are the same in every row; 95 % intervals by "
        "patient-clustered bootstrap of the mean of draw means.",
        "Supports are nested and hold no scan of a patient who is tested; the largest has 14 "
        "instead of 16 scans in draws 2 and 4. All models are trained for as many steps.",
    )
    return Table(
        f"k-shot curve, {task}",
        tuple(header),
        tuple(rows),
        notes,
        summary,
        is_phantom(scores),
        text_columns=1,
    )


def curve_figure(scores: pd.DataFrame) -> Figure:
    """DSC over the number of training scans: mean with its interval, and each draw's mean."""
    summary = summarise(scores)
    summary = summary[summary["metric"] == "dsc"]
    labels = _labels(summary)
    figure = new_figure(4.4 * len(labels), 3.6)
    axes = figure.subplots(1, len(labels), squeeze=False, sharey=True)[0]
    for axis, label in zip(axes, labels, strict=True):
        of_label = summary[summary["label"] == label].sort_values("shots")
        for number, (_, own) in enumerate(of_label[of_label["draw"] != AVERAGE].groupby("draw")):
            axis.plot(
                own["shots"], own["mean"], color="#b0b0b0", linewidth=0.9, markersize=3,
                marker=MARKERS[number % len(MARKERS)], label="a draw" if number == 0 else None,
            )  # fmt: skip
        mean = of_label[of_label["draw"] == AVERAGE]
        reach = [mean["mean"] - mean["ci_low"], mean["ci_high"] - mean["mean"]]
        axis.errorbar(
            mean["shots"], mean["mean"], yerr=reach, color=COLOURS[0], marker="o", capsize=3,
            linewidth=1.8, label="mean, 95 % interval", zorder=3,
        )  # fmt: skip
        axis.set_xscale("log", base=2)
        shots = sorted(mean["shots"].unique())
        axis.set_xticks(shots, [str(number) for number in shots])
        axis.set_xticks([], minor=True)
        axis.set_xlabel("training scans")
        axis.set_title(label_title(label), fontsize=10)
        axis.set_ylim(-0.03, 1.03)
        axis.grid(axis="y", color="#e0e0e0", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("DSC (fraction)")
    axes[-1].legend(frameon=False, fontsize=8, loc="lower right")
    title = f"k-shot curve, {scores['task'].iloc[0]}"
    if is_phantom(scores):
        figure.suptitle(f"{PHANTOM_NOTICE}\n{title}", color="#b00000", fontsize="medium")
    else:
        figure.suptitle(title, fontsize="medium")
    return figure


def _labels(summary: pd.DataFrame) -> list[str]:
    found = summary["label"].unique()
    return [*(label for label in LABELS if label in found), *sorted(set(found) - set(LABELS))]
