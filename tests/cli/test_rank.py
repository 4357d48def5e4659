import json
from pathlib import Path

import pytest

from covidseg.cli.main import main

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "ranking_golden"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["rank", *map(str, arguments)])
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


@pytest.fixture
def two_algorithms(tmp_path):
    lines = ["task,algorithm,case,value"]
    lines += [f"DSC,A,{k},{0.5 + k / 100}\nDSC,B,{k},{0.4 + k / 200}" for k in range(12)]
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_report_and_what_was_chosen(two_algorithms, tmp_path, capsys):
    code, out, _ = run(
        capsys, two_algorithms, "--out", tmp_path / "report", "--bootstraps", 10, "--seed", 4,
        "--adjust", "none", "--missing", "remove", "--bootstrap-mode", "multiplicity",
    )  # fmt: skip
    assert code == 0
    assert "adjustment none" in out
    assert "1  A  (mean rank 1.00)" in out
    assert (tmp_path / "report" / "report.html").is_file()
    settings = json.loads((tmp_path / "report" / "ranking.json").read_text())["settings"]
    assert settings == {
        "adjust": "none", "alpha": 0.05, "missing": "remove", "bootstraps": 10,
        "bootstrap_mode": "multiplicity", "seed": 4,
    }  # fmt: skip


def test_the_default_adjustment_is_printed_and_want_of_power_warned_of(tmp_path, capsys):
    path = tmp_path / "scores.csv"
    rows = [f"DSC,{name},{k},{0.1 * ord(name) + k}" for name in "ABC" for k in range(4)]
    path.write_text("\n".join(["task,algorithm,case,value", *rows]) + "\n")
    code, out, err = run(capsys, path, "--out", tmp_path / "report", "--bootstraps", 5)
    assert code == 0
    assert "adjustment holm" in out
    assert "warning: No power in DSC" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alpha", "1.5"], "alpha is 1.5"),
        (["--adjust", "bonferroni"], "bonferroni"),
        (["--bootstraps", "0"], "bootstraps"),
        (["--workers", "0"], "workers"),
    ],
)
def test_impossible_options(two_algorithms, tmp_path, capsys, options, message):
    code, _, err = run(capsys, two_algorithms, "--out", tmp_path / "report", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "report").exists()


def test_a_file_that_is_not_there(tmp_path, capsys):
    code, _, err = run(capsys, tmp_path / "absent.csv", "--out", tmp_path / "report")
    assert code == 2
    assert "absent.csv" in err


def test_help_teaches(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "Example: covidseg rank scores/*.csv" in out
    assert "challengeR" in out
