"""Tables: numbers by hand, forms, policies for absent values, refusals, invariance to order."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covidseg.core.errors import ConfigError, ScoringError
from covidseg.scoring.published import published_benchmark
from covidseg.scoring.scores import read_scores, write_scores
from covidseg.scoring.tables import PHANTOM_NOTICE, render_tables, write_tables
from covidseg.scoring.tables_benchmark import benchmark_tables
from covidseg.scoring.tables_cases import case_tables
from covidseg.scoring.tables_comparison import p_value
from covidseg.scoring.tables_covid1920 import covid1920_tables
from covidseg.scoring.tables_report import report_tables
from covidseg.scoring.tables_summary import Bootstrap, summarise_cohorts, summarise_folds
from covidseg.scoring.tables_values import case_values, nsd_tolerance_mm
from covidseg.scoring.tables_variants import leaking_cases
from covidseg.splits.load import load_split

FEW = Bootstrap(n_resamples=200)


def row(case="a", dsc=0.5, fold=0, **columns):
    """One row of scores; NSD is the DSC less 0.1, NAVE twice its distance from 1."""
    return {
        "task": "task1-infection",
        "algorithm": "mine",
        "fold": fold,
        "part": "test",
        "dataset": "covid-ct-seg",
        "case_id": case,
        "patient_id": case,
        "label": "infection",
        "dsc": dsc,
        "nsd_1mm": dsc - 0.2,
        "nsd_3mm": dsc - 0.1,
        "nave": 2 * (1 - dsc),
        "volume_prediction_ml": 10.0,
        "volume_reference_ml": 10.0,
        "status": "ok",
        "message": "",
        "policy": "undefined",
        "phantom": False,
    } | columns


def failed(case="a", fold=0, status="missing_prediction", **columns):
    values = dict.fromkeys(["dsc", "nsd_1mm", "nsd_3mm", "nave"], np.nan)
    return row(case, fold=fold, status=status) | values | columns


def two_folds(**columns) -> pd.DataFrame:
    rows = [row("a", 0.5), row("b", 0.7), row("a", 0.6, 1), row("b", 0.4, 1), row("c", 0.8, 1)]
    return pd.DataFrame(rows).assign(**columns)


def challenge(**columns) -> pd.DataFrame:
    """Three seen and two unseen cases."""
    rows = [
        row(f"{part}{number}", dsc, None, part=f"test_{part}", task="covid1920")
        for part, values in (("seen", [0.9, 0.8, 0.7]), ("unseen", [0.6, 0.2]))
        for number, dsc in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(dataset="covid1920", **columns)


def official(task="task1-union", algorithms=("A", "B"), phantom=False, seed=0) -> pd.DataFrame:
    """Random scores of every fold and test case of the published split."""
    rng = np.random.default_rng(seed)
    rows = []
    for algorithm in algorithms:
        for fold in range(5):
            split = load_split(f"{task}-fold{fold}")
            for case in split.parts["test"]:
                for label in split.subtask.targets.values():
                    where = {"dataset": case.dataset, "label": label, "task": task}
                    dsc = 0.2 + 0.8 * rng.beta(5, 2)
                    rows.append(row(case.case_id, dsc, fold, algorithm=algorithm, **where))
    return pd.DataFrame(rows).assign(phantom=phantom)


def cells(table, fold: str, method: str | None = None) -> list[str]:
    """The cells of a row of a printed table, by fold and method (whose name is not repeated)."""
    current = ""
    for line in table.rows:
        current = line.cells[0] or current
        if line.cells[1] == fold and method in (None, current):
            return list(line.cells[2:])
    raise AssertionError(f"no row {fold}")


def test_fold_by_fold_by_hand():
    """Fold 0: 50, 70. Fold 1: 60, 40, 80. Mean of 60 and 60; sample stds 14.1, 20.0; all 15.8."""
    (table,) = benchmark_tables(two_folds(), published=False, bootstrap=FEW)
    assert cells(table, "Fold 0") == ["60.0±14.1", "50.0±14.1", "2"]
    assert cells(table, "Fold 1") == ["60.0±20.0", "50.0±20.0", "3"]
    assert cells(table, "Average") == ["60.0±15.8", "50.0±15.8", "5"]


def test_average_is_over_folds_and_says_what_it_is_over_cases():
    """Folds of 1 and 2 values: (90 + (30 + 60)/2)/2 = 67.5, over cases 60."""
    scores = pd.DataFrame([row("a", 0.9), row("a", 0.3, 1), row("b", 0.6, 1)])
    (table,) = benchmark_tables(scores, published=False, bootstrap=None)
    assert cells(table, "Average")[0] == "67.5±30.0"
    assert any("differs by at most 7.5" in note for note in table.notes)
    average = table.numbers[table.numbers["fold"] == "average"].set_index("metric")
    assert average.loc["dsc", "mean_over_cases"] == pytest.approx(0.6)
    assert cells(table, "Fold 0")[0] == "90.0"


def test_scores_without_folds_have_one_row():
    scores = pd.DataFrame([row("a", 0.5, None), row("b", 0.7, None)])
    (table,) = benchmark_tables(scores, published=False, bootstrap=None)
    assert [line.cells[1] for line in table.rows] == ["All cases"]
    assert cells(table, "All cases") == ["60.0±14.1", "50.0±14.1", "2"]


def test_published_folds_go_through_the_tables_own_arithmetic():
    """Made-up cases with exactly the published fold means and stds print the published average."""
    published = published_benchmark("task1-infection")
    published = published[published["source"] == "benchmark-task1"]
    rows = []
    for fold in "01234":
        at = published[published["fold"] == fold].set_index("metric")
        # Sixteen values with a given mean and sample std: eight at each of two places.
        signs = np.tile([-1, 1], 8) * np.sqrt(15 / 16)
        for number, sign in enumerate(signs):
            dsc, nsd = (at.loc[m, "mean"] + sign * at.loc[m, "std"] for m in ("dsc", "nsd"))
            rows.append(row(f"case{number}", dsc, int(fold), nsd_3mm=nsd))
    (table,) = benchmark_tables(pd.DataFrame(rows), bootstrap=None)
    theirs = "3D U-Net (published)"
    for fold in (*(f"Fold {k}" for k in range(5)), "Average"):
        assert cells(table, fold, "mine")[:2] == cells(table, fold, theirs)[:2]
    assert cells(table, "Average", "mine")[:2] == ["67.3±22.3", "70.0±24.4"]


def test_published_rows_stand_beneath_with_their_source():
    (table,) = benchmark_tables(official(), bootstrap=None)
    methods = [line.cells[0] for line in table.rows if line.cells[0]]
    assert methods == ["A", "B", "3D U-Net (published)", "2D U-Net (published)"]
    assert cells(table, "Fold 1", "3D U-Net (published)")[:2] == ["40.3±18.7", "27.5±12.0"]
    assert cells(table, "Average", "2D U-Net (published)")[4:6] == ["57.7±26.3", "57.2±29.0"]
    assert any("Task1/README.md" in note for note in table.notes)
    assert any(note.startswith("† 3D U-Net, average, all columns") for note in table.notes)
    own = benchmark_tables(official(), published=False, bootstrap=None)[0]
    assert not any("published" in line.cells[0] for line in own.rows)


def test_header_groups_parts_and_labels():
    scores = official(algorithms=("A",))
    mosmed = pd.DataFrame(
        [row(f"study_{n}", 0.5, f, algorithm="A", part="test_mosmed") for n in "12" for f in "01"]
    ).assign(task="task1-union", dataset="mosmed")
    (table,) = benchmark_tables(pd.concat([scores, mosmed]), bootstrap=None)
    assert [column[0] for column in table.header[2:]] == ["Test"] * 7 + ["Test MosMed"] * 3
    assert [column[1] for column in table.header[2:9:2]] == [
        "Left lung",
        "Right lung",
        "Infection",
        "",
    ]
    assert table.header[-2] == ("Test MosMed", "Infection", "NSD")


def test_nsd_is_at_the_tasks_tolerance():
    assert nsd_tolerance_mm("task1-union", "left_lung") == 1
    assert nsd_tolerance_mm("task2-msd-tumour", "lesion") == 3
    assert nsd_tolerance_mm("covid1920", "infection") == 1
    (table,) = covid1920_tables(challenge(), published=False, bootstrap=None)[1:2]
    # Mean DSC 0.64, less 0.2 at 1 mm.
    assert table.rows[0].cells[1] == "0.440"


def test_covid1920_by_hand():
    """Seen .9 .8 .7, unseen .6 .2: population stds, medians, all five together."""
    tables = covid1920_tables(challenge(), published=False, bootstrap=None)
    assert [table.title for table in tables] == [
        "COVID-19-20: DSC of infection",
        "COVID-19-20: NSD at 1 mm of infection",
        "COVID-19-20: NAVE of infection",
    ]
    everything = np.array([0.9, 0.8, 0.7, 0.6, 0.2])
    assert tables[0].rows[0].cells == (
        "mine",
        *(f"{everything.mean():.3f}", f"{everything.std():.3f}", "0.700", "5"),
        *("0.800", f"{np.std([0.9, 0.8, 0.7]):.3f}", "0.800", "3"),
        *("0.400", "0.200", "0.400", "2"),
    )
    assert [column[0] for column in tables[0].header[1::4]] == [
        "All test cases",
        "Seen source",
        "Unseen source",
    ]


def test_covid1920_methods_in_order_and_published_beneath():
    worse = challenge(algorithm="worse")
    worse["dsc"] -= 0.1
    worse["nave"] += 0.2
    dsc, _, nave = covid1920_tables(pd.concat([worse, challenge()]), bootstrap=FEW)
    assert [line.cells[0] for line in dsc.rows][:2] == ["mine", "worse"]
    assert [line.cells[0] for line in nave.rows][:2] == ["mine", "worse"]
    assert dsc.rows[2].cells[0] == "S. Hu et al. (#53, rank 1) (published)"
    assert [text for text in dsc.rows[2].cells if text][1:4] == ["0.666", "0.236", "0.754"]
    assert "between observers" in nave.rows[2].cells[0]


def test_covid1920_one_cohort_has_no_all():
    scores = challenge()
    seen = scores[scores["part"] == "test_seen"]
    table = covid1920_tables(seen, published=False, bootstrap=None)[0]
    assert {column[0] for column in table.header} == {"", "Seen source"}
    validation = covid1920_tables(seen.assign(part="validation"), published=False, bootstrap=None)[
        0
    ]
    assert {column[0] for column in validation.header} == {"", "Validation"}


def test_covid1920_case_of_several_folds_enters_once():
    scores = pd.concat([challenge().assign(fold=0), challenge().assign(fold=1, dsc=0.1)])
    summary = summarise_cohorts(case_values(scores, metrics=["dsc"])).set_index("cohort")
    assert summary.loc["all", "n"] == 5
    assert summary.loc["seen", "mean"] == pytest.approx((0.8 + 0.1) / 2)


def test_infinite_volume_error_is_said():
    scores = challenge()
    scores.loc[0, ["dsc", "nave", "status"]] = [0.0, np.inf, "reference_empty"]
    nave = covid1920_tables(scores, published=False, bootstrap=FEW)[2]
    assert nave.rows[0].cells[1] == "inf"
    # Median of inf, .4, .6, .8, 1.6 is there.
    assert nave.rows[0].cells[4] == "0.800"
    assert any("read the median" in note for note in nave.notes)


# Values that are not there.


def test_undefined_values_are_counted_and_in_no_mean():
    scores = two_folds()
    scores.loc[1, ["dsc", "nsd_3mm", "status"]] = [np.nan, np.nan, "both_empty"]
    (table,) = benchmark_tables(scores, published=False, bootstrap=FEW)
    assert cells(table, "Fold 0") == ["50.0", "40.0", "1 (1 undefined)"]
    assert cells(table, "Average")[2] == "4 (1 undefined)"
    assert table.numbers["n_undefined"].sum() == 4
    assert any("policy 'undefined'" in note and "Undefined: 2" in note for note in table.notes)


@pytest.mark.parametrize("status", ["missing_prediction", "unreadable", "grid_mismatch"])
def test_missing_is_refused_counted_as_worst_or_removed(status):
    scores = pd.DataFrame([failed("a", status=status), row("b", 0.8)])
    with pytest.raises(ScoringError, match=rf"(?s)1 missing.*a \({status}\).*--missing worst"):
        benchmark_tables(scores)
    (worst,) = benchmark_tables(scores, published=False, missing="worst", bootstrap=None)
    assert cells(worst, "Fold 0")[0] == "40.0±56.6"
    assert cells(worst, "Fold 0")[2] == "2 (1 missing as worst)"
    (removed,) = benchmark_tables(scores, published=False, missing="remove", bootstrap=None)
    assert cells(removed, "Fold 0") == ["80.0", "70.0", "1 (1 missing)"]
    assert any("1 values, in no mean" in n or "2 values, in no mean" in n for n in removed.notes)


def test_missing_as_worst_is_infinite_volume_error_not_zero():
    scores = challenge()
    scores.loc[0, ["dsc", "nsd_1mm", "nave"]] = np.nan
    scores.loc[0, "status"] = "missing_prediction"
    values = case_values(scores, missing="worst").set_index(["case_id", "metric"])
    assert values.loc[("seen0", "nave"), "value"] == np.inf
    assert values.loc[("seen0", "dsc"), "value"] == 0
    assert values.loc[("seen0", "dsc"), "state"] == "missing"


def test_a_case_that_only_the_other_method_has_is_missing():
    other = two_folds(algorithm="other").iloc[:-1]
    both = pd.concat([two_folds(), other])
    with pytest.raises(ScoringError, match=r"'other'.*fold 1 test: c \(no_row\)"):
        benchmark_tables(both)
    (table,) = benchmark_tables(both, published=False, missing="remove", bootstrap=None)
    assert cells(table, "Fold 1", "other")[2] == "2 (1 missing)"
    assert cells(table, "Fold 1", "mine")[2] == "3"


def test_a_label_that_a_case_lacks_is_missing():
    scores = official(algorithms=("A",))
    with pytest.raises(ScoringError, match="no_row"):
        benchmark_tables(scores.drop(index=1))


def test_a_part_that_a_method_lacks_is_blank():
    mosmed = two_folds(part="test_mosmed", dataset="mosmed")
    scores = pd.concat([two_folds(), mosmed, two_folds(algorithm="other")])
    (table,) = benchmark_tables(scores, published=False, bootstrap=FEW)
    assert cells(table, "Average", "other")[3:] == ["–", "–", "–"]


def test_a_case_without_reference_cannot_count_as_worst():
    scores = pd.DataFrame([failed("a", status="missing_reference"), row("b", 0.8)])
    with pytest.raises(ScoringError, match="no reference"):
        benchmark_tables(scores, missing="worst")
    assert benchmark_tables(scores, missing="remove", bootstrap=None)


def test_counts_differ_by_metric_only_where_they_must():
    """An NSD alone undefined: the counts of DSC and NSD are told apart."""
    scores = two_folds()
    scores.loc[0, ["nsd_3mm", "status"]] = [np.nan, "prediction_empty"]
    (table,) = benchmark_tables(scores, published=False, bootstrap=None)
    assert cells(table, "Fold 0")[2] == "2 / 1 (1 undefined)"


# Refusals.


@pytest.mark.parametrize(
    ("scores", "kind", "message"),
    [
        (two_folds().drop(columns="dsc"), ScoringError, "lack the columns dsc"),
        (two_folds().iloc[:0], ScoringError, "no scores"),
        (two_folds(task="task9-infection"), ConfigError, "'task9-infection' is not known"),
        (pd.concat([two_folds(), two_folds().iloc[:1]]), ScoringError, "twice.*fold 0 test: a"),
        (two_folds(policy=["x", "x", "x", "y", "y"]), ScoringError, "different policies: x, y"),
        (two_folds(phantom=[True] + [False] * 4), ScoringError, "phantoms and of patients"),
        (two_folds(phantom="maybe"), ScoringError, "phantom holds 'maybe'"),
        (two_folds(patient_id=["p", "b", "q", "b", "c"]), ScoringError, "a belongs to several"),
        (two_folds(nsd_3mm=np.nan), ScoringError, "nsd_3mm of infection was not scored"),
        (two_folds().drop(columns="nsd_3mm"), ScoringError, "nsd_3mm of infection was not scored"),
        (two_folds(dsc=-0.1), ScoringError, "dsc is negative"),
        (two_folds(task=""), ScoringError, "name no task.*--task .*task2-nsclc-lung, covid1920"),
        (two_folds(fold="first"), ScoringError, "'first' is not a number"),
    ],
)
def test_scores_that_cannot_stand_in_a_table(scores, kind, message):
    with pytest.raises(kind, match=message):
        benchmark_tables(scores, bootstrap=None)


def test_seeds_are_called_seeds():
    (table,) = benchmark_tables(two_folds(), bootstrap=None, repetition="Seed")
    printed = table.markdown()
    assert "| Method | Seed |" in printed
    assert "Seed 0" in printed
    assert "A seed's std" in printed
    # The published rows keep their folds.
    assert "Fold 0" in printed.partition("published")[2]


def test_wrong_options():
    with pytest.raises(ConfigError, match="'drop' is not known"):
        benchmark_tables(two_folds(), missing="drop")
    with pytest.raises(ConfigError, match="'html' is not known"):
        benchmark_tables(two_folds(), bootstrap=None)[0].render("html")
    with pytest.raises(ConfigError, match="'paper' is not known"):
        report_tables(two_folds(), style="paper")
    with pytest.raises(ConfigError, match="'hd95' is not known"):
        case_values(two_folds(), metrics=["hd95"])
    with pytest.raises(ScoringError, match="task1-infection in a table of COVID-19-20"):
        covid1920_tables(two_folds())


# Official and patient-clean.


def test_leaks_are_those_of_the_published_split():
    leaks = leaking_cases("task1-infection")
    case = ("test", "2", "covid-ct-seg", "radiopaedia_10_85902_3")
    assert leaks[case] == "radiopaedia_10_85902_1"
    assert {fold for _, fold, _, _ in leaks} == {"2", "4"}
    assert leaking_cases("covid1920") == {}


def test_patient_clean_average_stands_beneath_the_official_one():
    scores = official("task1-infection", ("A",))
    scores.loc[scores["case_id"].str.contains("85902|29_8649"), ["dsc", "nsd_3mm"]] = 1.0
    (table,) = benchmark_tables(scores, bootstrap=None)
    assert cells(table, "Average")[2] == "80"
    assert cells(table, "Average, patient-clean")[2] == "76"
    clean, whole = (cells(table, f"Average{end}")[0] for end in (", patient-clean", ""))
    assert float(clean.split("±")[0]) < float(whole.split("±")[0])
    assert any("without the test cases whose patient" in note for note in table.notes)
    numbers = table.numbers[table.numbers["variant"] == "patient-clean"]
    assert set(numbers.loc[numbers["fold"] == "2", "n"]) == {14}


def test_what_is_missing_is_counted_once_beside_a_patient_clean_average():
    scores = official("task1-infection", ("A",))
    first = scores.index[(scores["case_id"] == scores["case_id"].iloc[0])][0]
    scores.loc[first, ["dsc", "nsd_3mm", "status"]] = [np.nan, np.nan, "missing_prediction"]
    (table,) = benchmark_tables(scores, missing="remove", bootstrap=None)
    assert any("patient-clean" in row.cells[1] for row in table.rows)
    assert any("Missing: 2 values, in no mean" in note for note in table.notes)


def test_a_model_trained_on_the_clean_split_takes_the_place():
    scores = official("task1-infection", ("A",))
    clean = scores.assign(task="task1-infection-clean", dsc=0.5)
    (table,) = benchmark_tables(pd.concat([scores, clean]), bootstrap=None)
    assert cells(table, "Average, patient-clean")[::2] == ["50.0±0.0", "80"]
    assert any("models trained on the split without its leaks" in note for note in table.notes)


def test_what_was_left_out_as_leaking_is_not_missing():
    scores = official("task1-infection", ("A", "B"))
    scores[["dsc", "nsd_3mm"]] = 0.7
    retrained = scores[scores["algorithm"] == "B"].assign(task="task1-infection-clean", dsc=0.5)
    every = pd.concat([scores, retrained], ignore_index=True)
    for missing in ("refuse", "worst"):
        (table,) = benchmark_tables(every, bootstrap=None, missing=missing)
        rows = [row.cells for row in table.rows if "patient-clean" in row.cells[1]]
        assert [(row[2], row[4]) for row in rows] == [("70.0±0.0", "76"), ("50.0±0.0", "80")]


def test_scores_that_no_leak_touches_have_no_variant():
    (table,) = benchmark_tables(two_folds(), bootstrap=None)
    assert not any("patient-clean" in line.cells[1] for line in table.rows)


# Forms.


def test_phantoms_say_so_in_every_form():
    scores = official(phantom=True)
    tables = report_tables(scores, bootstrap=FEW, per_case=True, compare=True)
    tables += covid1920_tables(challenge(phantom=True), bootstrap=None)
    for table in tables:
        assert table.markdown().startswith(f"**{PHANTOM_NOTICE}")
        assert f"\\caption{{{PHANTOM_NOTICE}" in table.latex()
        lines = list(csv.DictReader(io.StringIO(table.csv())))
        assert {line["phantom"] for line in lines} == {"True"}
        assert all(line["title"].startswith(PHANTOM_NOTICE) for line in lines)
    real = benchmark_tables(official(), bootstrap=None)[0]
    assert PHANTOM_NOTICE not in real.markdown() + real.latex() + real.csv()


def test_markdown_is_a_table():
    (table,) = benchmark_tables(two_folds(algorithm="a|b_ *c*"), published=False, bootstrap=FEW)
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    # Unescaped bars alone divide columns.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {6}
    assert r"a\|b\_ \*c\*" in lines[2]


def test_latex_is_balanced_and_escaped():
    (table,) = benchmark_tables(official(algorithms=("50% & $x_1$",)), bootstrap=FEW)
    text = table.latex()
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    for line in body.splitlines():
        if not line.endswith(("\\toprule", "\\midrule")):
            content = line[: line.index(r"\\")]
            spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", content)]
            wide = sum(spans) - len(spans)
            assert len(re.findall(r"(?<!\\)&", content)) + wide + 1 == len(table.header)
    assert r"50\% \& \$x\_1\$" in text
    for begin in re.findall(r"\\begin\{(\w+)\}", text):
        assert text.count(f"\\begin{{{begin}}}") == text.count(f"\\end{{{begin}}}")
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert not re.search(r"[±–†]", text)
    # A bracket or a star at the head of a line would be taken for an argument of the one above.
    assert not re.search(r"^\s*[\[*]", text, re.MULTILINE)
    starred = covid1920_tables(challenge(algorithm="*ours"), published=False)[0].latex()
    assert "{*ours}" in starred
    rules = [int(n) for n in re.findall(r"\\cmidrule\(lr\)\{\d+-(\d+)\}", text)]
    assert max(rules) <= len(table.header)


def test_csv_has_every_number_unrounded():
    (table,) = benchmark_tables(two_folds(), bootstrap=FEW)
    frame = pd.read_csv(io.StringIO(table.csv()))
    own = frame[(frame["origin"] == "own") & (frame["fold"] == "average")].set_index("metric")
    assert own.loc["dsc", "std"] == np.std([0.5, 0.7, 0.6, 0.4, 0.8], ddof=1)
    assert own.loc["nsd", "tolerance_mm"] == 3
    assert own.loc["dsc", "ci_low"] < own.loc["dsc", "mean"] < own.loc["dsc", "ci_high"]
    theirs = frame[frame["origin"] != "own"]
    assert set(theirs["origin"]) == {"benchmark-task1", "benchmark-readme"}


def test_several_tables_are_one_csv_with_one_header(tmp_path):
    scores = pd.concat([two_folds(), two_folds(task="task1-reverse-infection")])
    tables = benchmark_tables(scores, published=False, bootstrap=None)
    frame = pd.read_csv(io.StringIO(render_tables(tables, "csv")))
    assert frame["title"].nunique() == 2
    write_tables(tables, tmp_path / "deep" / "table.md", "md")
    assert (tmp_path / "deep" / "table.md").read_text("utf-8").count("| Method |") == 2


def test_per_case_listing():
    scores = two_folds()
    scores.loc[0, ["dsc", "nsd_3mm", "nave", "status"]] = [np.nan, np.nan, np.nan, "both_empty"]
    scores.loc[1, ["dsc", "nsd_3mm", "nave", "status"]] = [np.nan, np.nan, np.nan, "unreadable"]
    (table,) = case_tables(scores)
    listed = [line.cells[2:] for line in table.rows]
    assert listed[:2] == [
        ("0", "a", "a", "Infection", "undefined", "undefined", "undefined"),
        ("0", "b", "b", "Infection", "missing", "missing", "missing"),
    ]
    assert [line[1] for line in listed[2:]] == ["b", "a", "c"]
    assert listed[2][4:] == ("0.4000", "0.3000", "1.2000")
    without = case_tables(two_folds(nave=np.nan))[0]
    assert [column[1] for column in without.header[-2:]] == ["DSC", "NSD"]


def test_comparison_names_its_correction():
    tables = report_tables(official(), compare=True, bootstrap=FEW)
    assert len(tables) == 2
    assert "Holm over 6 tests" in tables[1].markdown()
    assert len(tables[1].rows) == 6
    assert (p_value(0.0004), p_value(0.0422), p_value(np.nan)) == ("<0.001", "0.042", "–")


def test_files_as_the_scorer_writes_them(tmp_path):
    """Through write_scores and read_scores, and the benchmark's own wide file."""
    scores = official(phantom=True)
    write_scores(scores, tmp_path / "scores.csv")
    again = benchmark_tables(read_scores(tmp_path / "scores.csv"), bootstrap=None)[0]
    assert again.markdown() == benchmark_tables(scores, bootstrap=None)[0].markdown()
    wide = tmp_path / "baseline.csv"
    wide.write_text("Name,LesionDSC,LesionNSD-3mm\na.nii.gz,0.5,0.4\nb.nii.gz,0.7,0.8\n")
    theirs = read_scores(wide, task="task1-infection", algorithm="baseline")
    (table,) = benchmark_tables(theirs, published=False, bootstrap=None)
    assert cells(table, "All cases")[:2] == ["60.0±14.1", "60.0±28.3"]
    assert case_tables(theirs)


