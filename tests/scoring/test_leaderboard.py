"""The leaderboard: what it finds, how it names and orders, and the command."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from covidseg.cli.main import main
from covidseg.core.errors import ScoringError
from covidseg.scoring.leaderboard import find_scores, leaderboard_tables, read_runs
from covidseg.scoring.scores import write_scores


def rows(algorithm, dsc, part="test_covid", task="task2-msd-tumour", phantom=True, fold=None):
    return pd.DataFrame([
        {
            "task": task, "algorithm": algorithm, "fold": fold, "part": part,
            "dataset": "covid-ct-seg", "case_id": case, "patient_id": case, "label": "lesion",
            "dsc": value, "nsd_3mm": value, "nsd_1mm": value, "nave": 1.0,
            "volume_prediction_ml": 1.0, "volume_reference_ml": 1.0, "status": "ok",
            "message": "", "policy": "undefined", "phantom": phantom,
        }
        for case, value in zip("abc", dsc, strict=True)
    ])  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    write_scores(rows("plain", [0.1, 0.2, 0.3]), make(tmp_path / "one") / "scores.csv")
    # What a driver wrote last stands for the runs below of which it tells.
    write_scores(rows("plain", [0.9, 0.9, 0.9]), make(tmp_path / "one/fold0") / "scores-x.csv")
    write_scores(rows("lesions", [0.4, 0.5, 0.6]), make(tmp_path / "two/a") / "scores-test.csv")
    write_scores(
        rows("lesions", [0.2, 0.2, 0.2], "test_mosmed"), tmp_path / "two/a/scores-mosmed.csv"
    )
    return tmp_path


def make(folder):
    folder.mkdir(parents=True)
    return folder


def test_what_is_found(runs):
    found = [str(path.relative_to(runs)) for path in find_scores([runs])]
    assert found == [
        "one/scores.csv", "one/fold0/scores-x.csv", "two/a/scores-mosmed.csv",
        "two/a/scores-test.csv",
    ]  # fmt: skip
    assert (read_runs(find_scores([runs]))["dsc"] < 0.9).all()
    assert find_scores([runs / "one/fold0/scores-x.csv", runs / "one/fold0"]) == [
        runs / "one/fold0/scores-x.csv"
    ]
    with pytest.raises(ScoringError, match="does not exist"):
        find_scores([runs / "three"])
    with pytest.raises(ScoringError, match=r"no scores in .*covidseg score"):
        find_scores([make(runs / "empty")])


def test_the_order_is_the_unseen_tests_dsc(runs):
    [table] = leaderboard_tables(read_runs(find_scores([runs])))
    assert table.phantom
    ranked = [row.cells[:2] for row in table.rows if row.cells[0]]
    assert ranked == [("1", "lesions"), ("2", "plain")]
    assert "3D U-Net (published)" in table.markdown()
    assert "50.0±10.0" in table.markdown()  # 0.4, 0.5, 0.6
    assert "20.0±10.0" in table.markdown()


def test_methods_of_one_name_get_their_folders(runs):
    write_scores(rows("plain", [0.3, 0.3, 0.3]), make(runs / "team") / "scores.csv")
    scores = read_runs(find_scores([runs]))
    assert {name.split(" (")[0] for name in scores["algorithm"]} == {"plain", "lesions"}
    assert scores["algorithm"].nunique() == 3
    assert any(name.endswith("team)") for name in scores["algorithm"])


def test_phantoms_and_patients_apart(runs):
    write_scores(rows("real", [0.3, 0.3, 0.3], phantom=False), make(runs / "r") / "scores.csv")
    tables = leaderboard_tables(read_runs(find_scores([runs])))
    assert sorted(table.phantom for table in tables) == [False, True]


def test_the_command(runs, capsys, tmp_path):
    for words, code in (
        (["leaderboard", str(runs)], 0),
        (["leaderboard", str(runs), "--out", str(tmp_path / "board.csv")], 0),
        (["leaderboard", str(runs), "--out", str(tmp_path / "board.doc")], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert (ended.value.code or 0) == code
    assert "PHANTOM DATA" in capsys.readouterr().out
    assert "lesions" in (tmp_path / "board.csv").read_text()


def test_folds_of_one_protocol_are_not_missing_in_another(tmp_path):
    # Cross-validation: each case in its own fold. A comparison: all cases, seed by seed.
    crossed = pd.concat([
        rows("crossed", [0.8, 0.8, 0.8], "validation", "semiseg").iloc[n : n + 1].assign(fold=n)
        for n in range(3)
    ])  # fmt: skip
    write_scores(crossed, make(tmp_path / "cv") / "scores.csv")
    seeds = [rows("seeded", [0.6, 0.7, 0.5], "validation", "semiseg", fold=n) for n in range(2)]
    write_scores(pd.concat(seeds), make(tmp_path / "compare") / "scores.csv")
    [table] = leaderboard_tables(read_runs(find_scores([tmp_path])))
    assert [row.cells[:4] for row in table.rows] == [
        ("1", "crossed", "3", "80.0±0.0"),
        ("2", "seeded", "2", "60.0±8.9"),
    ]
    # Within one file a case that another method has is missing.
    write_scores(
        pd.concat([*seeds, seeds[0].assign(algorithm="lacks")[:2]]),
        tmp_path / "compare/scores.csv",
    )
    [table] = leaderboard_tables(read_runs(find_scores([tmp_path])))
    lacks = next(row.cells for row in table.rows if row.cells[1] == "lacks")
    # Half of the cases it should have, seed 1 whole among them, are not there.
    assert lacks[3].startswith("21.7")


def test_a_driver_called_for_a_part_of_its_runs_hides_none(tmp_path):
    write_scores(rows("plain", [0.5] * 3, fold=0), make(tmp_path / "t") / "scores.csv")
    write_scores(rows("plain", [0.5] * 3), make(tmp_path / "t/plain") / "scores-x.csv")
    write_scores(rows("gin", [0.6] * 3), make(tmp_path / "t/gin") / "scores-x.csv")
    [table] = leaderboard_tables(read_runs(find_scores([tmp_path])))
    assert [row.cells[1:4] for row in table.rows if row.cells[0]] == [
        ("gin", "", "60.0±0.0"), ("plain", "1", "50.0±0.0")
    ]  # fmt: skip


def test_two_drivers_methods_of_one_name_stay_two(tmp_path):
    write_scores(rows("supervised", [0.8] * 3), make(tmp_path / "all") / "scores.csv")
    few = [rows("supervised", [0.6] * 3, fold=seed) for seed in range(2)]
    write_scores(pd.concat(few), make(tmp_path / "few") / "scores.csv")
    [table] = leaderboard_tables(read_runs(find_scores([tmp_path])))
    ranked = [row.cells[1:4] for row in table.rows if row.cells[0]]
    assert ranked == [
        (f"supervised ({tmp_path}/all)", "", "80.0±0.0"),
        (f"supervised ({tmp_path}/few)", "2", "60.0±0.0"),
    ]


def test_a_drivers_scores_and_the_pieces_of_another_stay_two(tmp_path):
    write_scores(rows("gin", [0.8] * 3, fold=0), make(tmp_path / "one") / "scores.csv")
    # Called for another task since: of this one there are the pieces, which do not say the fold.
    other = rows("gin", [0.1] * 3).assign(task="task2-nsclc-lung")
    write_scores(other, make(tmp_path / "two") / "scores.csv")
    write_scores(rows("gin", [0.6] * 3), make(tmp_path / "two/gin/seed0") / "scores-x.csv")
    tables = leaderboard_tables(read_runs(find_scores([tmp_path])))
    ranked = [row.cells[1:4] for row in tables[0].rows if row.cells[0]]
    assert ranked == [
        (f"gin ({tmp_path}/one)", "1", "80.0±0.0"),
        (f"gin ({tmp_path}/two/gin/seed0)", "", "60.0±0.0"),
    ]


def test_a_run_on_its_own_is_a_fold_of_a_driver_where_it_says_so(tmp_path):
    write_scores(rows("unet", [0.5] * 3, fold=0), make(tmp_path / "one") / "scores.csv")
    write_scores(rows("unet", [0.6] * 3, fold=1), make(tmp_path / "two") / "scores-x.csv")
    write_scores(rows("gin", [0.5] * 3, fold=0), make(tmp_path / "three") / "scores.csv")
    write_scores(rows("gin", [0.6] * 3), make(tmp_path / "four") / "scores-x.csv")
    [table] = leaderboard_tables(read_runs(find_scores([tmp_path])))
    ranked = {row.cells[1]: row.cells[2] for row in table.rows if row.cells[0]}
    assert ranked == {"unet": "2", f"gin ({tmp_path}/three)": "1", f"gin ({tmp_path}/four)": ""}


def test_folds_in_folders_of_their_own_are_one_method(tmp_path):
    for fold in range(2):
        folder = make(tmp_path / f"fold{fold}")
        write_scores(rows("unet", [0.5 + 0.1 * fold] * 3, fold=fold), folder / "scores-test.csv")
    [table] = leaderboard_tables(read_runs(find_scores([tmp_path])))
    assert [row.cells[1:4] for row in table.rows if row.cells[0]] == [("unet", "2", "55.0±5.5")]


def test_a_method_without_a_score_is_last_and_has_no_rank(tmp_path):
    for name, values in (("good", [0.9] * 3), ("none", [math.nan] * 3), ("poor", [0.5] * 3)):
        frame = rows(name, values)
        if name == "none":
            frame = frame.assign(status="both_empty", nsd_3mm=math.nan, nsd_1mm=math.nan)
        write_scores(frame, make(tmp_path / name) / "scores.csv")
    [table] = leaderboard_tables(read_runs(find_scores([tmp_path])))
    assert [row.cells[:2] for row in table.rows][:3] == [("1", "good"), ("2", "poor"), ("", "none")]


def test_a_method_that_lacks_a_label_has_no_rank_and_equals_share_one(tmp_path):
    both = pd.concat(
        [rows("both", [0.5, 0.5, 0.5]), rows("both", [0.7, 0.7, 0.7]).assign(label="lung")]
    )
    same = both.assign(algorithm="the same")
    easy = rows("easy alone", [0.9, 0.9, 0.9]).assign(label="lung")
    write_scores(pd.concat([both, same]), make(tmp_path / "one") / "scores.csv")
    write_scores(easy, make(tmp_path / "two") / "scores.csv")
    [table] = leaderboard_tables(read_runs(find_scores([tmp_path])))
    own = [row.cells[:2] for row in table.rows if "published" not in row.cells[1]]
    assert own == [("1", "both"), ("1", "the same"), ("", "easy alone")]


def test_a_case_without_a_reference_is_left_out_and_said(tmp_path):
    frame = rows("mine", [0.9, 0.8, math.nan])
    frame.loc[2, ["status", "nsd_3mm"]] = ["missing_reference", math.nan]
    write_scores(frame, make(tmp_path / "one") / "scores.csv")
    [table] = leaderboard_tables(read_runs(find_scores([tmp_path])))
    assert table.rows[0].cells[3].startswith("85.0")
    assert any("have no reference: c." in note for note in table.notes)


def test_a_link_to_a_run_is_that_run(tmp_path):
    write_scores(rows("a", [0.5, 0.5, 0.5]), make(tmp_path / "runs/one") / "scores.csv")
    (tmp_path / "runs/latest").symlink_to(tmp_path / "runs/one")
    assert len(find_scores([tmp_path / "runs"])) == 1
