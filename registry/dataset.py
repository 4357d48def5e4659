"""What a dataset declares, and how its declaration becomes cases.

A dataset is one file with one subclass of `Dataset`: class attributes state the facts, `patterns`
say where its files lie in each layout that people have. The methods here do the looking; a dataset
overrides one where its layout needs thought, not data.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from covidseg.registry.cases import HU, Case, ImageFormat, Intensity, Mask, MaskFormat, Sides
from covidseg.registry.findings import Finding
from covidseg.registry.tree import Folder, Tree, is_dicom_name
from covidseg.splits.canonical import canonical_cases
from covidseg.splits.identity import patient_of
from covidseg.splits.records import CaseKey

NII = r"\.nii(?:\.gz)?"
"""End of a NIfTI file's name, compressed or not, for file patterns."""

IMAGE = "image"
"""Role of the files that are scans; every other role is the name of an annotation."""


@dataclass(frozen=True)
class Licence:
    """Terms of use. ``redistributable``: may a copy be passed on at all."""

    name: str
    url: str
    redistributable: bool
    note: str = ""


@dataclass(frozen=True)
class Citation:
    """What to cite, as text, and where it is found."""

    text: str
    doi: str = ""

    @property
    def url(self) -> str:
        return f"https://doi.org/{self.doi}" if self.doi else ""


@dataclass(frozen=True)
class Download:
    """One openly downloadable file and what it must be; empty where it is not published."""

    url: str
    file: str
    sha256: str = ""
    md5: str = ""
    size_bytes: int | None = None


@dataclass(frozen=True)
class Annotation:
    """One kind of mask of a dataset: what its values mean and how they are read.

    ``labels``, ``threshold``, ``sides``, ``own_grid`` and ``structures`` are handed to every `Mask`
    of this annotation; see there.
    """

    labels: dict[int, str]
    meaning: str
    format: MaskFormat = "nifti"
    threshold: float | None = None
    sides: Sides = "declared"
    own_grid: bool = False
    structures: dict[str, int] = field(default_factory=dict)

    def mask(self, path: Path) -> Mask:
        return Mask(
            path=path,
            labels=self.labels,
            format=self.format,
            threshold=self.threshold,
            sides=self.sides,
            own_grid=self.own_grid,
            structures=self.structures,
        )


@dataclass(frozen=True)
class Pattern:
    """Where the files of one role lie in one layout.

    ``folder`` is searched for at the end of a folder's absolute path, ``file`` is matched with the
    whole file name, both regardless of case. ``case_id`` is a template that the groups of ``file``
    fill (``\\g<number>``). With ``series`` the folder itself is the image, a DICOM series, and the
    groups of ``folder`` fill the template.
    """

    layout: str
    role: str
    folder: str
    case_id: str
    file: str = ""
    cohort: str = "labelled"
    format: ImageFormat = "nifti"
    series: bool = False

    @cached_property
    def folder_expression(self) -> re.Pattern[str]:
        return re.compile(rf"(?:^|/){self.folder}$" if self.folder else "$", re.IGNORECASE)

    @cached_property
    def file_expression(self) -> re.Pattern[str]:
        return re.compile(self.file, re.IGNORECASE)


@dataclass(frozen=True)
class Piece:
    """A file (or DICOM folder) that a pattern recognised."""

    path: Path
    role: str
    case_id: str
    cohort: str
    layout: str
    format: ImageFormat = "nifti"


@dataclass
class Found:
    """What one dataset found in a tree: its cases, and pieces that could not be placed.

    ``findings`` says what was passed over and why.
    """

    cases: list[Case] = field(default_factory=list)
    masks_without_image: list[Piece] = field(default_factory=list)
    masks_twice: list[tuple[Case, str, Path]] = field(default_factory=list)
    claimed: set[Path] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


