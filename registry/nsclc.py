"""NSCLC-Radiomics with the PleThora masks: 402 CT scans of lung cancer, 78 with pleural effusion.

Layouts
-------
CT scans and radiotherapy structures from TCIA, masks from PleThora (wherever they were extracted)::

    NSCLC-Radiomics/LUNG1-001/<study>/<CT series>/1-001.dcm ...
    NSCLC-Radiomics/LUNG1-001/<study>/<RTSTRUCT series>/1-1.dcm
    Thoracic_Cavities/LUNG1-001/LUNG1-001_thor_cav_primary_reviewer.nii.gz
    Effusions/LUNG1-001/LUNG1-001_effusion_first_reviewer.nii.gz

DICOM folders that no patient's name stands above (clients that lay series out by UID) are told by
the patient's ID in their tags. A conversion to NIfTI that circulates is known too: an image
``LUNG1-001.nii.gz`` with its mask beside it or, under the same name, in a folder of masks.
"""

from __future__ import annotations

import contextlib
import re
import statistics
from pathlib import Path

from covidseg.registry.dataset import (
    IMAGE,
    NII,
    Annotation,
    Citation,
    Dataset,
    Download,
    Licence,
    Pattern,
    Piece,
)
from covidseg.registry.tree import FEWEST_SLICES, Folder, Tree, is_dicom_name

_PATIENT = re.compile(r"(?:^|/)(LUNG1-\d{3})(?:/[^/]+){0,3}$", re.IGNORECASE)
# Headers of slices of one scan differ by a few letters; compressed slices differ, and are opened.
_SLICES_DIFFER = 0.02
_NAME = re.compile(r"LUNG1-\d{3}", re.IGNORECASE)
_CASE = r"LUNG1-(?P<number>\d{3})"
_ID = r"LUNG1-\g<number>"
_SIDES = {1: "left_lung", 2: "right_lung"}
_WIKI = "https://wiki.cancerimagingarchive.net/download/attachments/68551327"


class NSCLC(Dataset):
    key = "nsclc"
    aliases = ("nsclc-radiomics", "plethora", "lung1")
    title = "NSCLC-Radiomics with PleThora masks"
    licence = Licence(
        "CC BY-NC 3.0", "https://creativecommons.org/licenses/by-nc/3.0/", redistributable=True
    )
    citations = (
        Citation(
            "Aerts HJWL, Velazquez ER, Leijenaar RTH, et al. Decoding tumour phenotype by"
            " noninvasive imaging using a quantitative radiomics approach. Nature Communications 5,"
            " 4006, 2014. Data: The Cancer Imaging Archive.",
            "10.7937/K9/TCIA.2015.PF0M9REI",
        ),
        Citation(
            "Kiser KJ, Ahmed S, Stieb S, et al. PleThora: Pleural effusion and thoracic cavity"
            " segmentations in diseased lungs for benchmarking chest CT processing pipelines."
            " Medical Physics 47(11), 2020.",
            "10.1002/mp.14424",
        ),
    )
    homepages = (
        "https://www.cancerimagingarchive.net/collection/nsclc-radiomics/",
        "https://www.cancerimagingarchive.net/analysis-result/plethora/",
    )
    tasks = ("task2 lung", "task2 effusion", "task3 lung", "task3 effusion")
    told_by_tags = True
    downloads = (
        Download(
            url=f"{_WIKI}/PleThora%20Thoracic_Cavities%20June%202020.zip"
            "?version=1&modificationDate=1593202695428&api=v2",
            file="Thoracic_Cavities.zip",
            sha256="6dfcb60e46c7b0ccf240bc5d13acb1c45c8d2f4922223f7b2fbd5e37acff2be0",
        ),
        Download(
            url=f"{_WIKI}/PleThora%20Effusions%20June%202020.zip"
            "?version=1&modificationDate=1593202778373&api=v2",
            file="Effusions.zip",
            sha256="5dd07c327fb5723c5bbb48f2a02d7f365513d3ad136811fbe4def330ef2d7f6a",
        ),
    )
    steps = (
        "The CT scans (34 GB, DICOM) come by TCIA's own client: install the NBIA Data Retriever"
        " (https://wiki.cancerimagingarchive.net/display/NBIA/NBIA+Data+Retriever).",
        "On https://www.cancerimagingarchive.net/collection/nsclc-radiomics/ download the manifest"
        " of the images (.tcia) and open it with the retriever, folders by 'Descriptive Directory"
        " Name'.",
        "Put NSCLC-Radiomics/ and the extracted masks below one folder; their places there do not"
        " matter.",
    )
    annotations = {
        "lung": Annotation(
            _SIDES,
            "left and right thoracic cavity: lung with what displaces it (effusion, tumour)",
            sides="by_centroid",
            own_grid=True,
        ),
        "pleural_effusion": Annotation(
            {1: "pleural_effusion"}, "pleural effusion, first reviewer", own_grid=True
        ),
        "pleural_effusion_second_reviewer": Annotation(
            {1: "pleural_effusion"}, "pleural effusion, second reviewer", own_grid=True
        ),
        "structures": Annotation(
            {
                1: "left_lung",
                2: "right_lung",
                3: "gross_target_volume",
                4: "spinal_cord",
                5: "heart",
                6: "oesophagus",
            },
            "radiotherapy structures; target volume over organs",
            format="rtstruct",
            structures={
                "Lung-Left": 1,
                "Lung-Right": 2,
                "Spinal-Cord": 4,
                "Heart": 5,
                "Esophagus": 6,
                "GTV-1": 3,
            },
        ),
    }
    patterns = (
        Pattern("PleThora", "lung", "", _ID, rf"{_CASE}_thor_cav_primary_reviewer{NII}"),
        Pattern("PleThora", "pleural_effusion", "", _ID, rf"{_CASE}_effusion_first_reviewer{NII}"),
        Pattern(
            "PleThora",
            "pleural_effusion_second_reviewer",
            "",
            _ID,
            rf"{_CASE}_effusion_second_reviewer{NII}",
        ),
        Pattern("NIfTI conversion", "lung", "", _ID, rf"{_CASE}_(?:lungs?(?:_?mask)?|mask){NII}"),
        Pattern(
            "NIfTI conversion",
            "lung",
            r"(?:lungs?|(?:lung_?)?(?:masks?|labels?|labelsTr))",
            _ID,
            rf"{_CASE}{NII}",
        ),
        Pattern("NIfTI conversion", IMAGE, "", _ID, rf"{_CASE}(?:_(?:ct|image|img|0000))?{NII}"),
    )
    intensity = "HU, by the DICOM rescale slope and intercept"
    expected_counts = {"labelled": 402}
    expected_masks = {"labelled": ("lung",)}
    oddities = {
        "": "PleThora masks and DICOM differ in axis order and direction; masks are brought onto"
        " the image's grid through physical space. The published split has 63/15 effusion cases,"
        " the paper's table 62/16.",
        **dict.fromkeys(
            ("LUNG1-095", "LUNG1-128", "LUNG1-412"),
            "trouble is reported with the shape of its DICOM SEG",
        ),
    }

    def patient_named(self, text):
        return text.strip().upper() if _NAME.fullmatch(text.strip()) else None

    def pieces(self, tree: Tree) -> list[Piece]:
        found = super().pieces(tree)
        short: list[Piece] = []
        for folder in tree.folders:
            for piece in _dicom_pieces(folder, tree):
                (short if _is_short(piece, folder) else found).append(piece)
        # A few files that are CT or cannot be told are a localiser, or what is left of a scan where
        # its patient has no other: then the reader says what is wrong with it.
        scanned = {piece.case_id for piece in found if piece.role == IMAGE}
        return found + [piece for piece in short if piece.case_id not in scanned]


