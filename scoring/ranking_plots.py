"""Figures of a ranking: blob plots, podium plots, significance maps, stability.

Every function returns a matplotlib ``Figure`` and changes no global state. With many algorithms the
figures grow until labels can be read, and lines of all but the best are drawn in grey. Colours are
Okabe and Ito's, which people with any colour vision can tell apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from covidseg.scoring.bootstrap_ranking import Bootstraps, rank_quantiles, rank_shares
from covidseg.scoring.plots import shown_name
from covidseg.scoring.ranking import Ranking, TaskRanking
from covidseg.scoring.ranking_methods import METHODS, ranks_by_method
from covidseg.scoring.wilcoxon import holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
DISTINCT = [BLUE, RED, GREEN, "#CC79A7", ORANGE, "#56B4E9", "#8C6D31", "#000000"]
GREY = "#B8B8B8"
# A podium plot has a slot for every algorithm at every place: more of them cannot be read.
PODIUM_ALGORITHMS = 12
_PODIUM_COLOURS = [*DISTINCT, "#7A5195", "#6E6E6E", "#C7B42E", "#A6D5F2"]
_MARKERS = "osD^vP*XpdhH"
_LONGEST_NAME = 26
_NOTICE = "PHANTOM DATA: not a result of any real scan"
# Above this many marks an SVG gets a picture of them instead of a path each.
_RASTER_ABOVE = 1500


def blob_plot(ranking: Ranking, bootstraps: Bootstraps, task: int | None) -> Figure:
    """Share of bootstrap samples at every rank, by algorithm; ``task`` None is the consensus.

    A blob's area is the share, the cross the median, the line the 2.5 to 97.5 % quantiles.
    """
    if task is None:
        full, ranks, name = ranking.consensus, bootstraps.consensus, "consensus"
    else:
        full, ranks, name = (
            ranking.tasks[task].ranks,
            bootstraps.ranks[task],
            ranking.tasks[task].task.name,
        )
    names = _names(ranking)
    order = np.lexsort((ranking.consensus, rank_quantiles(ranks, [0.5])[0], full))
    count = len(names)
    shares = rank_shares(ranks)[order]
    low, median, high = rank_quantiles(ranks)[:, order]
    figure = _figure(ranking, width=2.4 + min(12, max(4.5, 0.14 * count)), height=_tall(count))
    axes = figure.add_subplot()
    row, place = np.nonzero(shares)
    axes.scatter(
        place + 1,
        row,
        s=shares[row, place] * 21**2,
        color=BLUE,
        alpha=0.5,
        linewidths=0,
        rasterized=len(row) > _RASTER_ABOVE,
        zorder=2,
    )
    axes.hlines(
        np.arange(count), low, high, color="black", linewidth=0.9 if count <= 30 else 0.5, zorder=3
    )
    axes.plot(median, np.arange(count), "x", color="black", markersize=_mark(count), zorder=4)
    axes.set_yticks(
        np.arange(count), [f"{names[k]} ({full[k]})" for k in order], fontsize=_font(count)
    )
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_xlim(0.3, count + 0.7)
    axes.set_xlabel(f"rank in {bootstraps.samples:,} bootstrap samples")
    axes.set_ylabel("algorithm and its rank on all cases")
    axes.grid(color="#E4E4E4", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.set_xticks(_rank_ticks(count))
    axes.set_title(f"Rank stability: {name}", fontsize=11)
    return figure


def podium_plot(ranking: Ranking, task: int, seed: int) -> Figure:
    """Values of every case by the place its algorithm took on it, and how often each place.

    Above, each place has a slot for every algorithm, in the order of the full ranking, and a line
    joins the values of one case; below, bars count the cases. Ties of a case are broken at random
    from ``seed``. Of more than 12 algorithms the best 12 are shown, placed among themselves.
    """
    result = ranking.tasks[task]
    by_rank = np.lexsort((ranking.consensus, result.ranks))
    shown = by_rank[:PODIUM_ALGORITHMS]
    values = result.task.completed(ranking.missing)[shown]
    present = ~np.isnan(values)
    places = places_of_cases(values, seed)
    count = len(shown)
    names = [_names(ranking)[k] for k in shown]
    figure = _figure(ranking, width=max(7.0, 0.16 * count**2 * 0.4 + 5.5), height=5.8)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    floor = _floor(values)
    heights = np.where(np.isneginf(values), floor, values)
    position = places * count + np.arange(count)[:, None] + 0.5
    for case in range(values.shape[1]):
        line = np.argsort(places[:, case])
        line = line[present[line, case]]
        above.plot(position[line, case], heights[line, case], color=GREY, linewidth=0.5, zorder=1)
    for k in range(count):
        colour = _PODIUM_COLOURS[k % len(_PODIUM_COLOURS)]
        here = present[k]
        above.scatter(
            position[k, here], heights[k, here], s=20, color=colour, linewidths=0,
            marker=_MARKERS[k % len(_MARKERS)], label=f"{names[k]} ({result.ranks[shown[k]]})",
            zorder=2,
        )  # fmt: skip
        often = np.bincount(places[k, here], minlength=count)
        below.bar(np.arange(count) * count + k + 0.5, often, width=1.0, color=colour)
    for axes in (above, below):
        for edge in range(count + 1):
            axes.axvline(edge * count, color="#888888", linestyle=":", linewidth=0.7)
        axes.margins(x=0)
    below.set_xlim(0, count * count)
    below.set_xticks((np.arange(count) + 0.5) * count, [str(k + 1) for k in range(count)])
    below.tick_params(axis="x", length=0)
    below.set_xlabel("place on a case")
    below.set_ylabel("cases")
    below.yaxis.get_major_locator().set_params(integer=True, nbins=5)
    above.set_ylabel(result.task.name)
    few = "" if count == len(ranking.consensus) else f", best {count} of {len(ranking.consensus)}"
    above.set_title(f"Podium: {result.task.name}{few}", fontsize=11)
    if np.isneginf(values).any():
        above.axhline(floor, color="#888888", linewidth=0.6)
        above.annotate(
            "missing or infinite", (0, floor), xytext=(3, 3), textcoords="offset points", fontsize=7
        )
    above.legend(
        title="algorithm and rank", fontsize=8, title_fontsize=8, loc="upper left",
        bbox_to_anchor=(1.005, 1.02), frameon=False,
    )  # fmt: skip
    return figure


def places_of_cases(values: np.ndarray, seed: int) -> np.ndarray:
    """Place (0 is best) of every algorithm on every case, ties broken at random; NaN comes last."""
    random = np.random.default_rng(seed).random(values.shape)
    better = np.where(np.isnan(values), -np.inf, values)
    order = np.lexsort((random, -better, np.isnan(values)), axis=0)
    places = np.empty(values.shape, dtype=np.intp)
    np.put_along_axis(places, order, np.arange(len(values))[:, None], axis=0)
    return places


def significance_map(ranking: Ranking, task: int) -> Figure:
    """Which algorithm of a row is significantly better or worse than that of a column, by rank.

    Full colours: after Holm's adjustment over all pairs; pale: only without adjustment.
    """
    result = ranking.tasks[task]
    order = np.lexsort((ranking.consensus, result.ranks))
    names = [f"{_names(ranking)[k]} ({result.ranks[k]})" for k in order]
    state = _significance_states(result, ranking.alpha)[np.ix_(order, order)]
    count = len(names)
    size = max(4.6, min(16, 0.155 * count + 2.6))
    figure = _figure(ranking, width=size + 0.6, height=size + 0.5, notice=False)
    axes = figure.add_subplot()
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    colours = ["white", "#F0F0F0", "#BFD7EA", BLUE, "#F8DDA8", ORANGE]
    axes.pcolormesh(
        state, cmap=ListedColormap(colours), vmin=-0.5, vmax=5.5, edgecolors="white",
        linewidth=0.6 if count <= 30 else 0, rasterized=count > 30,
    )  # fmt: skip
    axes.plot([0, count], [0, count], color="black", linewidth=0.6)
    axes.set_aspect("equal")
    axes.set_xlim(0, count)
    axes.set_ylim(count, 0)
    font = _font(count)
    axes.set_xticks(np.arange(count) + 0.5, names, rotation=90, fontsize=font)
    axes.set_yticks(np.arange(count) + 0.5, names, fontsize=font)
    axes.tick_params(length=0)
    axes.set_xlabel("… this one")
    axes.set_ylabel("this algorithm (with its rank) against …")
    axes.set_title(f"Significance at {100 * ranking.alpha:g}%: {result.task.name}", fontsize=11)
    meaning = ["better, Holm", "better, unadjusted only", "no difference shown",
               "worse, unadjusted only", "worse, Holm"]  # fmt: skip
    patches = [
        Patch(facecolor=colours[k], edgecolor="#888888", linewidth=0.4, label=text)
        for k, text in zip([3, 2, 1, 4, 5], meaning, strict=True)
    ]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=3 if size > 5.5 else 2, fontsize=8,
        frameon=False, title=_NOTICE if ranking.challenge.phantom else None,
    ).get_title().set(color=RED, fontsize=9)  # fmt: skip
    return figure


def tau_plot(ranking: Ranking, bootstraps: Bootstraps) -> Figure:
    """Kendall's tau-b of the bootstrap rankings against the full one: violin and box by task."""
    names = [task.task.name for task in ranking.tasks]
    taus = list(bootstraps.tau)
    if len(names) > 1:
        names, taus = [*names, "consensus"], [*taus, bootstraps.tau_consensus]
    height = 1.4 + 0.55 * len(names)
    figure = _figure(ranking, width=7.5, height=height)
    axes = figure.add_subplot()
    for row, tau in enumerate(taus):
        known = tau[~np.isnan(tau)]
        if len(known) > 1 and np.ptp(known) > 0:
            violin = axes.violinplot(known, [row], orientation="horizontal", widths=0.85,
                                     showextrema=False)  # fmt: skip
            for body in violin["bodies"]:  # type: ignore[attr-defined]
                body.set(facecolor="#8FC1E3", edgecolor="none", alpha=1)
        if len(known):
            axes.boxplot(
                known, positions=[row], orientation="horizontal", widths=0.22, showfliers=False,
                whis=(2.5, 97.5), medianprops={"color": RED, "linewidth": 1.6}, patch_artist=True,
                boxprops={"facecolor": "white"},
            )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    lowest = min((np.nanmin(tau) for tau in taus if not np.isnan(tau).all()), default=0.0)
    axes.set_xlim(min(0.0, lowest) - 0.03, 1.03)
    for row, tau in enumerate(taus):
        share = np.isnan(tau).mean()
        if share:
            axes.annotate(
                f"{_percent(share)} without a value", (0.01, row - 0.33), fontsize=8, va="center",
                xycoords=("axes fraction", "data"), color="#444444",
            )  # fmt: skip
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"Kendall's tau-b, {bootstraps.samples:,} bootstrap rankings against the full ranking\n"
        "(no value where all algorithms share one rank)"
    )
    axes.set_title("Stability of the rankings", fontsize=11)
    return figure