class Dataset:
    """A dataset: facts as class attributes, layouts as patterns.

    Attributes
    ----------
    key
        Its name in this project: in splits, on the command line, in tables.
    expected_masks
        The annotations that every case of a cohort should have.
    aliases
        Other names that people know it by, accepted where a dataset is named by hand.
    expected_counts
        Number of cases of each cohort when the download is whole.
    listed_cohorts
        The cohorts whose case IDs are published, so that missing and surplus ones can be named.
    told_by_tags
        Whether DICOM files are known as its own by their tags where no folder's name tells.
    steps
        How to get what cannot simply be downloaded, one step an entry.
    oddities
        What is known to be unusual, by case ID; under ``""`` for the dataset as a whole.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    licence: ClassVar[Licence]
    citations: ClassVar[tuple[Citation, ...]]
    homepages: ClassVar[tuple[str, ...]]
    tasks: ClassVar[tuple[str, ...]]
    annotations: ClassVar[dict[str, Annotation]]
    patterns: ClassVar[tuple[Pattern, ...]]
    intensity: ClassVar[str]
    expected_counts: ClassVar[dict[str, int]]
    expected_masks: ClassVar[dict[str, tuple[str, ...]]]
    listed_cohorts: ClassVar[tuple[str, ...]] = ("labelled",)
    aliases: ClassVar[tuple[str, ...]] = ()
    told_by_tags: ClassVar[bool] = False
    downloads: ClassVar[tuple[Download, ...]] = ()
    steps: ClassVar[tuple[str, ...]] = ()
    oddities: ClassVar[dict[str, str]] = {}

    def patient_of(self, case_id: str) -> str:
        """The patient that a case is of; a case whose patient is not known is one of its own."""
        return patient_of(CaseKey(self.key, case_id))

    def patient_named(self, text: str) -> str | None:
        """The patient of this dataset whose name ``text`` is (a PatientID of DICOM); None for any
        other text, such as an anonymiser's number. Only datasets that come as DICOM know names.
        """
        return None

    def expected_ids(self, cohort: str) -> tuple[str, ...]:
        """Canonical case IDs of a cohort; empty where only their number is published."""
        return canonical_cases(self.key) if cohort in self.listed_cohorts else ()

    def source_of(self, case_id: str, cohort: str) -> str:
        """Where within the dataset a case comes from, for datasets of several sources."""
        return self.key

    def intensity_of(self, case_id: str) -> Intensity:
        """The scale that a case's image is stored on."""
        return HU

    def find(self, tree: Tree) -> Found:
        """All cases of this dataset below ``tree.root``, in whatever layouts they lie there."""
        return self.arrange(self.pieces(tree))

    def pieces(self, tree: Tree) -> list[Piece]:
        """Every file or DICOM folder that one of the patterns recognises."""
        return [piece for folder in tree.folders for piece in self._pieces_of(folder)]

    def _pieces_of(self, folder: Folder) -> list[Piece]:
        hits = [
            (pattern, match)
            for pattern in self.patterns
            if (match := pattern.folder_expression.search(folder.posix))
        ]
        pieces = []
        for pattern, match in hits:
            if pattern.series and any(is_dicom_name(name) for name in folder.files):
                pieces.append(self._piece(pattern, match, folder.path))
        by_file = [pattern for pattern, _ in hits if not pattern.series]
        if by_file:
            for name, path in folder.files.items():
                if is_dicom_name(name):
                    continue
                for pattern in by_file:
                    if match := pattern.file_expression.fullmatch(name):
                        pieces.append(self._piece(pattern, match, path))
                        break
        return pieces

    def _piece(self, pattern: Pattern, match: re.Match[str], path: Path) -> Piece:
        return Piece(
            path,
            pattern.role,
            match.expand(pattern.case_id),
            pattern.cohort,
            pattern.layout,
            pattern.format,
        )

    def arrange(self, pieces: Sequence[Piece]) -> Found:
        """Make cases: each mask goes to the image of its case that lies nearest to it in folders.

        So two copies of a dataset below one root keep their own masks, and masks that were
        extracted far from their images still find them.
        """
        found = Found(claimed={piece.path for piece in pieces})
        images: dict[tuple[str, str], list[Piece]] = defaultdict(list)
        for piece in pieces:
            if piece.role == IMAGE:
                images[piece.cohort, piece.case_id].append(piece)
        held: dict[tuple[Path, str], Piece] = {}
        twice: list[tuple[Piece, str, Path]] = []
        for piece in pieces:
            if piece.role == IMAGE:
                continue
            candidates = images.get((piece.cohort, piece.case_id), [])
            if not candidates:
                found.masks_without_image.append(piece)
                continue
            nearest = _nearest(candidates, piece)
            before = held.setdefault((nearest.path, piece.role), piece)
            if before is piece:
                continue
            if _distance(nearest.path, piece.path) < _distance(nearest.path, before.path):
                held[nearest.path, piece.role] = piece
                piece = before
            if not _same_file(piece.path, held[nearest.path, piece.role].path):
                twice.append((nearest, piece.role, piece.path))
        masks: dict[Path, dict[str, Mask]] = defaultdict(dict)
        for (image_path, role), piece in held.items():
            masks[image_path][role] = self.annotations[role].mask(piece.path)
        cases: dict[Path, Case] = {}
        for group in images.values():
            for image in group:
                cases[image.path] = self.case(image, masks.get(image.path, {}))
        found.cases = sorted(
            cases.values(), key=lambda case: (case.cohort, natural(case.case_id), case.image)
        )
        found.masks_twice = [(cases[image.path], role, path) for image, role, path in twice]
        return found

    def case(self, image: Piece, masks: dict[str, Mask]) -> Case:
        return Case(
            dataset=self.key,
            case_id=image.case_id,
            patient_id=self.patient_of(image.case_id),
            source=self.source_of(image.case_id, image.cohort),
            image=image.path,
            image_format=image.format,
            intensity=self.intensity_of(image.case_id),
            masks=masks,
            cohort=image.cohort,
            layout=image.layout,
        )

    def layout_findings(self, cases: Sequence[Case]) -> Iterator[Finding]:
        """What is to be said about the layouts that the cases were found in; nothing by default."""
        yield from ()

    def notes_of(self, case: Case) -> str:
        """What is known to be odd about a case, or nothing."""
        return self.oddities.get(case.case_id, "")


def natural(text: str) -> list[tuple[int, str]]:
    """Sorting key by which ``train_9`` comes before ``train_10``."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", text)
        if part
    ]


def by_layout(cases: Sequence[Case]) -> Counter[str]:
    """Number of cases in each layout."""
    return Counter(case.layout for case in cases)


def _nearest(images: Sequence[Piece], mask: Piece) -> Piece:
    """The image that lies fewest steps from a mask, of equals the one of the same layout."""

    def remoteness(image: Piece) -> tuple[int, bool]:
        return _distance(image.path, mask.path), image.layout != mask.layout

    return min(images, key=remoteness)


def _same_file(a: Path, b: Path) -> bool:
    """Whether two names lead to one file; a link that leads nowhere is like no other."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


def _distance(a: Path, b: Path) -> int:
    """Steps from one path to the other, up and down."""
    shared = 0
    for left, right in zip(a.parts, b.parts, strict=False):
        if left != right:
            break
        shared += 1
    return len(a.parts) + len(b.parts) - 2 * shared
