"""Figures: what is drawn, what they say, and the files."""

import itertools
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from covidseg.core.errors import ScoringError
from covidseg.scoring.plots import (
    box_plot,
    case_strips,
    forest_plot,
    paired_lines,
    save_figure,
)
from covidseg.scoring.tables_report import report_figures
from covidseg.scoring.tables_summary import Bootstrap, summarise_folds
from covidseg.scoring.tables_values import case_values

FEW = Bootstrap(n_resamples=100)


def scores(algorithms=("a", "b"), cases=6, task="task1-union") -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "task": task,
            "algorithm": algorithm,
            "fold": fold,
            "part": "test",
            "dataset": "covid-ct-seg",
            "case_id": f"case_{case}",
            "patient_id": f"case_{case}",
            "label": label,
            "dsc": (dsc := rng.random()),
            "nsd_1mm": dsc / 2,
            "nsd_3mm": dsc / 3,
            "nave": 1 - dsc,
            "status": "ok",
            "policy": "undefined",
            "phantom": True,
        }
        for algorithm in algorithms
        for fold in range(2)
        for case in range(cases)
        for label in ("left_lung", "infection")
    ]
    return pd.DataFrame(rows)


def drawn_points(axis) -> np.ndarray:
    """Heights of all scattered points of an axis, sorted, without the diamonds of the means."""
    return np.sort(
        np.concatenate(
            [np.asarray(dots.get_offsets())[:, 1] for dots in axis.collections if _many(dots)]
        )
    )


def _many(dots) -> bool:
    return hasattr(dots, "get_offsets") and len(dots.get_offsets()) > 1


def test_boxes_show_every_value():
    values = case_values(scores())
    figure = box_plot(values, "dsc", phantom=True)
    assert [axis.get_title() for axis in figure.axes] == ["Left lung", "Infection"]
    for axis, label in zip(figure.axes, ("left_lung", "infection"), strict=True):
        chosen = values[(values["label"] == label) & (values["metric"] == "dsc")]
        assert drawn_points(axis) == pytest.approx(np.sort(chosen["value"]))
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["a", "b"]
    assert figure.axes[0].get_ylabel() == "DSC (fraction)"


def test_phantoms_and_units_are_named():
    values = case_values(scores())
    assert "PHANTOM DATA" in box_plot(values, "dsc", phantom=True).get_suptitle()
    assert box_plot(values, "dsc", phantom=False).get_suptitle() == "task1-union"
    labels = [axis.get_ylabel() for axis in box_plot(values, "nsd", phantom=True).axes]
    assert labels == ["NSD at 1 mm (fraction)", "NSD at 3 mm (fraction)"]


def test_values_that_are_not_drawn_are_counted():
    frame = scores()
    frame.loc[0, ["dsc", "nsd_1mm", "nave", "status"]] = [np.nan, np.nan, np.nan, "unreadable"]
    frame.loc[2, ["dsc", "nsd_1mm", "nave", "status"]] = [np.nan, np.nan, np.nan, "both_empty"]
    frame.loc[4, ["nave", "status"]] = [np.inf, "reference_empty"]
    values = case_values(frame, missing="remove")
    axis = box_plot(values, "nave", phantom=True).axes[0]
    named = axis.get_xticklabels()[0].get_text()
    assert named == "a\n(1 missing, 1 undefined, 1 infinite)"
    assert len(drawn_points(axis)) == 24 - 3
    assert axis.get_ylim()[1] < 2
    lines = paired_lines(values, "nave", phantom=True).axes[0]
    assert lines.get_title() == "Left lung\n9 lines, 3 not whole"
    legend = case_strips(values, "nave", phantom=True).axes[0].get_legend()
    assert legend.get_texts()[0].get_text() == "a (1 missing, 1 undefined, 1 infinite)"


def test_names_with_signs_of_formulas_and_of_hidden_lines():
    names = ("$a$ at $3", "_b")
    values = case_values(scores(names))
    figure = case_strips(values, "dsc", phantom=True)
    assert [text.get_text().strip() for text in figure.axes[0].get_legend().get_texts()] == [
        r"\$a\$ at \$3",
        "_b",
    ]
    summary = summarise_folds(values, FEW)
    for drawn in (
        figure,
        box_plot(values, "dsc", phantom=True),
        paired_lines(values, "dsc", phantom=True),
        forest_plot(summary, "dsc", confidence=0.95, phantom=True),
    ):
        drawn.canvas.draw()


def test_long_names_without_spaces_fit_beneath_a_box():
    names = [f"nnUNetTrainer__nnUNetPlans__{size}_fullres" for size in ("2d", "3d", "3d_cascade")]
    values = case_values(scores(names))
    for draw in (box_plot, paired_lines):
        figure = draw(values, "dsc", phantom=False)
        figure.canvas.draw()
        for axis in figure.axes:
            labels = axis.get_xticklabels()
            assert [label.get_text().replace("\n", "") for label in labels] == sorted(names)
            boxes = [label.get_window_extent() for label in labels]
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_many_long_names_stay_within_the_figure():
    names = [
        f"network_{k:02d}_ensemble_of_five_folds_with_test_time_augmentation" for k in range(30)
    ]
    values = case_values(scores(names, cases=2), metrics=["dsc"])
    forest = forest_plot(summarise_folds(values, FEW), "dsc", confidence=0.95, phantom=True)
    strips, boxes = case_strips(values, "dsc", phantom=True), box_plot(values, "dsc", phantom=True)
    for figure in (forest, strips, boxes):
        figure.canvas.draw()
    inside = strips.bbox
    texts = [text for axis in strips.axes for text in axis.get_legend().get_texts()]
    for box in [text.get_window_extent() for text in texts + forest.axes[0].get_yticklabels()]:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.y1 <= max(inside.y1, forest.bbox.y1)
    # Slantwise, the lines of a name end before those of the next begin.
    first, second = boxes.axes[0].get_xticklabels()[:2]
    apart = second.get_window_extent().x1 - first.get_window_extent().x1
    height = 1.2 * first.get_fontsize() * boxes.dpi / 72
    assert apart > (first.get_text().count("\n") + 1) * height * np.sqrt(2) * 0.95


