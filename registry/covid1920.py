"""COVID-19-20: the challenge's 199 training, 50 validation and 46 test scans, and the pool beside.

Layouts
-------
The challenge's archives, and TCIA's CT Images in COVID-19 (the unlabelled pool) as NIfTI or DICOM::

    COVID-19-20_v2/Train/volume-covid19-A-0003_ct.nii.gz, ..._seg.nii.gz
    COVID-19-20_v2/Validation/volume-covid19-A-0004_ct.nii.gz
    COVID-19-20_TestSet/volume-covid19-A-0001.nii.gz          (a folder with a word of "test...")
    CT-Images-in-COVID-19/volume-covid19-A-0000.nii.gz
    CT-Images-in-COVID-19/volume-covid19-A-0000/<study>/<series>/1-001.dcm ...

Which source a test scan is of is read from a table ``test_sources.csv`` (columns ``case_id`` and
``source``, the latter ``seen`` or ``unseen``) anywhere below the root; a scan it does not name is
of the seen source where its ID is of series A.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import replace
from itertools import count

from covidseg.core.errors import LayoutError
from covidseg.registry.dataset import (
    IMAGE,
    NII,
    Annotation,
    Citation,
    Dataset,
    Licence,
    Pattern,
    Piece,
    by_layout,
)
from covidseg.registry.findings import Finding
from covidseg.registry.tree import FEWEST_SLICES, Folder, Tree, is_dicom_name
from covidseg.splits.identity import patient_of, published_name
from covidseg.splits.records import CaseKey

SOURCES_FILE = "test_sources.csv"

_SCAN_NUMBER = r"A-\d{4}(?:_\d+)?"
_SCAN = rf"volume-covid19-(?P<scan>{_SCAN_NUMBER})"
_TEST_SCAN = r"volume-covid19-(?P<scan>[A-Z]{1,3}-\d{3,4}(?:_\d+)?)"
_NAME = re.compile(rf"volume-covid19-{_SCAN_NUMBER}")
_ID = r"volume-covid19-\g<scan>"
_SOURCE_ID = re.compile(
    rf"(?:volume-covid19-)?(?P<scan>[A-Z]{{1,3}}-\d{{3,4}}(?:_\d+)?)(?:_ct)?(?:{NII})?",
    re.IGNORECASE,
)
_POOL = r"(?:CT[-_ ]Images[-_ ]in[-_ ]COVID[-_ ]?19|unlabell?ed)(?:/[^/]+)*"
# A word that begins with "test", as in "TestSet" and "COVIDTest", but not "latest" or "contest".
_TEST = r"[^/]*(?:(?<![a-z])test|(?-i:Test))[^/]*"
_POOL_PATIENT = re.compile(
    r"CT[-_ ]Images[-_ ]in[-_ ]COVID[-_ ]?19/(?:.*/)?(volume-covid19-A-\d{4}(?:_\d+)?)(?:/|$)",
    re.IGNORECASE,
)
_VERSION = re.compile(r"/COVID-19-20_v(\d)[^/]*/", re.IGNORECASE)


class Covid1920(Dataset):
    key = "covid1920"
    aliases = ("covid-19-20", "covid-19-lung-ct-lesion")
    title = "COVID-19-20 challenge"
    licence = Licence(
        "Challenge terms (scans CC BY 4.0)",
        "https://covid-segmentation.grand-challenge.org",
        redistributable=False,
        note="The scans are TCIA's under CC BY 4.0; no licence is published for the challenge's"
        " masks, so they are not passed on.",
    )
    citations = (
        Citation(
            "Roth HR, Xu Z, Tor-Díez C, et al. Rapid artificial intelligence solutions in a"
            " pandemic: The COVID-19-20 Lung CT Lesion Segmentation Challenge. Medical Image"
            " Analysis 82, 102605, 2022.",
            "10.1016/j.media.2022.102605",
        ),
        Citation(
            "An P, Xu S, Harmon SA, et al. CT Images in COVID-19."
            " The Cancer Imaging Archive, 2020.",
            "10.7937/TCIA.2020.GQRY-NC81",
        ),
        Citation(
            "Desai S, Baghal A, Wongsurawat T, et al. Chest Imaging with Clinical and Genomic"
            " Correlates Representing a Rural COVID-19 Positive Population. The Cancer Imaging"
            " Archive, 2020.",
            "10.7937/TCIA.2020.PY71-5978",
        ),
    )
    homepages = (
        "https://covid-segmentation.grand-challenge.org",
        "https://www.cancerimagingarchive.net/collection/ct-images-in-covid-19/",
    )
    tasks = ("covid1920",)
    steps = (
        "Register at https://covid-segmentation.grand-challenge.org and join the challenge.",
        "Download COVID-19-20_v2.zip (training and validation; version 1 had label errors) and the"
        " test set, and extract both. Labels of validation and test were never all public.",
        "If you know which test scans are of the unseen source, write a table test_sources.csv with"
        " columns case_id and source (seen or unseen) beside them.",
        "For the unlabelled pool download CT Images in COVID-19 from"
        " https://www.cancerimagingarchive.net/collection/ct-images-in-covid-19/ with the NBIA Data"
        " Retriever.",
    )
    annotations = {"infection": Annotation({1: "infection"}, "COVID-19 lesion")}
    patterns = (
        Pattern("challenge", IMAGE, "Train", _ID, rf"{_SCAN}_ct{NII}", cohort="train"),
        Pattern("challenge", "infection", "Train", _ID, rf"{_SCAN}_seg{NII}", cohort="train"),
        Pattern("challenge", IMAGE, "Validation", _ID, rf"{_SCAN}_ct{NII}", cohort="validation"),
        Pattern(
            "challenge", "infection", "Validation", _ID, rf"{_SCAN}_seg{NII}", cohort="validation"
        ),
        # Before the pool: test scans kept somewhere below it are still no scans to learn from.
        Pattern("challenge", "infection", _TEST, _ID, rf"{_TEST_SCAN}_seg{NII}", cohort="test"),
        Pattern("challenge", IMAGE, _TEST, _ID, rf"{_TEST_SCAN}(?:_ct)?{NII}", cohort="test"),
        Pattern("TCIA NIfTI", IMAGE, _POOL, _ID, rf"{_SCAN}(?:_ct)?{NII}", cohort="unlabelled"),
    )
    intensity = "HU"
    expected_counts = {"train": 199, "validation": 50, "test_seen": 23, "test_unseen": 23}
    expected_masks = {"train": ("infection",)}
    listed_cohorts = ("validation",)
    oddities = {
        "": "Version 1 had label errors: use version 2. The unlabelled pool overlaps the"
        " challenge's own scans; one that equals an evaluation scan must not be trained on."
    }

    def source_of(self, case_id, cohort):
        return "unseen" if cohort == "test_unseen" else "seen"

    def patient_named(self, text):
        name = published_name(text.strip())
        return self.patient_of(name) if _NAME.fullmatch(name) else None

    def pieces(self, tree: Tree) -> list[Piece]:
        sources = read_sources(tree)
        # A name in other letters' case is no other scan.
        pieces = [
            replace(piece, case_id=published_name(piece.case_id)) for piece in super().pieces(tree)
        ]
        _refuse_unknown(sources, {piece.case_id for piece in pieces if piece.cohort == "test"})
        found = []
        for piece in pieces:
            if piece.cohort == "test":
                piece = replace(piece, cohort=f"test_{_test_source(piece.case_id, sources)}")
            if piece.cohort in ("train", "validation"):
                piece = replace(piece, layout=_version(piece.path.as_posix()))
            found.append(piece)
        return found + _pool_series(tree, {piece.case_id for piece in found})

    def layout_findings(self, cases):
        layouts = by_layout(cases)
        if old := layouts["version 1"]:
            yield Finding(
                "error",
                "version",
                self.key,
                f"{old} scans lie in a folder of version 1, whose labels had errors",
                remedy="download COVID-19-20_v2.zip",
            )
        if unclear := layouts["version not stated"]:
            yield Finding(
                "warning",
                "version",
                self.key,
                f"{unclear} scans lie in folders that do not say which version they are",
                remedy="make sure they are of COVID-19-20_v2.zip: labels of version 1 had errors",
            )


def _pool_series(tree: Tree, names: set[str]) -> list[Piece]:
    """The DICOM scans of the pool; a patient's second one is numbered as the challenge's are.

    ``names`` are those of the scans that lie there as NIfTI.
    """
    series: dict[str, list[Folder]] = defaultdict(list)
    for folder in tree.folders:
        match = _POOL_PATIENT.search(folder.posix)
        if match and sum(map(is_dicom_name, folder.files)) > 1:
            series[published_name(match[1])].append(folder)
    taken = names | set(series)
    pieces = []
    for name, folders in series.items():
        whole = [f for f in folders if sum(map(is_dicom_name, f.files)) >= FEWEST_SLICES]
        patient = patient_of(CaseKey("covid1920", name))
        for number, folder in enumerate(whole or folders):
            if number:
                name = next(n for k in count(1) if (n := f"{patient}_{k}") not in taken)
                taken.add(name)
            pieces.append(Piece(folder.path, IMAGE, name, "unlabelled", "TCIA DICOM", "dicom"))
    return pieces


def read_sources(tree: Tree) -> dict[str, str]:
    """``seen`` or ``unseen`` for each test scan that a table of sources names.

    Raises
    ------
    LayoutError
        A table lacks a column or says neither seen nor unseen.
    """
    sources: dict[str, str] = {}
    for folder in tree.folders:
        path = next((at for name, at in folder.files.items() if name.lower() == SOURCES_FILE), None)
        if path is None:
            continue
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as fault:
            raise LayoutError(f"cannot be read ({fault})", path=path) from fault
        for row in rows:
            case_id = (row.get("case_id") or "").strip()
            source = (row.get("source") or "").strip().lower()
            if not case_id or source not in ("seen", "unseen"):
                raise LayoutError(
                    f"has the row {row}",
                    path=path,
                    expected="columns case_id and source, source being seen or unseen",
                )
            match = _SOURCE_ID.fullmatch(case_id)
            sources[f"volume-covid19-{match['scan'].upper()}" if match else case_id] = source
    return sources


def _refuse_unknown(sources: dict[str, str], scans: set[str]) -> None:
    """With a table of other names, every scan would keep the source that its own name tells."""
    if scans and sources and not scans & set(sources):
        raise LayoutError(
            f"{SOURCES_FILE} names no test scan found, but " + ", ".join(sorted(sources)[:3]),
            expected="IDs such as " + ", ".join(sorted(scans)[:3]),
            remedy="correct the table's case_id, or take the table away",
        )


def _version(path: str) -> str:
    match = _VERSION.search(path)
    return f"version {match[1]}" if match else "version not stated"


def _test_source(case_id: str, sources: dict[str, str]) -> str:
    by_id = "seen" if case_id.startswith("volume-covid19-A-") else "unseen"
    return sources.get(case_id, by_id)