# Properties.

made_up = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),
        st.integers(0, 2),
        st.sampled_from(["mine", "theirs"]),
        st.floats(0.2, 1) | st.none(),
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda item: item[:3],
)


def as_scores(rows) -> pd.DataFrame:
    return pd.DataFrame(
        [
            row(case, dsc, fold, algorithm=method)
            if dsc is not None
            else failed(case, fold, "both_empty", algorithm=method)
            for case, fold, method, dsc in rows
        ]
    )


@settings(max_examples=12)
@given(made_up, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(rows, random):
    options = {"published": False, "missing": "remove", "bootstrap": FEW}
    tables = benchmark_tables(as_scores(rows), **options)
    random.shuffle(rows)
    again = benchmark_tables(as_scores(rows), **options)
    assert [table.markdown() for table in again] == [table.markdown() for table in tables]


@settings(max_examples=25)
@given(made_up)
def test_average_is_the_mean_of_the_folds_and_nothing_is_lost(rows):
    scores = as_scores(rows)
    values = case_values(scores, metrics=["dsc"], missing="remove")
    summary = summarise_folds(values, Bootstrap(n_resamples=50, method="percentile"))
    for method, block in summary.groupby("algorithm"):
        block = block.set_index("fold")
        folds, average = block.drop(index="average"), block.loc["average"]
        assert average["mean"] == pytest.approx(folds["mean"].mean(), nan_ok=True)
        assert average["n"] == folds["n"].sum()
        mine = scores[scores["algorithm"] == method]
        everything = mine["dsc"].dropna()
        assert average["n"] == len(everything)
        assert average["n_undefined"] == mine["dsc"].isna().sum()
        expected = scores[["case_id", "fold"]].drop_duplicates()
        assert average[["n", "n_missing", "n_undefined"]].sum() == len(expected)
        if len(everything) > 1:
            assert average["std"] == pytest.approx(everything.std(ddof=1))
            assert average["mean_over_cases"] == pytest.approx(everything.mean())