def _is_short(piece: Piece, folder: Folder) -> bool:
    return piece.role == IMAGE and sum(map(is_dicom_name, folder.files)) < FEWEST_SLICES


def _dicom_pieces(folder: Folder, tree: Tree) -> list[Piece]:
    """The CT series and the structure sets that a DICOM folder holds, or nothing of use.

    A series of many files is the scan. A few files, and those beside a scan that are no slices of
    it by their size, are told by their modality: structure set or segmentation.
    """
    files = [path for name, path in folder.files.items() if is_dicom_name(name)]
    if not files:
        return []
    match = _PATIENT.search(folder.posix)
    # <study>/<series> below the patient: as TCIA's client lays them out, each series by itself.
    own_folder = match is not None and folder.posix[match.end(1) :].count("/") >= 2
    if not match:
        identity = tree.dicom_identity(folder)
        match = _PATIENT.search(identity.patient_id) if identity else None
    if not match:
        return []
    case_id = match[1].upper()
    scan = Piece(folder.path, IMAGE, case_id, "labelled", "TCIA DICOM", "dicom")
    many = len(files) >= FEWEST_SLICES
    if many:
        files = [] if own_folder else _of_other_size(files)
    told = {file: tree.file_identity(file) for file in files}
    structures = [
        Piece(file, "structures", case_id, "labelled", "TCIA DICOM")
        for file, identity in told.items()
        if identity is not None and identity.modality == "RTSTRUCT"
    ]
    if many or any(identity is None or identity.modality == "CT" for identity in told.values()):
        return [scan, *structures]
    return structures


def _of_other_size(files: list[Path]) -> list[Path]:
    """Files whose size is not that of most: opening every slice to find out takes too long."""
    sizes = {}
    for file in files:
        with contextlib.suppress(OSError):
            sizes[file] = file.stat().st_size
    usual = statistics.median_low(sizes.values()) if sizes else 0
    return [file for file, size in sizes.items() if abs(size - usual) > _SLICES_DIFFER * usual]