def methods_plot(ranking: Ranking) -> Figure:
    """Ranks by five ranking methods, a panel a task."""
    tasks = len(ranking.tasks)
    columns = min(3, tasks)
    rows = -(-tasks // columns)
    figure = _figure(ranking, width=1.9 + 3.1 * columns, height=0.9 + 3.4 * rows)
    panels = np.atleast_1d(figure.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    for axes in panels[tasks:]:
        axes.set_visible(False)
    for task, axes in enumerate(panels[:tasks]):
        ranks = ranks_by_method(ranking, task)
        _lines(axes, ranking, np.stack([ranks[name] for name in METHODS]))
        axes.set_xticks(range(len(METHODS)), METHODS, rotation=35, ha="right", fontsize=8)
        axes.set_title(ranking.tasks[task].task.name, fontsize=10)
    _line_legend(figure, panels[0], len(ranking.consensus))
    figure.suptitle("Ranks by ranking method", fontsize=11)
    return figure


def tasks_plot(ranking: Ranking) -> Figure:
    """Ranks in every task and in the consensus."""
    names = [*(task.task.name for task in ranking.tasks), "consensus"]
    figure = _figure(ranking, width=3.4 + 0.95 * len(names), height=5.0)
    axes = figure.add_subplot()
    _lines(axes, ranking, np.stack([*(task.ranks for task in ranking.tasks), ranking.consensus]))
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_title("Ranks by task", fontsize=11)
    _line_legend(figure, axes, len(ranking.consensus))
    return figure


def _lines(axes: Axes, ranking: Ranking, ranks: np.ndarray) -> None:
    """``ranks`` has shape (columns, algorithms); the best eight in colour, the rest grey."""
    names = _names(ranking)
    order = ranking.order
    x = np.arange(len(ranks))
    for k in order[len(DISTINCT) :][::-1]:
        axes.plot(x, ranks[:, k], color=GREY, linewidth=0.7, zorder=1)
    # Equal ranks would hide each other: a fan of a tenth of the step between neighbouring lines.
    spread = np.linspace(-0.12, 0.12, len(DISTINCT))
    for place, k in enumerate(order[: len(DISTINCT)]):
        axes.plot(
            x, ranks[:, k] + spread[place], color=DISTINCT[place], linewidth=1.7,
            zorder=3 - place / 9, marker=_MARKERS[place], markersize=5,
            label=f"{names[k]} ({ranking.consensus[k]})",
        )  # fmt: skip
    axes.set_ylim(len(names) + 0.6, 0.4)
    axes.set_ylabel("rank")
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_yticks(_rank_ticks(len(names)))


def _line_legend(figure: Figure, axes: Axes, count: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    rest = count - len(handles)
    title = "algorithm and\nconsensus rank" + (f"\n(grey: {rest} others)" if rest > 0 else "")
    figure.legend(handles, labels, loc="outside right center", fontsize=8, title=title,
                  title_fontsize=8, frameon=False)  # fmt: skip


def _significance_states(result: TaskRanking, alpha: float) -> np.ndarray:
    """0 the diagonal, 1 no difference, 2/3 row better plain/Holm, 4/5 row worse plain/Holm."""
    with np.errstate(invalid="ignore"):
        plain = result.p_values <= alpha
        adjusted = holm(result.p_values) <= alpha
    state = np.ones(plain.shape, dtype=int)
    state[plain], state[plain.T] = 2, 4
    state[adjusted], state[adjusted.T] = 3, 5
    np.fill_diagonal(state, 0)
    return state


def _figure(ranking: Ranking, width: float, height: float, notice: bool = True) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if notice and ranking.challenge.phantom:
        figure.supxlabel(_NOTICE, color=RED, fontsize=9)
    return figure


def _names(ranking: Ranking) -> list[str]:
    """What figures call the algorithms: long names cut, but never two to the same."""
    whole = ranking.challenge.algorithms
    short = [_cut(name, _LONGEST_NAME - 1) for name in whole]
    # Long names that begin alike often end in what tells them apart.
    short = [
        _cut(name, _LONGEST_NAME // 2) if short.count(cut) > 1 else cut
        for name, cut in zip(whole, short, strict=True)
    ]
    return [
        shown_name(f"{s} [{k}]" if short.count(s) > 1 else s) for k, s in enumerate(short, start=1)
    ]


def _cut(name: str, first: int) -> str:
    """The first letters of a long name and as many of its last as there is room for."""
    if len(name) <= _LONGEST_NAME:
        return name
    last = _LONGEST_NAME - 1 - first
    return name[:first] + "…" + (name[-last:] if last else "")


def _tall(count: int) -> float:
    return 1.5 + max(2.0, count * (0.3 if count <= 20 else 0.16))


def _font(count: int) -> float:
    return 9 if count <= 20 else 7 if count <= 50 else 6


def _mark(count: int) -> float:
    return 6 if count <= 30 else 4


def _floor(values: np.ndarray) -> float:
    """Where minus infinity is drawn: a little below everything finite."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return -1.0
    return float(finite.min() - 0.08 * (np.ptp(finite) or 1.0))


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def _rank_ticks(count: int) -> list[int]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if count / step <= 14)
    return sorted({1, *range(step, count + 1, step)})
