"""Medical Segmentation Decathlon, Task06 Lung: 63 CT scans with lung tumours.

Layout
------
As published, and with lung masks of the same cases beside, which the benchmark published apart::

    Task06_Lung/imagesTr/lung_001.nii.gz
    Task06_Lung/labelsTr/lung_001.nii.gz
    Task06_Lung/imagesTs/lung_002.nii.gz     (unlabelled)
    Task06_Lung/lungsTr/lung_001.nii.gz      (left and right lung; by the benchmark)
"""

from __future__ import annotations

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

_FILE = rf"lung_(?P<number>\d{{3}}){NII}"


class MSDLung(Dataset):
    key = "msd"
    aliases = ("msd-lung", "task06_lung", "task06-lung")
    title = "MSD Task06 Lung"
    licence = Licence(
        "CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/", redistributable=True
    )
    citations = (
        Citation(
            "Antonelli M, Reinke A, Bakas S, et al. The Medical Segmentation Decathlon."
            " Nature Communications 13, 4128, 2022.",
            "10.1038/s41467-022-30695-9",
        ),
    )
    homepages = ("http://medicaldecathlon.com",)
    tasks = ("task2 tumour", "task3 tumour", "task3 lung (needs lungsTr)")
    downloads = (
        Download(
            url="https://msd-for-monai.s3-us-west-2.amazonaws.com/Task06_Lung.tar",
            file="Task06_Lung.tar",
            sha256="f782cd09da9cf7a3128475d4a53650d371db10f0427aa76e166fccfcb2654161",
            md5="8afd997733c7fc0432f71255ba4e52dc",
        ),
    )
    steps = (
        "The lung masks of these cases are not part of the decathlon: the benchmark published them"
        " through Baidu (links on https://github.com/JunMa11/COVID-19-CT-Seg-Benchmark)."
        " Put them into a folder lungsTr/ beside imagesTr/; only task3's MSD lung subtask needs"
        " them.",
    )
    annotations = {
        "tumour": Annotation({1: "tumour"}, "lung tumour"),
        "lung": Annotation({1: "left_lung", 2: "right_lung"}, "left and right lung"),
    }
    patterns = (
        Pattern("published", IMAGE, "imagesTr", r"lung_\g<number>", _FILE),
        Pattern("published", "tumour", "labelsTr", r"lung_\g<number>", _FILE),
        Pattern("published", "lung", "lungsTr", r"lung_\g<number>", _FILE),
        Pattern("published", IMAGE, "imagesTs", r"lung_\g<number>", _FILE, cohort="unlabelled"),
    )
    intensity = "HU"
    expected_counts = {"labelled": 63, "unlabelled": 32}
    expected_masks = {"labelled": ("tumour", "lung")}
    oddities = {"": "Case numbers are not contiguous."}