def test_the_legend_of_strips_hides_no_point():
    figure = case_strips(case_values(scores("abcdef")), "dsc", phantom=False)
    figure.canvas.draw()
    for axis in figure.axes:
        assert axis.get_legend().get_window_extent().x0 >= axis.get_window_extent().x1


def test_strips_order_cases_by_their_mean():
    values = case_values(scores())
    axis = case_strips(values, "dsc", phantom=True).axes[0]
    chosen = values[(values["label"] == "left_lung") & (values["metric"] == "dsc")]
    expected = chosen.groupby("case_id")["value"].mean().sort_values().index
    assert [tick.get_text() for tick in axis.get_xticklabels()] == list(expected)
    assert drawn_points(axis) == pytest.approx(np.sort(chosen["value"]))


def test_seven_methods_are_told_apart():
    values = case_values(scores("abcdefg"))
    axis = case_strips(values, "dsc", phantom=True).axes[0]
    looks = {
        (tuple(dots.get_facecolor()[0]), dots.get_paths()[0].vertices.tobytes())
        for dots in axis.collections
        if _many(dots)
    }
    assert len(looks) == 7


def test_lines_join_the_values_of_a_case():
    values = case_values(scores(cases=3))
    axis = paired_lines(values, "dsc", phantom=True).axes[0]
    chosen = values[(values["label"] == "left_lung") & (values["metric"] == "dsc")]
    wide = chosen.pivot(index=["fold", "case_id"], columns="algorithm", values="value")
    drawn = sorted(tuple(line.get_ydata()) for line in axis.lines[:-1])
    assert drawn == sorted(map(tuple, wide.to_numpy()))
    assert tuple(axis.lines[-1].get_ydata()) == pytest.approx(tuple(wide.mean()))
    with pytest.raises(ScoringError, match="two methods"):
        paired_lines(case_values(scores(("a",))), "dsc", phantom=True)


def test_forest_draws_the_intervals():
    summary = summarise_folds(case_values(scores()), FEW)
    figure = forest_plot(summary, "dsc", confidence=0.95, phantom=True)
    left = summary[
        (summary["fold"] == "average")
        & (summary["label"] == "left_lung")
        & (summary["metric"] == "dsc")
    ].sort_values("algorithm")
    bars = [
        bar.get_segments()[0][:, 0]
        for bar in figure.axes[0].collections
        if hasattr(bar, "get_segments")
    ]
    assert np.array(bars) == pytest.approx(left[["ci_low", "ci_high"]].to_numpy())
    assert "95 % interval" in figure.axes[0].get_xlabel()


def test_one_case_has_a_figure_of_each_kind():
    values = case_values(scores(cases=1))
    summary = summarise_folds(values, FEW)
    assert summary["ci_low"].isna().all()
    box_plot(values, "dsc", phantom=True)
    case_strips(values, "dsc", phantom=True)
    forest_plot(summary, "dsc", confidence=0.95, phantom=True)


def test_what_cannot_be_drawn():
    values = case_values(pd.concat([scores(), scores(task="task1-reverse-union")]))
    with pytest.raises(ScoringError, match="several tasks"):
        box_plot(values, "dsc", phantom=True)
    with pytest.raises(ScoringError, match="no hd95"):
        box_plot(values, "hd95", phantom=True)


def test_files_are_png_and_svg_and_the_same_every_time(tmp_path):
    values = case_values(scores())
    written = save_figure(box_plot(values, "dsc", phantom=True), tmp_path / "new" / "box.dsc")
    again = save_figure(box_plot(values, "dsc", phantom=True), tmp_path / "again" / "box.dsc")
    assert [path.name for path in written] == ["box.dsc.png", "box.dsc.svg"]
    assert written[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    tree = ElementTree.fromstring(written[1].read_bytes())
    assert tree.tag.endswith("svg")
    text = "".join(tree.itertext())
    assert "PHANTOM DATA" in text
    assert "DSC (fraction)" in text
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "box.dsc.png",
        "box.dsc.svg",
    ]


def test_no_pyplot_and_a_figure_of_every_kind(tmp_path, monkeypatch):
    names = []

    def record(figure, stem):
        assert figure.axes
        names.append(stem.name)
        return [stem]

    monkeypatch.setattr("covidseg.scoring.tables_report.save_figure", record)
    before = "matplotlib.pyplot" in sys.modules
    report_figures(scores(cases=2), tmp_path, bootstrap=FEW)
    kinds = ("box", "cases", "intervals", "lines")
    assert set(names) == {f"task1-union_{m}_{k}" for m in ("dsc", "nsd", "nave") for k in kinds}
    assert ("matplotlib.pyplot" in sys.modules) == before
    names.clear()
    report_figures(scores(("a",), 2).assign(nave=np.nan), tmp_path, bootstrap=FEW)
    assert set(names) == {f"task1-union_{m}_{k}" for m in ("dsc", "nsd") for k in kinds[:3]}
