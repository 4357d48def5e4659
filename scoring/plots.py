"""Figures of per-case scores: box plots, strips of cases, lines between methods, forest plots.

Every function takes checked data and returns a `matplotlib.figure.Figure` that belongs to no
global state (no pyplot, no display); `save_figure` writes it as PNG and SVG. Methods differ by
colour *and* marker, in the palette of Okabe & Ito (2008), which the colour-blind can tell apart.
Figures of phantoms say so across the top.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from covidseg.core.errors import ScoringError
from covidseg.core.files import atomic_file
from covidseg.scoring.tables import PHANTOM_NOTICE
from covidseg.scoring.tables_notes import LABELS, PARTS, label_title
from covidseg.scoring.tables_summary import AVERAGE
from covidseg.scoring.tables_values import nsd_tolerance_mm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito without yellow and black: yellow is faint on white, black is for annotations.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# One more than colours: seven methods or more are still told apart.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#606060"
# Above so many methods, names no longer fit side by side.
_NARROW = 4
_TURNED = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
# Letters of a line of a name, beneath a box and slantwise.
_WIDTH, _TURNED_WIDTH = 14, 28


def box_plot(values: pd.DataFrame, metric: str, *, phantom: bool) -> Figure:
    """Box plots of a metric with a point for every case, a panel for each part and label.

    Parameters
    ----------
    values
        Of one task, from `covidseg.scoring.tables_values.case_values`. A box is the quartiles with
        the median, whiskers reach to the furthest value within 1.5 quartile distances, and all
        values are drawn as points, so nothing needs to be marked as an outlier. The diamond is the
        mean. Values that are not there are counted under the name.
    metric
        ``dsc``, ``nsd`` or ``nave``.
    phantom
        Whether the scores are of phantoms; the figure then says so.
    """
    panels = _panels(values, metric)
    algorithms = sorted(values["algorithm"].unique())
    turned = _TURNED if len(algorithms) > _NARROW else {}
    lines = max(_wrapped(name, _TURNED_WIDTH).count("\n") + 1 for name in algorithms)
    each = max(0.7, 0.26 * lines) if turned else 1.1  # slantwise, lines of two names would meet
    figure = new_figure(max(3.2, 0.9 + each * len(algorithms)) * len(panels), 4.2)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for number, (axis, (title, panel)) in enumerate(zip(axes, panels, strict=True)):
        names = []
        for position, algorithm in enumerate(algorithms):
            of_method = panel[panel["algorithm"] == algorithm]
            drawn = of_method[np.isfinite(of_method["value"])]
            wide = _TURNED_WIDTH if turned else _WIDTH
            names.append(_name_with_absent(_wrapped(algorithm, wide), of_method))
            if drawn.empty:
                continue
            _box(axis, position, drawn["value"].to_numpy(), position)
        axis.set_xticks(range(len(algorithms)), names, **turned)
        axis.set_xlim(-0.6, len(algorithms) - 0.4)
        _score_axis(axis, metric, panel)
        axis.set_ylabel(_score_label(metric, panel) if number == 0 or metric == "nsd" else "")
        axis.set_title(title)
    _finish(figure, values, phantom)
    return figure


def _box(axis: Axes, position: float, drawn: np.ndarray, number: int) -> None:
    colour = COLOURS[number % len(COLOURS)]
    axis.boxplot(
        [drawn],
        positions=[position],
        widths=0.55,
        showfliers=False,
        medianprops={"color": colour, "linewidth": 2},
        boxprops={"color": _GREY},
        whiskerprops={"color": _GREY},
        capprops={"color": _GREY},
        manage_ticks=False,
    )
    axis.scatter(
        position + _spread(drawn),
        drawn,
        s=14,
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        alpha=0.55,
        linewidths=0,
        zorder=3,
    )
    axis.scatter([position], [drawn.mean()], s=36, color="black", marker="D", zorder=4)


def _spread(values: np.ndarray) -> np.ndarray:
    """Horizontal places for points so that near values stand apart; a function of values alone."""
    order = np.argsort(values, kind="stable")
    # The golden ratio's multiples fill an interval evenly, in the order of the values.
    places = np.empty(len(values))
    places[order] = (np.arange(len(values)) * 0.618034) % 1
    return 0.36 * (places - 0.5)


def case_strips(values: pd.DataFrame, metric: str, *, phantom: bool) -> Figure:
    """A strip a case: every method's values at that case, cases ordered by their mean.

    Shows which cases are hard for all methods and which for one. A case that was scored in several
    folds has a point for each. Parameters as in `box_plot`; a row of panels a part and label.
    """
    panels = _panels(values, metric)
    algorithms = sorted(values["algorithm"].unique())
    longest = max(panel["case_id"].nunique() for _, panel in panels)
    beside = 0.6 + 0.08 * max(map(len, algorithms))  # the legend, which would cover points
    high = max(3.4, 0.6 + 0.18 * len(algorithms))
    figure = new_figure(max(6.0, 1.6 + 0.2 * longest) + beside, 0.6 + high * len(panels))
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (title, panel) in zip(axes, panels, strict=True):
        finite = panel[np.isfinite(panel["value"])]
        cases = list(
            panel.assign(value=panel["value"].where(np.isfinite(panel["value"])))
            .groupby("case_id")["value"]
            .mean()
            .sort_values(kind="stable", na_position="first")
            .index
        )
        place = {case: number for number, case in enumerate(cases)}
        ends = finite.groupby("case_id")["value"].agg(["min", "max"])
        axis.vlines(
            [place[case] for case in ends.index],
            ends["min"],
            ends["max"],
            color="#c8c8c8",
            zorder=1,
        )
        shift = 0.5 / max(1, len(algorithms))
        for number, algorithm in enumerate(algorithms):
            mine = finite[finite["algorithm"] == algorithm]
            offset = shift * (number - (len(algorithms) - 1) / 2)
            axis.scatter(
                mine["case_id"].map(place).to_numpy() + offset,
                mine["value"],
                s=18,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                alpha=0.8,
                linewidths=0,
                label=_name_with_absent(
                    shown_name(algorithm), panel[panel["algorithm"] == algorithm], " "
                ),
                zorder=2,
            )
        axis.set_xticks(
            range(len(cases)), [shown_name(case) for case in cases], rotation=90, fontsize=7
        )
        axis.set_xlim(-0.7, len(cases) - 0.3)
        axis.set_ylabel(_score_label(metric, panel))
        _score_axis(axis, metric, panel)
        axis.set_title(title)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    axes[-1].set_xlabel("Case, in the order of its mean score")
    _finish(figure, values, phantom)
    return figure


def paired_lines(values: pd.DataFrame, metric: str, *, phantom: bool) -> Figure:
    """A line a case (and fold) from method to method, a panel for each part and label.

    The thick line joins the means over the cases that all methods have. Parameters as in
    `box_plot`; at least two methods.
    """
    algorithms = sorted(values["algorithm"].unique())
    if len(algorithms) < 2:
        raise ScoringError("lines between methods need two methods", expected="two score files")
    panels = _panels(values, metric)
    figure = new_figure(max(3.2, 1.0 + 1.1 * len(algorithms)) * len(panels), 4.2)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for number, (axis, (title, panel)) in enumerate(zip(axes, panels, strict=True)):
        wide = panel.pivot(
            index=["fold", "dataset", "case_id"], columns="algorithm", values="value"
        )
        wide = wide.reindex(columns=algorithms).replace([np.inf], np.nan)
        for case in wide.to_numpy():
            axis.plot(range(len(algorithms)), case, color=_GREY, alpha=0.3, linewidth=0.8)
        for position, algorithm in enumerate(algorithms):
            mine = wide[algorithm].dropna()
            axis.scatter(
                np.full(len(mine), position),
                mine,
                s=16,
                color=COLOURS[position % len(COLOURS)],
                marker=MARKERS[position % len(MARKERS)],
                alpha=0.7,
                linewidths=0,
                zorder=3,
            )
        whole = wide.dropna()
        axis.plot(
            range(len(algorithms)), whole.mean(), color="black", linewidth=2.5, marker="D", zorder=4
        )
        absent = len(wide) - len(whole)
        axis.set_xticks(range(len(algorithms)), [_wrapped(name) for name in algorithms])
        axis.set_xlim(-0.4, len(algorithms) - 0.6)
        _score_axis(axis, metric, panel)
        axis.set_ylabel(_score_label(metric, panel) if number == 0 or metric == "nsd" else "")
        pairs = f"{len(whole)} lines" + (f", {absent} not whole" if absent else "")
        axis.set_title(f"{title}\n{pairs}")
    _finish(figure, values, phantom)
    return figure


def forest_plot(summary: pd.DataFrame, metric: str, *, confidence: float, phantom: bool) -> Figure:
    """Means with their intervals, a line a method, a panel for each part and label.

    ``summary`` is of one task, from `covidseg.scoring.tables_summary.summarise_folds` with
    intervals; the averages are drawn. An average without an interval is a lone marker.
    """
    from matplotlib.ticker import MaxNLocator

    averages = summary[(summary["fold"] == AVERAGE) & (summary["metric"] == metric)]
    panels = _panels(averages, metric)
    algorithms = sorted(averages["algorithm"].unique())
    beside = 0.085 * max(map(len, algorithms))  # the names, which would push the axes out
    width = max(5.0, 3.2 * len(panels), 2.6 * len(panels) + beside)
    figure = new_figure(width, 1.6 + 0.42 * len(algorithms))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, panel) in zip(axes, panels, strict=True):
        by_method = panel.set_index("algorithm").to_dict("index")
        for number, algorithm in enumerate(algorithms):
            row = by_method.get(algorithm)
            if row is None or not np.isfinite(row["mean"]):
                continue
            colour = COLOURS[number % len(COLOURS)]
            if np.isfinite(row["ci_low"]):
                axis.hlines(number, row["ci_low"], row["ci_high"], color=colour, linewidth=2)
            marker = MARKERS[number % len(MARKERS)]
            axis.scatter([row["mean"]], [number], s=42, color=colour, marker=marker, zorder=3)
            axis.annotate(
                f"n = {int(row['n'])}",
                (1.0, number),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 5),
                textcoords="offset points",
                ha="right",
                fontsize=7,
                color=_GREY,
            )
        axis.xaxis.set_major_locator(MaxNLocator(4))  # more would meet where numbers are long
        axis.set_yticks(range(len(algorithms)), [shown_name(name) for name in algorithms])
        axis.set_ylim(len(algorithms) - 0.4, -0.6)
        axis.set_xlabel(f"{_score_label(metric, panel)}\nmean, {100 * confidence:g} % interval")
        axis.grid(axis="x", color="#e0e0e0", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.set_title(title)
    _finish(figure, averages, phantom)
    return figure


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` (150 dots an inch) and ``stem.svg``; whole files or none.

    The same figure gives the same bytes: no dates, no random identifiers.
    """
    import matplotlib

    written = []
    for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        path = stem.with_name(f"{stem.name}.{ending}")
        with (
            atomic_file(path) as temporary,
            matplotlib.rc_context({"svg.hashsalt": "covidseg", "svg.fonttype": "none"}),
        ):
            figure.savefig(temporary, format=ending, dpi=150, metadata=metadata)
        written.append(path)
    return written


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Narrower than this, the notice above would not fit.
    figure = Figure(figsize=(max(4.2, width), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(values: pd.DataFrame, metric: str) -> list[tuple[str, pd.DataFrame]]:
    """Title and rows of each (part, dataset, label) that has a value of the metric."""
    of_metric = values[values["metric"] == metric]
    if of_metric.empty:
        raise ScoringError(f"there is no {metric} to draw")
    if of_metric["task"].nunique() > 1:
        tasks = ", ".join(sorted(of_metric["task"].unique()))
        raise ScoringError(f"scores of several tasks in one figure: {tasks}", expected="one task")
    many_parts = of_metric[["part", "dataset"]].drop_duplicates().shape[0] > 1

    def position(key: Sequence[str]) -> tuple[int, str, int, str]:
        part, _, label = key
        parts, labels = [*PARTS, part], [*LABELS, label]
        return parts.index(part), part, labels.index(label), label

    panels = []
    keys = {tuple(map(str, key)) for key in of_metric[["part", "dataset", "label"]].to_numpy()}
    for key in sorted(keys, key=position):
        panel = of_metric[(of_metric[["part", "dataset", "label"]] == list(key)).all(axis=1)]
        place = PARTS.get(key[0], key[0].replace("_", " "))
        place = f", {place[0].lower()}{place[1:]}" if many_parts else ""
        panels.append((label_title(key[2]) + place, panel))
    return panels


def _score_label(metric: str, panel: pd.DataFrame) -> str:
    if metric == "dsc":
        return "DSC (fraction)"
    if metric == "nave":
        return "NAVE (fraction of reference)"
    tolerance = nsd_tolerance_mm(panel["task"].iloc[0], panel["label"].iloc[0])
    return f"NSD at {tolerance:g} mm (fraction)"


def _score_axis(axis: Axes, metric: str, panel: pd.DataFrame) -> None:
    if metric in ("dsc", "nsd"):
        axis.set_ylim(-0.03, 1.03)
    else:
        finite = panel["value"][np.isfinite(panel["value"])]
        top = float(finite.max()) if len(finite) and finite.max() > 0 else 1.0
        axis.set_ylim(-0.03 * top, 1.06 * top)
    axis.grid(axis="y", color="#e0e0e0", linewidth=0.7)
    axis.set_axisbelow(True)


def _name_with_absent(algorithm: str, rows: pd.DataFrame, separator: str = "\n") -> str:
    """A method's name, and how many of its values are not drawn and why."""
    absent = [
        f"{number} {why}"
        for why, number in (
            ("missing", int((rows["state"] == "missing").sum())),
            ("undefined", int((rows["state"] == "undefined").sum())),
            ("infinite", int(((rows["state"] == "scored") & np.isinf(rows["value"])).sum())),
        )
        if number
    ]
    return algorithm + (f"{separator}({', '.join(absent)})" if absent else "")


def shown_name(name: str) -> str:
    """A method's name as matplotlib shows it: a dollar sign would start a formula, and a name that
    begins with an underscore is left out of legends.
    """
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _wrapped(name: str, width: int = _WIDTH) -> str:
    """A method's name in lines of about ``width``, broken after underscores too."""
    words = name.replace("_", "_ ")
    # A word that is a little longer stays whole.
    longest = max(map(len, words.split()), default=0)
    lines = textwrap.wrap(words, min(max(width, longest), width + 4))
    return shown_name("\n".join(line.replace("_ ", "_") for line in lines) or name)


def _finish(figure: Figure, values: pd.DataFrame, phantom: bool) -> None:
    title = shown_name(str(values["task"].iloc[0]))
    if phantom:
        notice = f"{PHANTOM_NOTICE}\n{title}"
        figure.suptitle(notice, color="#b00000", fontweight="bold", fontsize="medium")
    else:
        figure.suptitle(title, fontsize="medium")
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
