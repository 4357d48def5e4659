"""The subcommand `covidseg table`, as typed."""

import numpy as np
import pandas as pd
import pytest

from covidseg.cli.main import main
from covidseg.scoring.scores import write_scores


def scores(algorithm="mine", cases="abcd", task="task1-infection", part="test") -> pd.DataFrame:
    rng = np.random.default_rng(len(algorithm))
    rows = [
        {
            "task": task,
            "algorithm": algorithm,
            "fold": None if task == "covid1920" else fold,
            "part": part,
            "dataset": "covid-ct-seg",
            "case_id": case,
            "patient_id": case,
            "label": "infection",
            "dsc": rng.random(),
            "nsd_1mm": 0.5,
            "nsd_3mm": 0.6,
            "nave": 0.1,
            "volume_prediction_ml": 1.0,
            "volume_reference_ml": 1.0,
            "status": "ok",
            "message": "",
            "policy": "undefined",
            "phantom": True,
        }
        for fold in range(1 if task == "covid1920" else 2)
        for case in cases
    ]
    return pd.DataFrame(rows)


def run(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["table", *map(str, arguments)])
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


@pytest.fixture
def files(tmp_path):
    paths = []
    for name in ("mine", "theirs"):
        paths.append(tmp_path / f"{name}.csv")
        write_scores(scores(name), paths[-1])
    return paths


def test_prints_markdown_with_published_rows(capsys, files):
    status, out, _ = run(capsys, *files)
    assert status == 0
    assert out.startswith("**PHANTOM DATA")
    assert "| mine | Fold 0 |" in out
    assert "3D U-Net (published)" in out
    _, out, _ = run(capsys, *files, "--no-published", "--resamples", 100)
    assert "published)" not in out


def test_writes_every_form_and_figures(capsys, files, tmp_path):
    for form, sign in (("md", "| mine |"), ("csv", "origin,task"), ("tex", "\\toprule")):
        path = tmp_path / f"table.{form}"
        status, out, err = run(capsys, *files, "--format", form, "--out", path)
        assert (status, out) == (0, "")
        assert f"wrote {path}" in err
        assert sign in path.read_text("utf-8")
        # The name says as much as the option.
        (tmp_path / "first").write_bytes(path.read_bytes())
        assert run(capsys, *files, "--out", path)[0] == 0
        assert path.read_bytes() == (tmp_path / "first").read_bytes()


def test_draws_figures(capsys, tmp_path):
    write_scores(scores().assign(nave=np.nan), tmp_path / "mine.csv")
    plots = tmp_path / "plots"
    status, _, err = run(capsys, tmp_path / "mine.csv", "--plots", plots, "--resamples", 100)
    assert status == 0
    assert (plots / "task1-infection_dsc_box.svg").exists()
    assert err.count("wrote") == len(list(plots.iterdir())) == 12


def test_cases_and_comparisons(capsys, files):
    _, out, _ = run(capsys, *files, "--per-case", "--compare", "--resamples", 100)
    assert "Cases of task1-infection" in out
    assert "Holm over 2 tests" in out


def test_challenge_style(capsys, tmp_path):
    both = pd.concat(
        [
            scores(task="covid1920", part="test_seen"),
            scores(task="covid1920", part="test_unseen", cases="efgh"),
        ]
    )
    write_scores(both, tmp_path / "challenge.csv")
    status, out, _ = run(capsys, tmp_path / "challenge.csv", "--style", "covid1920")
    assert status == 0
    assert out.count("**PHANTOM DATA") == 3
    assert "S. Hu et al." in out


def test_errors_name_the_finding_and_the_remedy(capsys, files, tmp_path):
    status, _, err = run(capsys, files[0], files[0])
    assert status == 2
    assert "twice" in err
    write_scores(scores("short", "abc"), tmp_path / "short.csv")
    status, _, err = run(capsys, files[0], tmp_path / "short.csv")
    assert status == 2
    assert "'short' task1-infection fold 0 test: d (no_row)" in err
    assert "--missing remove" in err
    status, out, _ = run(capsys, files[0], tmp_path / "short.csv", "--missing", "remove")
    assert status == 0
    assert "6 (2 missing)" in out
    write_scores(scores(task="task7-infection"), tmp_path / "unknown.csv")
    status, _, err = run(capsys, tmp_path / "unknown.csv")
    assert status == 2
    assert "'task7-infection' is not known" in err
    (tmp_path / "other.csv").write_text("case,score\na,0.5\n")
    status, _, err = run(capsys, tmp_path / "other.csv")
    assert status == 2
    assert "other.csv" in err
    status, _, err = run(capsys, tmp_path / "absent.csv")
    assert status == 2
    assert "absent.csv" in err
    status, _, err = run(capsys, files[0], "--style", "covid1920")
    assert status == 2
    assert "covid1920" in err


def test_nothing_is_written_when_there_is_no_table(capsys, files, tmp_path):
    out = tmp_path / "table.md"
    status, *_ = run(capsys, files[0], files[0], "--out", out)
    assert status == 2
    assert not out.exists()
