"""COVID-19-CT-Seg: 20 CT scans of COVID-19 patients with left lung, right lung and infection.

Layouts
-------
Zenodo: four archives whose files bear the same names, each extracted into a folder of its own::

    COVID-19-CT-Seg_20cases/coronacases_001.nii.gz
    Lung_Mask/coronacases_001.nii.gz
    Infection_Mask/coronacases_001.nii.gz
    Lung_and_Infection_Mask/coronacases_001.nii.gz

Kaggle (covid19-ct-scans), where scans have other names than masks::

    ct_scans/coronacases_org_001.nii
    ct_scans/radiopaedia_org_covid-19-pneumonia-14_85914_0-dcm.nii
    lung_mask/coronacases_001.nii ...
"""

from __future__ import annotations

from covidseg.registry.cases import HU, Intensity
from covidseg.registry.dataset import (
    IMAGE,
    NII,
    Annotation,
    Citation,
    Dataset,
    Download,
    Licence,
    Pattern,
)
from covidseg.registry.findings import Finding

WINDOWED = Intensity("windowed", (-1250.0, 250.0))

_CORONA = r"coronacases_(?:org_)?(?P<number>\d{3})" + NII
_RADIOPAEDIA = r"radiopaedia_(?:org_covid-19-pneumonia-)?(?P<numbers>\d+_\d+_\d+)(?:-dcm)?" + NII

# Masks first, so that mask folders put inside the folder of scans are not taken for scans. Both
# layouts call the mask folders alike.
_FOLDERS = (
    ("Zenodo", "lung_and_infection", "Lung_and_Infection_Mask"),
    ("Zenodo", "infection", "Infection_Mask"),
    ("Zenodo", "lung", "Lung_Mask"),
    ("Kaggle", IMAGE, "ct_scans"),
    ("Zenodo", IMAGE, "COVID-19-CT-Seg_20cases"),
)
_FILES = ((_CORONA, r"coronacases_\g<number>"), (_RADIOPAEDIA, r"radiopaedia_\g<numbers>"))


def _zenodo(name: str, sha256: str) -> Download:
    return Download(
        url=f"https://zenodo.org/records/3757476/files/{name}.zip?download=1",
        file=f"{name}.zip",
        sha256=sha256,
    )


class CovidCTSeg(Dataset):
    key = "covid-ct-seg"
    aliases = ("covid-19-ct-seg", "covid19-ct-scans", "coronacases")
    title = "COVID-19-CT-Seg"
    licence = Licence(
        "CC BY-NC-SA 4.0",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/",
        redistributable=True,
        note="The benchmark says CC BY-NC-SA, the Zenodo record CC BY 4.0: the stricter is kept.",
    )
    citations = (
        Citation(
            "Ma J, Wang Y, An X, et al. Toward data-efficient learning: A benchmark for COVID-19 CT"
            " lung and infection segmentation. Medical Physics 48(3), 2021.",
            "10.1002/mp.14676",
        ),
        Citation(
            "Ma J, Ge C, Wang Y, et al. COVID-19 CT Lung and Infection Segmentation Dataset."
            " Zenodo, 2020.",
            "10.5281/zenodo.3757476",
        ),
    )
    homepages = (
        "https://zenodo.org/records/3757476",
        "https://github.com/JunMa11/COVID-19-CT-Seg-Benchmark",
        "https://www.kaggle.com/datasets/andrewmvd/covid19-ct-scans",
    )
    tasks = ("task1", "task2 (test only)", "task3")
    downloads = (
        _zenodo(
            "COVID-19-CT-Seg_20cases",
            "a5060480eff9315b069b086312dac4872777901fb80d268a5a83edd9f4e7b440",
        ),
        _zenodo("Lung_Mask", "f060b0d0299939a6d95ddefdbfa281de1a779c4d230a5adbd32414711d6d8187"),
        _zenodo(
            "Infection_Mask", "87901c73fdd2230260e61d2dbc57bf56026efc28264006b8ea2bf411453c1694"
        ),
        _zenodo(
            "Lung_and_Infection_Mask",
            "34f5a573cb8fb53cb15abe81868395d9addf436854826a6fd6e70c2b294f19c3",
        ),
    )
    annotations = {
        "lung": Annotation({1: "left_lung", 2: "right_lung"}, "left and right lung"),
        "infection": Annotation({1: "infection"}, "COVID-19 infection"),
        "lung_and_infection": Annotation(
            {1: "left_lung", 2: "right_lung", 3: "infection"},
            "left lung, right lung and infection in one mask; infection over lung",
        ),
    }
    # One more folder between is what an archive gives that has a folder of its own inside.
    patterns = tuple(
        Pattern(layout, role, rf"{folder}(?:/[^/]+)?", case_id, file)
        for layout, role, folder in _FOLDERS
        for file, case_id in _FILES
    )
    intensity = (
        "coronacases: HU; radiopaedia: windowed, [-1250, 250] HU stored as [0, 255],"
        " HU = v / 255 * 1500 - 1250 within the window"
    )
    expected_counts = {"labelled": 20}
    expected_masks = {"labelled": ("lung", "infection", "lung_and_infection")}
    oddities = {
        "": "The two sources differ in orientation in plane: trust the affine.",
        "radiopaedia_10_85902_1": "same patient as radiopaedia_10_85902_3",
        "radiopaedia_10_85902_3": "same patient as radiopaedia_10_85902_1",
        "radiopaedia_29_86490_1": "next to no infection, an outlier in every table;"
        " may be the same patient as radiopaedia_29_86491_1",
        "radiopaedia_29_86491_1": "may be the same patient as radiopaedia_29_86490_1",
    }

    def source_of(self, case_id, cohort):
        return case_id.split("_")[0]

    def intensity_of(self, case_id):
        return HU if case_id.startswith("coronacases") else WINDOWED

    def layout_findings(self, cases):
        kaggle = sum(case.layout == "Kaggle" for case in cases)
        if kaggle:
            yield Finding(
                "note",
                "layout",
                self.key,
                f"{kaggle} of {len(cases)} scans are the Kaggle mirror's; their names are mapped"
                " to the published case IDs",
                remedy="checksums of the published archives (Zenodo) do not cover them",
            )
