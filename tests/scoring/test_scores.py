"""The file of per-case scores: written and read to the last digit; the benchmark's own form."""

import math

import numpy as np
import pandas as pd
import pytest

from covidseg.core.errors import ScoringError, UnreadableFileError
from covidseg.scoring.case import score_case
from covidseg.scoring.scores import (
    failed_rows,
    frame_of,
    nsd_column,
    nsd_tolerances,
    read_scores,
    rows_of,
    write_benchmark_csv,
    write_scores,
)
from covidseg.scoring.summary import failed_cases, summarise, summary_text

IDENTITY = {
    "task": "task1-union",
    "algorithm": "unet, 3D",
    "fold": 2,
    "part": "test",
    "dataset": "covid-ct-seg",
    "case_id": "007",
    "patient_id": "",
    "phantom": False,
}
LABELS = {1: "left_lung", 2: "right_lung", 3: "infection"}
TOLERANCES = {"left_lung": 1, "right_lung": 1, "infection": 3}

# As COVID-19-Seg-Evaluation.py writes it for left lung, right lung and lesion.
BENCHMARK = """Name,L-lungDSC,L-lung-1mm,R-lungDSC,R-lung-1mm,LesionDSC,LesionNSD-3mm
coronacases_001.nii.gz,0.9583333333333334,0.8,0.97,0.9,0.61,0.7000000000000001
radiopaedia_4_85506_1.nii.gz,0.9,0.7,0.92,0.75,,
"""


def frame():
    reference = np.zeros((9, 9, 9), np.uint8)
    reference[1:4, 1:4, 1:4] = 1
    reference[7, 7, 7] = 3
    prediction = np.roll(reference, 1, 0)
    prediction[5, 5, 5] = 2
    scores = score_case(prediction, reference, LABELS, (0.7, 0.7, 5), TOLERANCES)
    broken = {**IDENTITY, "case_id": "x", "fold": None}
    return frame_of(
        rows_of(scores, IDENTITY)
        + failed_rows(LABELS.values(), broken, "unreadable", 'a "quoted", sad\nstory', "undefined")
    )


def test_what_is_written_is_read(tmp_path):
    written = frame()
    write_scores(written, tmp_path / "deep" / "scores.csv")
    pd.testing.assert_frame_equal(read_scores(tmp_path / "deep" / "scores.csv"), written)
    assert written["case_id"].tolist()[0] == "007"  # not the number 7
    assert written["patient_id"].tolist()[0] == "007"
    assert written["nave"].tolist()[1] == math.inf
    text = (tmp_path / "deep" / "scores.csv").read_text()
    assert text.splitlines()[0] == (
        "task,algorithm,fold,part,dataset,case_id,patient_id,label,dsc,nsd_1mm,nsd_3mm,nave,"
        "volume_prediction_ml,volume_reference_ml,status,message,policy,phantom"
    )
    assert ",inf," in text
    assert text.splitlines()[1].endswith(",ok,,undefined,false")


