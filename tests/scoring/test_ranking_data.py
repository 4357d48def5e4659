import numpy as np
import pandas as pd
import pytest

from covidseg.core.errors import ScoringError, UnreadableFileError
from covidseg.scoring.ranking import rank_challenge
from covidseg.scoring.ranking_data import read_challenge
from covidseg.scoring.scores import frame_of, read_scores, write_scores


def plain(path, rows, header="task,alg,case,value"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def row(algorithm, case, dsc=0.5, nave=0.2, **others):
    return {
        "task": "covid1920",
        "algorithm": algorithm,
        "fold": None,
        "part": "test_seen",
        "dataset": "covid1920",
        "case_id": case,
        "patient_id": case,
        "label": "infection",
        "dsc": dsc,
        "nsd_1mm": dsc,
        "nave": nave,
        "status": "ok",
        "message": "",
        "policy": "undefined",
        "phantom": False,
        **others,
    }


def scores(path, rows):
    write_scores(frame_of(rows), path)
    return path


def four(**others):
    return [row(name, case, **others) for name in "AB" for case in ("1", "2")]


def test_a_plain_file(tmp_path):
    file = plain(tmp_path / "s.csv", ["DSC,A,001,.5", "DSC,A,002,.25", "DSC,B,002,1", "DSC,B,001,"])
    challenge = read_challenge([file])
    (task,) = challenge.tasks
    assert (task.name, task.algorithms, task.cases) == ("DSC", ("A", "B"), ("001", "002"))
    np.testing.assert_array_equal(task.values, [[0.5, 0.25], [np.nan, 1]])
    assert task.missing.tolist() == [[False, False], [True, False]]
    assert task.completed("worst")[1].tolist() == [0, 1]
    assert np.isnan(task.completed("remove")[1, 0])
    assert not challenge.phantom


def test_a_case_without_a_row_is_missing(tmp_path):
    file = plain(tmp_path / "s.csv", ["DSC,A,1,.5", "DSC,A,2,.6", "DSC,B,1,.5"])
    assert read_challenge([file]).tasks[0].missing.tolist() == [[False, False], [False, True]]


def test_names_that_do_not_meet_are_no_missing_cases(tmp_path):
    a = plain(tmp_path / "a.csv", ["DSC,A,1,.5", "DSC,A,2,.6"])
    with pytest.raises(ScoringError, match="only A has scores of the task 'DSC'"):
        read_challenge([a, plain(tmp_path / "b.csv", ["Dice,B,1,.5", "Dice,B,2,.6"])])
    with pytest.raises(ScoringError, match=r"A has no case .* in common .*: 1 against case1"):
        read_challenge([a, plain(tmp_path / "b.csv", ["DSC,B,case1,.5", "DSC,B,case2,.6"])])
    lines = ["DSC,B,1,.5", "DSC,B,2,.6", "NSD,B,1,.5", "NSD,C,1,.5"]
    challenge = read_challenge([a, plain(tmp_path / "b.csv", lines)])
    assert [note for note in challenge.notes if "no scores at all" in note] == [
        "DSC: no scores at all of C.",
        "NSD: no scores at all of A.",
    ]


@pytest.mark.parametrize(
    ("task", "value", "worst"),
    [
        ("DSC_seen", 0.5, 0),
        ("nsd 3 mm", 0.5, 0),
        ("seen DSC", 0.5, 0),
        ("NAVE", -0.5, -np.inf),
        ("AUC", 0.5, -np.inf),
    ],
)
def test_what_a_missing_case_counts_as(tmp_path, task, value, worst):
    file = plain(tmp_path / "s.csv", [f"{task},A,1,{value}", f"{task},B,1,"])
    assert read_challenge([file]).tasks[0].completed("worst").tolist() == [[value], [worst]]


def test_overlaps_below_zero_are_no_overlaps(tmp_path):
    file = plain(tmp_path / "s.csv", ["DSC,A,1,-1", "DSC,B,1,"])
    assert read_challenge([file]).tasks[0].worst == -np.inf


def test_percentages_do_not_meet_shares(tmp_path):
    file = plain(tmp_path / "s.csv", ["DSC,A,1,.9", "DSC,A,2,.8", "DSC,B,1,31", "DSC,B,2,40"])
    with pytest.raises(ScoringError, match=r"DSC goes up to 40 for B and to 0\.9 for A.*by 100"):
        read_challenge([file])
    plain(file, ["DSC,A,1,90", "DSC,A,2,80", "DSC,B,1,31", "DSC,B,2,40", "DSC,C,1,0", "DSC,C,2,0"])
    assert read_challenge([file]).tasks[0].values[0].tolist() == [90, 80]


def test_metrics_and_parts_of_score_files_become_tasks(tmp_path):
    rows = four() + four(part="test_unseen")
    challenge = read_challenge(
        [scores(tmp_path / "a.csv", rows[::2]), scores(tmp_path / "b.csv", rows[1::2])]
    )
    names = [task.name for task in challenge.tasks]
    metrics, parts = ("DSC", "NSD 1 mm", "NAVE"), ("test_seen", "test_unseen")
    assert names == [f"{metric} {part}" for metric in metrics for part in parts]
    assert challenge.tasks[0].cases == ("1", "2")
    assert (challenge.tasks[4].values == -0.2).all()


def test_labels_have_the_tolerance_of_the_benchmark(tmp_path):
    rows = [
        {**one, "task": "task1-union", "label": label, "nsd_3mm": 0.9}
        for one in four()
        for label in ("left_lung", "infection")
    ]
    challenge = read_challenge([scores(tmp_path / "s.csv", rows)])
    values = {task.name: task.values[0, 0] for task in challenge.tasks}
    assert values["NSD 1 mm left_lung"] == 0.5
    assert values["NSD 3 mm infection"] == 0.9
    assert len(values) == 6


def test_metrics_can_be_chosen(tmp_path):
    challenge = read_challenge([scores(tmp_path / "s.csv", four())], ["nave"])
    assert [task.name for task in challenge.tasks] == ["NAVE"]


def test_a_metric_named_twice_counts_once(tmp_path):
    challenge = read_challenge([scores(tmp_path / "s.csv", four())], ["nave", "nave"])
    assert [task.name for task in challenge.tasks] == ["NAVE"]


def test_metrics_for_plain_files_alone(tmp_path):
    # Passed over, the ranking would be by all tasks of the file.
    rows = ["DSC,A,1,.5", "DSC,B,1,.4", "NSD,A,1,.5", "NSD,B,1,.4"]
    with pytest.raises(ScoringError, match=r"no columns of metrics\. Leave the metrics out"):
        read_challenge([plain(tmp_path / "s.csv", rows)], ["dsc"])


def test_a_metric_that_is_not_there(tmp_path):
    with pytest.raises(ScoringError, match=r"no metric nsd_5mm; .* dsc, nsd_1mm, nave"):
        read_challenge([scores(tmp_path / "s.csv", four())], ["nsd_5mm"])


def test_several_tolerances_of_which_none_is_the_benchmarks(tmp_path):
    rows = [{**one, "nsd_1mm": None, "nsd_2mm": 0.1, "nsd_5mm": 0.2} for one in four()]
    with pytest.raises(ScoringError, match=r"nsd_2mm, nsd_5mm.*--metric"):
        read_challenge([scores(tmp_path / "s.csv", rows)])


def test_failed_and_undefined_cases_differ(tmp_path):
    rows = four()
    rows[0] |= {"dsc": None, "nsd_1mm": None, "nave": None, "status": "missing_prediction"}
    rows[2] |= {"dsc": None, "nsd_1mm": None, "nave": None, "status": "both_empty"}
    rows[3] |= {"dsc": 0.0, "nave": np.inf, "status": "reference_empty"}
    challenge = read_challenge([scores(tmp_path / "s.csv", rows)])
    nave = challenge.tasks[2]
    assert nave.name == "NAVE"
    assert nave.missing.tolist() == [[True, False], [False, False]]
    assert nave.undefined.tolist() == [[False, False], [True, False]]
    assert nave.values[1, 1] == -np.inf
    assert "DSC: 1 of 4 values are undefined" in challenge.notes[0]


def test_a_missing_reference_is_nobodys_fault(tmp_path):
    rows = four()
    rows[0] |= {"dsc": None, "nsd_1mm": None, "nave": None, "status": "missing_reference"}
    assert not read_challenge([scores(tmp_path / "s.csv", rows)]).tasks[0].missing.any()


def test_folds_of_a_case_are_averaged(tmp_path):
    rows = [row("A", "1", 0.2, fold=0), row("A", "1", 0.6, fold=1), row("A", "2", 0.7, fold=1)]
    rows += [row("B", "1", 0.4, fold=0), row("B", "1", 0.4, fold=1), row("B", "2", 0.7, fold=1)]
    challenge = read_challenge([scores(tmp_path / "s.csv", rows)])
    np.testing.assert_allclose(challenge.tasks[0].values, [[0.4, 0.7], [0.4, 0.7]])
    assert "several folds" in challenge.notes[0]
    without = read_challenge([scores(tmp_path / "t.csv", rows[1:])])
    assert without.tasks[0].missing.tolist() == [[True, False], [False, False]]


def test_what_counts_folds_and_what_counts_seeds_stand_side_by_side(tmp_path):
    crossed = [row("crossed", str(case), 0.8, fold=case) for case in range(3)]
    seeded = [row("seeded", str(case), 0.5 + 0.1 * seed, fold=seed) for case in range(3)
              for seed in range(2)]  # fmt: skip
    other = [row("other", str(case), 0.7, fold=None) for case in range(2)]
    files = [
        scores(tmp_path / f"{rows[0]['algorithm']}.csv", rows) for rows in (crossed, seeded, other)
    ]
    task = read_challenge(files, ["dsc"]).tasks[0]
    assert task.algorithms == ("crossed", "other", "seeded")
    # Only the case that one has in no fold at all is missing.
    assert task.missing.tolist() == [[False] * 3, [False, False, True], [False] * 3]
    np.testing.assert_allclose(task.values[[0, 2]], [[0.8] * 3, [0.55] * 3])
    # Of two files of the same folds each is expected to have what the other has.
    rows = [{**one, "algorithm": "lacking"} for one in seeded[:-1]]
    files.append(scores(tmp_path / "lacking.csv", rows))
    task = read_challenge(files, ["dsc"]).tasks[0]
    assert task.missing[task.algorithms.index("lacking")].tolist() == [False, False, True]


def test_the_benchmarks_own_files(tmp_path):
    for name, value in (("unet", 0.5), ("nnunet", 0.75)):
        lines = [f"{case}.nii.gz,{value},{value}" for case in ("c1", "c2")]
        plain(tmp_path / f"{name}.csv", lines, "Name,LesionDSC,LesionNSD-3mm")
    challenge = read_challenge([tmp_path / "unet.csv", tmp_path / "nnunet.csv"])
    assert challenge.algorithms == ("nnunet", "unet")
    assert [task.name for task in challenge.tasks] == ["DSC", "NSD 3 mm"]


def test_a_file_without_an_algorithm_lends_its_name(tmp_path):
    files = [scores(tmp_path / f"{name}.csv", [row("", "1"), row("", "2")]) for name in ("x", "y")]
    challenge = read_challenge(files)
    assert challenge.algorithms == ("x", "y")
    assert "names no algorithm" in challenge.notes[0]


def test_an_algorithm_without_nave_is_not_taken_for_the_worst(tmp_path):
    rows = four()
    for one in rows[:2]:
        one["nave"] = None
    challenge = read_challenge([scores(tmp_path / "s.csv", rows)])
    with pytest.raises(ScoringError, match=r"'NAVE' has no value at all of A.*metrics that all"):
        rank_challenge(challenge)


def test_phantoms_are_phantoms(tmp_path):
    assert read_challenge([scores(tmp_path / "s.csv", four(phantom=True))]).phantom


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phantom": True}, "phantoms and of patients are mixed"),
        ({"policy": "agreement"}, r"different empty-mask policies \(agreement, undefined\)"),
        ({"case_id": "2"}, r"case covid1920/2 of algorithm A stands twice.*1 row"),
    ],
)
def test_rows_that_do_not_belong_together(tmp_path, change, message):
    rows = four()
    rows[0] |= change
    with pytest.raises(ScoringError, match=message):
        read_challenge([scores(tmp_path / "s.csv", rows)], ["dsc"])


