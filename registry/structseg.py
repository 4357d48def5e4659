"""StructSeg 2019, tasks 3 and 4: 50 planning CT scans with thoracic organs, and target volumes.

Layout
------
Two archives of the same patients, sometimes extracted under one more folder::

    Task3_Thoracic_OAR/1/data.nii.gz     Task4_Lung_GTV/1/data.nii.gz
    Task3_Thoracic_OAR/1/label.nii.gz    Task4_Lung_GTV/1/label.nii.gz

The two are cohorts here (``organs``, ``target_volume``), each with an image of its own. Where no
folder's name says which task it is, the first label that can be read does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from covidseg.core.errors import CovidsegError
from covidseg.registry.dataset import (
    IMAGE,
    NII,
    Annotation,
    Citation,
    Dataset,
    Licence,
    Pattern,
    Piece,
)


# Words that stand alone in a folder's name, so that "board" holds no OAR and "phantom" no HaN.
def _word(expression: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])(?:{expression})(?![a-z])", re.IGNORECASE)


_ORGANS = _word(r"thoracic|task_?3|oar")
_TARGET = _word(r"task_?4|gtv")
# Tasks 1 and 2 of the challenge are of head and neck.
_HEAD_AND_NECK = _word(r"HaN|naso|task_?[12]")
_HEAD_AND_NECK_COHORT = "head and neck"


class StructSeg(Dataset):
    key = "structseg"
    aliases = ("structseg2019", "structseg-2019")
    title = "StructSeg 2019"
    licence = Licence(
        "StructSeg 2019 terms",
        "https://structseg2019.grand-challenge.org",
        redistributable=False,
        note="Redistribution is not permitted.",
    )
    citations = (
        Citation(
            "Li H, Zhou J, Deng J, Chen M. Automatic Structure Segmentation for Radiotherapy"
            " Planning Challenge (StructSeg). MICCAI, 2019.",
        ),
    )
    homepages = ("https://structseg2019.grand-challenge.org",)
    tasks = ("task2 lung", "task2 target", "task3 lung", "task3 target")
    steps = (
        "Register at https://structseg2019.grand-challenge.org and accept its terms.",
        "Download Task3_Thoracic_OAR.zip and Task4_Lung_GTV.zip and extract both.",
    )
    annotations = {
        "organs": Annotation(
            {
                1: "left_lung",
                2: "right_lung",
                3: "heart",
                4: "oesophagus",
                5: "trachea",
                6: "spinal_cord",
            },
            "thoracic organs at risk",
            sides="verified",
        ),
        "target_volume": Annotation(
            {1: "gross_target_volume"}, "gross target volume of the lung cancer"
        ),
    }
    # Roles and cohorts are settled in `pieces`, by the names of the folders above.
    patterns = (
        Pattern("published", IMAGE, r"[1-9]\d?", "", rf"data{NII}"),
        Pattern("published", "label", r"[1-9]\d?", "", rf"label{NII}"),
    )
    intensity = "HU"
    expected_counts = {"organs": 50, "target_volume": 50}
    expected_masks = {"organs": ("organs",), "target_volume": ("target_volume",)}
    listed_cohorts = ("organs", "target_volume")
    oddities = {
        "": "Lists that say right lung = 1 are wrong; left and right are checked by the affine."
        " That the splits' train_N is folder N is assumed."
    }

    def pieces(self, tree):
        groups: dict[Path, list[Piece]] = defaultdict(list)
        for piece in super().pieces(tree):
            groups[_case_folder(piece).parent].append(piece)
        found = []
        for folder, pieces in groups.items():
            told = _cohort_by_name(folder.relative_to(tree.root.parent).as_posix())
            cohort = told or _cohort_by_label(pieces)
            if cohort is None or told == _HEAD_AND_NECK_COHORT:
                continue
            found += [
                replace(
                    piece,
                    case_id=f"train_{_case_folder(piece).name}",
                    cohort=cohort,
                    role=IMAGE if piece.role == IMAGE else cohort,
                )
                for piece in pieces
            ]
        return found


def _case_folder(piece: Piece) -> Path:
    # A file nested in a folder of its own name (data.nii.gz/data.nii) is one level further down.
    return next(parent for parent in piece.path.parents if parent.name.isdigit())


def _cohort_by_name(path: str) -> str | None:
    """By the nearest folder whose name tells."""
    for name in reversed(path.split("/")):
        organs, target = bool(_ORGANS.search(name)), bool(_TARGET.search(name))
        if _HEAD_AND_NECK.search(name):
            return _HEAD_AND_NECK_COHORT
        if organs != target:
            return "organs" if organs else "target_volume"
    return None


def _cohort_by_label(pieces: list[Piece]) -> str | None:
    """By what the first readable label holds: the target volume is 1, organs go up to 6."""
    from covidseg.imaging.nifti import read_nifti

    if all(piece.role == IMAGE for piece in pieces):
        return None
    for piece in pieces:
        if piece.role == IMAGE:
            continue
        try:
            return "organs" if read_nifti(piece.path).data.max() > 1 else "target_volume"
        except CovidsegError:
            continue
    return None
