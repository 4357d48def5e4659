"""Predicting and scoring of a part: by the weights, of the scans and against the annotations that
there are now.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from covidseg.core.errors import CovidsegError
from covidseg.engine.cache import TrainingCase
from covidseg.engine.task_data import Part, Row
from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.volume import Volume
from covidseg.registry.cases import HU
from covidseg.splits.records import CaseRecord
from covidseg.trainers import evaluation
from covidseg.trainers.evaluation import predict_part, score_part, scored_part
from covidseg.trainers.report import draw_extremes

NAME = "study_0255"  # one that the published split names


def test_annotations_of_another_repository_take_the_place_of_those_linked_before(tmp_path):
    predictions = tmp_path / "run/predictions/validation"
    dsc = []
    mask = np.zeros((6, 6, 4), np.uint8)
    mask[1:4] = 1
    write_nifti(predictions / f"{NAME}.nii.gz", Volume(mask, np.eye(4)))
    for hub, rows in (("one", slice(1, 4)), ("two", slice(3, 6))):
        label = tmp_path / hub / f"{NAME}.nii.gz"
        truth = np.zeros_like(mask)
        truth[rows] = 1
        write_nifti(label, Volume(truth, np.eye(4)))
        case = TrainingCase(NAME, label, label, HU, {1: 1}, "covid-ct-seg")
        part = Part(
            "task1-infection-fold0", "test_mosmed",
            [Row(case, "", NAME, hub, CaseRecord("", NAME))], {1: "infection"}, phantom=True,
        )  # fmt: skip
        found = score_part(part, predictions, algorithm="a", workers=1)
        dsc.append(found.set_index("case_id")["dsc"][NAME])
    assert dsc == [1.0, 1 / 3]


class Fills:
    """Predicts a value everywhere; counts its calls, and fails at scans of the size told."""

    def __init__(self, value):
        self.value, self.calls, self.fails = value, 0, None

    def predict(self, volume, intensity):
        self.calls += 1
        if volume.shape == self.fails:
            raise CovidsegError("cannot be segmented today")
        return volume.with_data(np.full(volume.shape, self.value, np.uint8))


NAMES = (NAME, "study_0256")


@pytest.fixture
def part(tmp_path):
    rows = []
    for name, size in zip(NAMES, ((6, 6, 4), (6, 6, 5)), strict=True):
        label = np.zeros(size, np.uint8)
        label[1:4] = 1
        path = tmp_path / f"{name}.nii.gz"
        write_nifti(path, Volume(label, np.eye(4)))
        case = TrainingCase(name, path, path, HU, {1: 1}, "covid-ct-seg", content=name)
        rows.append(Row(case, "", name, "x", CaseRecord("", name)))
    return Part("task1-infection-fold0", "test_mosmed", rows, {1: "infection"}, phantom=True)


def test_what_other_weights_or_scans_made_is_made_again(part, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "weights_digest", str)
    folder, scores = tmp_path / "predictions", tmp_path / "scores.csv"
    filled = Fills(1)

    def dsc(of=part, runs=("a", "b")):
        assert not predict_part(filled, of, folder, runs=runs)
        found = scored_part(of, folder, scores, algorithm="a", workers=1)
        return found.set_index("case_id")["dsc"][list(NAMES)].tolist()

    half = pytest.approx(2 / 3)
    assert dsc() == [half, half]
    assert dsc() == [half, half]
    assert filled.calls == 2
    filled.value = 0
    assert dsc(runs=("a",)) == [0, 0]
    assert filled.calls == 4
    # Another scan under the name of one.
    filled.value = 1
    case = dataclasses.replace(part.rows[0].case, content="another scan")
    other = dataclasses.replace(
        part, rows=[dataclasses.replace(part.rows[0], case=case), part.rows[1]]
    )
    assert dsc(other, ("a",)) == [half, 0]
    assert filled.calls == 5


def test_what_other_weights_made_is_gone_where_these_fail(part, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "weights_digest", str)
    folder, scores = tmp_path / "predictions", tmp_path / "scores.csv"
    filled = Fills(1)

    def statuses():
        found = scored_part(part, folder, scores, algorithm="a", workers=1)
        return found.set_index("case_id")["status"][list(NAMES)].tolist()

    predict_part(filled, part, folder, runs=["a"])
    assert statuses() == ["ok", "ok"]
    filled.fails = (6, 6, 5)
    assert len(predict_part(filled, part, folder, runs=["b"])) == 1
    assert statuses() == ["ok", "missing_prediction"]


def test_a_scan_that_memory_is_not_enough_for_is_that_scans_fault(part, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "weights_digest", str)
    filled = Fills(1)
    predict = filled.predict

    def too_large(volume, intensity):
        if volume.shape == (6, 6, 4):
            raise MemoryError
        return predict(volume, intensity)

    filled.predict = too_large
    [fault] = predict_part(filled, part, tmp_path / "predictions", runs=["a"])
    assert fault.startswith(f"{NAME}: ")
    assert "more memory" in fault
    assert (tmp_path / "predictions" / f"{NAMES[1]}.nii.gz").exists()


def test_a_part_of_which_nothing_can_be_segmented_is_scored_as_missing(part, tmp_path):
    folder, scores = tmp_path / "predictions", tmp_path / "scores.csv"
    folder.mkdir()
    found = scored_part(part, folder, scores, algorithm="a", workers=1)
    statuses = found.set_index("case_id")["status"][list(NAMES)]
    assert set(statuses) == {"missing_prediction"}
    draw_extremes(part, folder, found, tmp_path / "overlays")
    assert not list(tmp_path.glob("overlays*"))


@pytest.fixture
def scored(part, tmp_path, monkeypatch):
    """Scores a part that some cases of were predicted; also the folder, and the score file."""
    monkeypatch.setattr(evaluation, "weights_digest", str)
    folder, scores = tmp_path / "predictions", tmp_path / "scores.csv"
    predict_part(Fills(1), part, folder, runs=["a"])

    def statuses(of):
        found = scored_part(of, folder, scores, algorithm="a", workers=1)
        return dict(zip(found["case_id"], found["status"], strict=True))

    return statuses, folder, scores


# The first one's cases are published, the second one's are those of the files.
@pytest.mark.parametrize("configuration", ["task1-infection-fold0", "covid1920"])
def test_the_parts_cases_are_scored_and_no_other(part, scored, configuration):
    name = "test_mosmed" if configuration.startswith("task1") else "test_seen"
    part = dataclasses.replace(part, configuration=configuration, name=name)
    statuses, folder, scores = scored
    both = dict.fromkeys(NAMES, "ok")
    assert statuses(part) == both
    fewer = dataclasses.replace(part, rows=part.rows[:1])
    references = folder.with_name("predictions-references")
    for _ in range(2):
        assert statuses(fewer) == {NAME: "ok"}
        assert [link.name for link in references.iterdir()] == [f"{NAME}.nii.gz"]
        assert (folder / f"{NAMES[1]}.nii.gz").exists()
        scores.unlink(missing_ok=True)
    assert statuses(fewer) == {NAME: "ok"}
    # One more, which cannot be segmented: nothing changes in the folder.
    case = dataclasses.replace(part.rows[0].case, case_id="study_0257")
    more = dataclasses.replace(
        part, rows=[*part.rows, dataclasses.replace(part.rows[0], case=case)]
    )
    assert statuses(more) == both | {"study_0257": "missing_prediction"}
    # All that is left cannot be: what lies there of others is no reason to fail.
    assert statuses(dataclasses.replace(more, rows=more.rows[2:])) == {
        "study_0257": "missing_prediction"
    }


def test_cases_without_labels_have_rows_without_scores_and_are_scored_once(
    part, scored, monkeypatch
):
    statuses, _, _ = scored
    rows = [
        dataclasses.replace(row, case=dataclasses.replace(row.case, case_id=name, label=label))
        for row, name, label in zip(
            [*part.rows, part.rows[0]], [*NAMES, "study_0257"],
            [part.rows[0].case.label, None, None], strict=True,
        )
    ]  # fmt: skip
    partly = dataclasses.replace(part, configuration="covid1920", name="test_seen", rows=rows)
    statuses(part)
    found = {NAME: "ok", NAMES[1]: "missing_reference", "study_0257": "missing_reference"}
    assert statuses(partly) == found
    monkeypatch.setattr(evaluation, "score_part", None)
    assert statuses(partly) == found


@pytest.mark.parametrize("damage", [lambda lines: lines[:-1], lambda lines: ["nothing"]])
def test_a_score_file_that_lacks_a_case_is_made_anew(part, scored, damage):
    statuses, _, scores = scored
    before = statuses(part)
    whole = scores.read_text()
    scores.write_text("\n".join(damage(whole.splitlines())) + "\n")
    assert statuses(part) == before
    assert scores.read_text() == whole


def test_what_others_put_beside_the_linked_annotations_stays(part, scored, tmp_path):
    statuses, folder, _ = scored
    statuses(part)
    references = folder.with_name("predictions-references")
    (references / "notes.txt").write_text("mine")
    (references / "other.nii.gz").write_text("mine")
    (references / "linked.nii.gz").symlink_to("other.nii.gz")
    (references / "folder").symlink_to(tmp_path, target_is_directory=True)
    fewer = dataclasses.replace(part, rows=part.rows[:1])
    assert statuses(fewer) == {NAME: "ok"}
    assert {path.name for path in references.iterdir()} == {
        f"{NAME}.nii.gz", "notes.txt", "other.nii.gz", "linked.nii.gz", "folder",
    }  # fmt: skip


def test_a_case_that_failed_once_is_scored_when_it_is_there(part, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "weights_digest", str)
    folder, scores = tmp_path / "predictions", tmp_path / "scores.csv"
    filled = Fills(1)
    for fails, status in (((6, 6, 5), "missing_prediction"), (None, "ok")):
        filled.fails = fails
        faults = predict_part(filled, part, folder, runs=["a"])
        assert len(faults) == (fails is not None)
        found = scored_part(part, folder, scores, algorithm="a", fold=2, workers=1)
        assert found.set_index("case_id")["status"][NAMES[1]] == status
        assert set(found["fold"]) == {2}
