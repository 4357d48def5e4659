"""The leaderboard: what it finds, how it names and orders, and the command."""

from __future__ import annotations

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
    # What is whole has all that lies below.
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
    assert found == ["one/scores.csv", "two/a/scores-mosmed.csv", "two/a/scores-test.csv"]
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