def test_several_files_with_other_tolerances(tmp_path):
    write_scores(frame(), tmp_path / "a.csv")
    other = frame().rename(columns={"nsd_3mm": "nsd_2.5mm"})
    write_scores(other, tmp_path / "b.csv")
    both = read_scores([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert len(both) == 12
    assert nsd_tolerances(both.columns) == [1, 2.5, 3]
    assert nsd_column(2.5) == "nsd_2.5mm"
    assert list(both.columns[8:13]) == ["dsc", "nsd_1mm", "nsd_2.5mm", "nsd_3mm", "nave"]


def test_reads_what_the_benchmarks_evaluation_wrote(tmp_path):
    path = tmp_path / "Task1_SegMetric.csv"
    path.write_text(BENCHMARK)
    scores = read_scores(path)
    assert scores["label"].tolist() == ["left_lung", "right_lung", "infection"] * 2
    assert scores["case_id"].unique().tolist() == ["coronacases_001", "radiopaedia_4_85506_1"]
    assert set(scores["task"]) == {"union"}
    assert set(scores["algorithm"]) == {"Task1_SegMetric"}
    assert set(scores["policy"]) == {"surface-distance"}
    assert scores["nsd_1mm"].tolist()[:2] == [0.8, 0.9]
    assert scores["nsd_3mm"].tolist()[2] == 0.7000000000000001
    assert scores["status"].tolist()[-1] == "both_empty"
    assert math.isnan(scores["dsc"].tolist()[-1])
    named = read_scores(path, task="task1-union", algorithm="nnU-Net")
    assert set(zip(named["task"], named["algorithm"], strict=True)) == {("task1-union", "nnU-Net")}
    write_benchmark_csv(scores, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == BENCHMARK


@pytest.mark.parametrize(
    ("columns", "task"),
    [
        ("Name,LesionDSC,LesionNSD-3mm\na.nii.gz,0.5,0.6\n", "infection"),
        ("Name,L-lungDSC,L-lung-1mm,R-lungDSC,R-lung-1mm\na.nii.gz,0.5,0.6,0.7,0.8\n", "lung"),
    ],
)
def test_the_benchmarks_files_by_their_columns(tmp_path, columns, task):
    (tmp_path / "a.csv").write_text(columns)
    assert set(read_scores(tmp_path / "a.csv")["task"]) == {task}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "has no column task"),
        ("Name,LesionDSC\na.nii.gz,0.5\n", "LesionDSC alone"),
        ("Name,LesionDSC,LesionNSD-3mm\na.nii.gz,0.5,0.6,\n", "more fields than its header"),
        ("Name,LesionDSC,LesionNSD-3mm\na.nii.gz,good,0.5\n", "line 2 has .good. in"),
    ],
)
def test_other_columns(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ScoringError, match=words):
        read_scores(tmp_path / "a.csv")


