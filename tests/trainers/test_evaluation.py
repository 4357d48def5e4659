"""Scoring of a part: against the annotations that it names now."""

from __future__ import annotations

import numpy as np

from covidseg.engine.cache import TrainingCase
from covidseg.engine.task_data import Part, Row
from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.volume import Volume
from covidseg.registry.cases import HU
from covidseg.splits.records import CaseRecord
from covidseg.trainers.evaluation import score_part

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