def test_policies_that_agree_on_a_metric_can_meet(tmp_path):
    rows = four()
    rows[0]["policy"] = "surface-distance"
    file = scores(tmp_path / "s.csv", rows)
    read_challenge([file], ["dsc"])
    with pytest.raises(ScoringError, match="NAVE was scored under different"):
        read_challenge([file])


def test_the_same_file_twice(tmp_path):
    file = plain(tmp_path / "s.csv", ["DSC,A,1,.5", "DSC,B,1,.6"])
    with pytest.raises(ScoringError, match=r"case 1 of algorithm A stands twice.*2 rows too many"):
        read_challenge([file, file])


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("a,b,c", "1,2,3", "has the columns a, b, c; expected what `covidseg score` writes"),
        ("task,alg,case,value", "DSC,A,1,good", "line 2 is DSC,A,1,good"),
        ("task,alg,case,value", "DSC,A,1,inf", "line 2 is"),
        ("task,alg,case,value", "DSC,,1,.5", "line 2 is"),
        ("task,alg,case,value", "NAVE_seen,A,1,.5", "NAVE above 0 in task NAVE_seen"),
        ("task,alg,case,value", "seen NAVE,A,1,.5", "NAVE above 0 in task seen NAVE"),
        ("task,alg,case,value", "DSC,A, big,1,.5", "more fields than its header"),
        ("task,alg,case,value", "DSC,A,1,.5", r"only one algorithm \(A\)"),
    ],
)
def test_bad_plain_files(tmp_path, header, line, message):
    with pytest.raises(ScoringError, match=message):
        read_challenge([plain(tmp_path / "s.csv", [line], header)])