@pytest.mark.parametrize("value", ["31.5", "1.001", "-0.1"])
def test_overlaps_are_shares(tmp_path, value):
    path = tmp_path / "percent.csv"
    path.write_text(f"Name,LesionDSC,LesionNSD-3mm\na.nii.gz,{value},0.6\n")
    with pytest.raises(ScoringError, match=r"dsc of a \(infection\) is .* a share, 0 to 1"):
        read_scores(path)
    path.write_text(f"Name,LesionDSC,LesionNSD-3mm\na.nii.gz,0.6,{value}\n")
    with pytest.raises(ScoringError, match="nsd_3mm of a"):
        read_scores(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UnreadableFileError, match="no such file"):
        read_scores(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01" * 9)
    for name in ("empty.csv", "binary.csv"):
        with pytest.raises(UnreadableFileError, match=r"not a CSV|not in UTF-8"):
            read_scores(tmp_path / name)
    with pytest.raises(ScoringError, match="no file"):
        read_scores([])


def test_the_benchmarks_form_refuses_what_it_cannot_say(tmp_path):
    scores = frame()
    with pytest.raises(ScoringError, match="several rows"):
        write_benchmark_csv(pd.concat([scores, scores]), tmp_path / "b.csv")
    with pytest.raises(ScoringError, match="no column for heart"):
        write_benchmark_csv(scores.assign(label="heart"), tmp_path / "b.csv")
    with pytest.raises(ScoringError, match="infection=3"):
        write_benchmark_csv(scores.drop(columns="nsd_3mm"), tmp_path / "b.csv")
    assert not (tmp_path / "b.csv").exists()
    write_benchmark_csv(scores, tmp_path / "b.csv")
    # Read again, empty values would be two empty masks, not a case that failed.
    assert "x.nii.gz" not in (tmp_path / "b.csv").read_text()


@pytest.mark.parametrize("policy", ["undefined", "agreement", "reference-only"])
def test_the_benchmarks_form_has_its_own_values_for_empty_masks(tmp_path, policy):
    empty = np.zeros((4, 4, 4), np.uint8)
    full = np.ones_like(empty)
    rows = []
    for case, pair in {"both": (empty, empty), "p": (empty, full), "r": (full, empty)}.items():
        scores = score_case(*pair, {1: "infection"}, (1, 1, 1), 3, policy=policy)
        rows += rows_of(scores, {**IDENTITY, "case_id": case})
    write_benchmark_csv(frame_of(rows), tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text().splitlines()[1:] == [
        "both.nii.gz,,", "p.nii.gz,0.0,0.0", "r.nii.gz,0.0,0.0"
    ]  # fmt: skip


def test_writing_needs_every_column(tmp_path):
    with pytest.raises(ScoringError, match="lack the columns status"):
        write_scores(frame().drop(columns="status"), tmp_path / "s.csv")


def test_a_mean_says_what_is_not_in_it():
    scores = frame_of(
        {**IDENTITY, "case_id": str(n), "label": "infection", "policy": "undefined", **values}
        for n, values in enumerate(
            [
                {"dsc": 0.5, "nsd_3mm": 0.4, "nave": 0.1, "status": "ok"},
                {"dsc": 0.7, "nsd_3mm": 0.8, "nave": 0.3, "status": "ok"},
                {"status": "both_empty"},
                {"dsc": 0.0, "nsd_3mm": 0.0, "nave": math.inf, "status": "reference_empty"},
                {"status": "missing_prediction", "message": "no prediction"},
            ]
        )
    )
    lines = {line["metric"]: line for line in summarise(scores).to_dict("records")}
    assert lines["dsc"]["mean"] == pytest.approx(0.4)
    assert lines["dsc"]["std"] == pytest.approx(np.std([0.5, 0.7, 0], ddof=1))
    counts = ("n", "undefined", "infinite", "failed")
    assert [lines["dsc"][count] for count in counts] == [3, 1, 0, 1]
    assert lines["nave"]["mean"] == pytest.approx(0.2)
    assert [lines["nave"][count] for count in counts] == [2, 1, 1, 1]
    assert "1 undefined, 1 infinite, 1 failed" in summary_text(scores)
    assert failed_cases(scores).to_dict("records") == [
        {"case_id": "4", "status": "missing_prediction", "message": "no prediction"}
    ]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("dsc", "n/a", "line 3 has 'n/a' in the column dsc; expected a number"),
        ("nave", "0,3", "line 3 has '0,3' in the column nave"),
        ("fold", "1.5", "'1.5' in the column fold; expected a whole number"),
        ("phantom", "0", "'0' in the column phantom; expected true or false"),
        # A ranking takes the negative of NAVE, of which this would be the best there is.
        ("nave", "-0.3", "nave of c2 .infection. is -0.3; expected 0 or more"),
        # Taken for a failure, the case would count as missing.
        ("status", "OK", "status of c2 .infection. is 'OK', yet it has a dsc; expected one of ok"),
    ],
)
def test_a_field_that_cannot_be_taken_is_named(tmp_path, column, value, message):
    rows = [
        {"case_id": case, "label": "infection", "dsc": 0.5, "nave": 0.1} for case in ("c1", "c2")
    ]
    write_scores(frame_of([{**row, "status": "ok"} for row in rows]), tmp_path / "s.csv")
    table = pd.read_csv(tmp_path / "s.csv", dtype=str)
    table.loc[1, column] = value
    table.to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(ScoringError, match=message):
        read_scores(tmp_path / "s.csv")


def test_blanks_around_fields_are_no_part_of_them(tmp_path):
    row = {"algorithm": " net ", "case_id": "c1", "label": "infection", "status": "ok "}
    write_scores(frame_of([{**row, "dsc": 0.5}]), tmp_path / "s.csv")
    text = (tmp_path / "s.csv").read_text().replace("0.5", " ")
    (tmp_path / "s.csv").write_text(text)
    (read,) = read_scores(tmp_path / "s.csv").to_dict("records")
    assert (read["algorithm"], read["status"]) == ("net", "ok")
    assert np.isnan(read["dsc"])


def test_a_folder_is_no_file_of_scores(tmp_path):
    with pytest.raises(UnreadableFileError, match=r"is a folder; .* Name .*/\*\.csv"):
        read_scores(tmp_path)
