import io
import itertools

import numpy as np
import pytest

from covidseg.scoring import ranking_plots as plots
from covidseg.scoring.bootstrap_ranking import bootstrap_ranking
from covidseg.scoring.ranking import Challenge, Task, rank_challenge


def made(algorithms, phantom=False, cases=12, adjust="none", spread=0.5):
    rng = np.random.default_rng(0)
    names = tuple(f"team_{k:02}" for k in range(algorithms))
    tasks = []
    for name, worst in (("DSC", 0.0), ("NAVE", -np.inf)):
        values = np.linspace(spread, 0, algorithms)[:, None] + rng.random((algorithms, cases)) / 5
        missing = np.zeros(values.shape, dtype=bool)
        if worst:
            values -= 1
            missing[0, 0] = True
            values[missing] = np.nan
        case_names = tuple(f"c{k}" for k in range(cases))
        tasks.append(Task(name, names, case_names, values, missing, worst))
    ranking = rank_challenge(Challenge(tuple(tasks), phantom=phantom), adjust=adjust)
    return ranking, bootstrap_ranking(ranking, samples=30, progress=False)


def all_figures(ranking, samples):
    return [
        plots.blob_plot(ranking, samples, 0),
        plots.blob_plot(ranking, samples, None),
        plots.podium_plot(ranking, 1, seed=0),
        plots.significance_map(ranking, 0),
        plots.tau_plot(ranking, samples),
        plots.methods_plot(ranking),
        plots.tasks_plot(ranking),
    ]


def overlapping(figure, labels) -> int:
    """How many neighbouring labels overlap when drawn."""
    figure.savefig(io.BytesIO(), dpi=100)
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    return sum(a.overlaps(b) for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("algorithms", [2, 12, 98])
def test_labels_never_overlap(algorithms):
    ranking, samples = made(algorithms)
    blob = plots.blob_plot(ranking, samples, 0)
    assert len(blob.axes[0].get_yticklabels()) == algorithms
    assert overlapping(blob, blob.axes[0].get_yticklabels()) == 0
    significance = plots.significance_map(ranking, 0)
    assert overlapping(significance, significance.axes[0].get_yticklabels()) == 0
    assert overlapping(significance, significance.axes[0].get_xticklabels()) == 0
    podium = plots.podium_plot(ranking, 0, seed=0)
    shown = min(algorithms, plots.PODIUM_ALGORITHMS)
    assert len(podium.axes[0].get_legend().get_texts()) == shown


def test_a_figure_for_everything_that_can_be_odd():
    for count, cases, adjust, spread in [(2, 1, "holm", 0), (3, 5, "holm", 0), (9, 4, "none", 1)]:
        ranking, samples = made(count, cases=cases, adjust=adjust, spread=spread)
        for figure in all_figures(ranking, samples):
            figure.savefig(io.BytesIO(), format="svg")


def test_phantoms_say_so_in_every_figure():
    for phantom in (True, False):
        ranking, samples = made(4, phantom=phantom)
        for figure in all_figures(ranking, samples):
            svg = io.StringIO()
            from matplotlib import rc_context

            with rc_context({"svg.fonttype": "none"}):
                figure.savefig(svg, format="svg")
            assert ("PHANTOM DATA" in svg.getvalue()) is phantom


def test_long_names_and_signs_of_formulas():
    names = ("a" * 60, "cost $x^2$ & <b>")
    values = np.array([[0.1, 0.2], [0.3, 0.4]])
    task = Task("DSC", names, ("1", "2"), values, np.zeros((2, 2), bool), 0.0)
    ranking = rank_challenge(Challenge((task,)))
    for figure in all_figures_of_one_task(ranking):
        figure.savefig(io.BytesIO())


def test_no_two_names_are_cut_to_the_same():
    names = ("n" * 40 + "1", "n" * 40 + "2", "n" * 60, "n" * 61, "_hidden")
    values = np.random.default_rng(0).random((5, 4))
    task = Task("DSC", names, tuple("1234"), values, np.zeros((5, 4), bool), 0.0)
    ranking = rank_challenge(Challenge((task,)))
    shown = [
        label.get_text() for label in plots.significance_map(ranking, 0).axes[0].get_yticklabels()
    ]
    assert len(set(shown)) == 5
    legend = plots.podium_plot(ranking, 0, seed=0).axes[0].get_legend()
    assert len(legend.get_texts()) == 5


def all_figures_of_one_task(ranking):
    samples = bootstrap_ranking(ranking, samples=5, progress=False)
    return [plots.blob_plot(ranking, samples, 0), plots.significance_map(ranking, 0),
            plots.tau_plot(ranking, samples), plots.methods_plot(ranking)]  # fmt: skip


def test_places_break_ties_at_random_from_the_seed():
    values = np.array([[0.5] * 40, [0.5] * 40, [0.1] * 40])
    places = plots.places_of_cases(values, seed=1)
    np.testing.assert_array_equal(places, plots.places_of_cases(values, seed=1))
    assert (places[2] == 2).all()
    assert 0 < places[0].sum() < 40
    np.testing.assert_array_equal(np.sort(places, axis=0), np.tile([[0], [1], [2]], 40))


def test_a_missing_value_takes_the_last_place():
    places = plots.places_of_cases(np.array([[np.nan], [-np.inf], [0.1]]), seed=0)
    assert places.ravel().tolist() == [2, 1, 0]


def test_states_of_the_significance_map():
    ranking, _ = made(6, cases=23, adjust="none")
    result = ranking.tasks[0]
    state = plots._significance_states(result, 0.05)
    assert (np.diag(state) == 0).all()
    better = (state == 2) | (state == 3)
    np.testing.assert_array_equal(better, result.significant)
    np.testing.assert_array_equal(better.T, (state == 4) | (state == 5))
    assert (state[0, 1:] >= 2).any()