def test_empty_files(tmp_path):
    with pytest.raises(UnreadableFileError, match="not a CSV file"):
        read_challenge([plain(tmp_path / "none.csv", [], "")])
    with pytest.raises(ScoringError, match=r"no row of scores in s\.csv"):
        read_challenge([plain(tmp_path / "s.csv", [])])
    empty = tmp_path / "e.csv"
    scores(empty, four())
    pd.read_csv(empty).head(0).to_csv(empty, index=False)
    with pytest.raises(ScoringError, match="has no row"):
        read_challenge([empty])


def test_no_file():
    with pytest.raises(ScoringError, match="no file of scores"):
        read_challenge([])


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UnreadableFileError, match=r"absent\.csv"):
        read_challenge([tmp_path / "absent.csv"])
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01" * 20)
    with pytest.raises(UnreadableFileError, match=r"binary\.csv"):
        read_challenge([tmp_path / "binary.csv"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task;alg;case;value\nDSC;A;1;0,5\n", "fields parted by semicolons; .* Save it as CSV"),
        ("task\talg\tcase\tvalue\nDSC\tA\t1\t.5\n", "fields parted by tabs"),
    ],
)
def test_what_spreadsheets_write_where_the_comma_is_the_decimal_sign(tmp_path, text, message):
    (tmp_path / "s.csv").write_text(text)
    for read in (lambda path: read_challenge([path]), read_scores):
        with pytest.raises(ScoringError, match=message):
            read(tmp_path / "s.csv")


def test_other_encodings(tmp_path):
    (tmp_path / "s.csv").write_text("task,alg,case,value\nDSC,Mül,1,.5\n", encoding="cp1252")
    for read in (lambda path: read_challenge([path]), read_scores):
        with pytest.raises(UnreadableFileError, match=r"is not in UTF-8\. Save it"):
            read(tmp_path / "s.csv")
