"""StructSeg 2019, tasks 3 and 4: 50 planning CT scans with thoracic organs, and target volumes.

Layout
------
Two archives of the same patients, sometimes extracted under one more folder::

    Task3_Thoracic_OAR/1/data.nii.gz     Task4_Lung_GTV/1/data.nii.gz
    Task3_Thoracic_OAR/1/label.nii.gz    Task4_Lung_GTV/1/label.nii.gz

The two are cohorts here (``organs``, ``target_volume``), each with an image of its own. The nearest
folder whose name tells says which it is, by its words before a task's number: the COVID-19-CT-Seg
benchmark numbers tasks of its own (``Task303_StructSegTumor``, ``task2/StructSeg_lung``). Where no
name tells, or only that it is of lungs or tumours, the first label that can be read does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

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
from covidseg.registry.findings import Finding
from covidseg.registry.tree import Tree


# Words that stand alone in a folder's name, so that "board" holds no OAR and "phantom" no HaN.
def _word(expression: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])(?:{expression})(?![a-z])", re.IGNORECASE)


_TUMOUR = r"tumou?rs?|target(?:[-_ ]?volumes?)?"
_LUNG = r"lungs?|organs?"
_ORGANS = _word(r"thoracic|oar")
_TARGET = _word(r"gtv")
# Words that may also be of the user's study: they are believed where no label can be read.
_PERHAPS_ORGANS = _word(rf"(?:structseg[-_ ]?)?(?:{_LUNG})")
_PERHAPS_TARGET = _word(rf"(?:structseg[-_ ]?)?(?:{_TUMOUR})")
# Tasks 1 and 2 of the challenge are of head and neck. A further digit makes it a task of another's.
_HEAD_AND_NECK = _word(r"HaN|naso")
_TASK = _word(r"task_?([1-4])(?!\d)")
_HEAD_AND_NECK_COHORT = "head and neck"
_BY_TASK = {
    "1": _HEAD_AND_NECK_COHORT,
    "2": _HEAD_AND_NECK_COHORT,
    "3": "organs",
    "4": "target_volume",
}


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

    def find(self, tree):
        found = super().find(tree)
        for folder, pieces in self._groups(tree).items():
            name = _telling_name(folder, tree)
            if name is None or name.cohort != _HEAD_AND_NECK_COHORT:
                continue
            found.findings.append(
                Finding(
                    "note" if _HEAD_AND_NECK.search(name.text) else "warning",
                    "passed-over",
                    self.key,
                    f"{len(pieces)} files are passed over: {name.text!r} names a task of head and"
                    " neck, of which nothing is used here",
                    file=str(folder),
                    remedy="if these are thoracic organs or target volumes of the lung, call the"
                    " folder Task3_Thoracic_OAR or Task4_Lung_GTV",
                )
            )
        return found

    def pieces(self, tree):
        found = []
        for folder, pieces in self._groups(tree).items():
            cohort = _cohort(folder, pieces, tree)
            if cohort is None or cohort == _HEAD_AND_NECK_COHORT:
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

    def _groups(self, tree: Tree) -> dict[Path, list[Piece]]:
        """What the patterns recognise, by the folder that holds the numbered ones."""
        groups: dict[Path, list[Piece]] = defaultdict(list)
        for piece in super().pieces(tree):
            groups[_case_folder(piece).parent].append(piece)
        return groups


class _Name(NamedTuple):
    """A folder's name and the cohort that it tells, for certain or not."""

    text: str
    cohort: str
    certain: bool = True


def _case_folder(piece: Piece) -> Path:
    # A file nested in a folder of its own name (data.nii.gz/data.nii) is one level further down.
    return next(parent for parent in piece.path.parents if parent.name.isdigit())


def _cohort(folder: Path, pieces: list[Piece], tree: Tree) -> str | None:
    name = _telling_name(folder, tree)
    if name is not None and name.certain:
        return name.cohort
    return _cohort_by_label(pieces) or (name.cohort if name else None)


def _telling_name(folder: Path, tree: Tree) -> _Name | None:
    """The nearest folder whose name tells, up to the root's own."""
    for text in reversed(folder.relative_to(tree.root.parent).parts):
        if name := _told(text):
            return name
    return None


def _told(text: str) -> _Name | None:
    if _HEAD_AND_NECK.search(text):
        return _Name(text, _HEAD_AND_NECK_COHORT)
    organs, target = bool(_ORGANS.search(text)), bool(_TARGET.search(text))
    if organs != target:
        return _Name(text, "organs" if organs else "target_volume")
    if organs:
        return None
    # "Lung tumour" is of the tumour.
    if _PERHAPS_TARGET.search(text):
        return _Name(text, "target_volume", certain=False)
    if _PERHAPS_ORGANS.search(text):
        return _Name(text, "organs", certain=False)
    task = _TASK.search(text)
    return _Name(text, _BY_TASK[task[1]]) if task else None


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
