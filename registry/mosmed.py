"""MosMedData COVID19_1110: 1,110 chest CT scans, 50 of them with infection masks.

Layouts
-------
As published, and a flatter variant with the severity folders at its root::

    COVID19_1110/studies/CT-1/study_0255.nii.gz     CT-1/study_0255.nii.gz
    COVID19_1110/masks/study_0255_mask.nii.gz       masks/study_0255_mask.nii.gz
"""

from __future__ import annotations

from dataclasses import replace

from covidseg.registry.dataset import (
    IMAGE,
    NII,
    Annotation,
    Citation,
    Dataset,
    Licence,
    Pattern,
)

_STUDY = rf"study_(?P<number>\d{{4}}){NII}"
_FIRST_LABELLED, _LAST_LABELLED = 255, 304


class MosMed(Dataset):
    key = "mosmed"
    aliases = ("mosmeddata", "covid19-1110")
    title = "MosMedData COVID19_1110"
    licence = Licence(
        "CC BY-NC-ND 3.0",
        "https://creativecommons.org/licenses/by-nc-nd/3.0/",
        redistributable=False,
        note="Never copied into a repository meant for pushing: such a one holds paths only.",
    )
    citations = (
        Citation(
            "Morozov SP, Andreychenko AE, Pavlov NA, et al. MosMedData: Chest CT scans with"
            " COVID-19 related findings dataset. arXiv:2005.06465, 2020.",
            "10.48550/arXiv.2005.06465",
        ),
    )
    homepages = ("https://mosmed.ai/en/datasets/covid191110/",)
    tasks = ("task2 (test only)", "unlabelled pool")
    steps = (
        "Open https://mosmed.ai/en/datasets/covid191110/ and ask for the dataset COVID19_1110"
        " (about 21 GB).",
        "Extract it so that the folders studies/CT-0 ... CT-4 and masks stand side by side.",
    )
    annotations = {
        "infection": Annotation(
            {1: "infection"}, "ground-glass opacity and consolidation", threshold=0.5
        )
    }
    patterns = (
        Pattern("published", IMAGE, "studies/CT-[0-4]", r"study_\g<number>", _STUDY),
        Pattern("flat", IMAGE, "CT-[0-4]", r"study_\g<number>", _STUDY),
        Pattern(
            "published",
            "infection",
            "masks",
            r"study_\g<number>",
            rf"study_(?P<number>\d{{4}})_mask{NII}",
        ),
    )
    intensity = "HU"
    expected_counts = {"labelled": 50, "unlabelled": 1060}
    expected_masks = {"labelled": ("infection",)}
    oddities = {
        "": "Masks exist for study_0255 to study_0304 only, all of severity CT-1;"
        " there are no lung masks."
    }

    def pieces(self, tree):
        return [
            replace(piece, cohort="labelled" if _is_labelled(piece.case_id) else "unlabelled")
            for piece in super().pieces(tree)
        ]


def _is_labelled(case_id: str) -> bool:
    return _FIRST_LABELLED <= int(case_id.removeprefix("study_")) <= _LAST_LABELLED
