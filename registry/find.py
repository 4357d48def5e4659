"""Finding every case of every dataset below a folder, whatever the layouts."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from covidseg.core.errors import CovidsegError, LayoutError
from covidseg.registry.cases import Case
from covidseg.registry.dataset import Dataset, Piece, natural
from covidseg.registry.datasets import DATASETS, dataset
from covidseg.registry.extract import archive_stem
from covidseg.registry.findings import Finding
from covidseg.registry.phantom.marker import MARKER, phantom_marker
from covidseg.registry.tree import FEWEST_SLICES, VOLUME, Predictions, Tree, is_dicom_name, walk

_PICTURE = re.compile(r"\.(jpe?g|png|bmp|tiff?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Duplicate:
    """Two or more scans that claim to be the same case."""

    dataset: str
    cohort: str
    case_id: str
    cases: tuple[Case, ...]

    def __str__(self) -> str:
        places = ", ".join(f"{case.image} ({case.layout})" for case in self.cases)
        return f"{self.dataset} {self.case_id} is there {len(self.cases)} times: {places}"


@dataclass(frozen=True)
class Ignored:
    """Volumes or pictures in a folder that belong to no dataset that is known."""

    folder: Path
    files: int


@dataclass
class FoundDatasets:
    """What lies below ``root``.

    ``cases`` holds every scan that was found, both of a pair that claims one ID; ``duplicates``
    lists such pairs. Nothing was opened but what a layout needs to be told apart. ``findings`` says
    what a dataset passed over and why. ``unreadable`` lists what may not be listed; ``damaged``
    DICOM files, and folders in which there is no other, that cannot be read, so that nobody knows
    which scan they are of. ``repositories`` and ``predictions`` are what this project wrote itself
    and no case is taken from.
    """

    root: Path
    looked_for: tuple[str, ...]
    cases: list[Case] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    masks_without_image: list[tuple[str, Piece]] = field(default_factory=list)
    masks_twice: list[tuple[Case, str, Path]] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)
    ignored: list[Ignored] = field(default_factory=list)
    repositories: list[Path] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list)
    archives: list[tuple[str, Path]] = field(default_factory=list)
    phantom_folders: list[Path] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def phantom(self) -> bool:
        """Whether any of the cases is a phantom."""
        return any(map(self.is_phantom, self.cases))

    def is_phantom(self, case: Case) -> bool:
        """Whether a case lies below a folder that `covidseg phantom` marked."""
        return any(case.image.is_relative_to(folder) for folder in self.phantom_folders)

    def of(self, key: str, cohort: str | None = None) -> list[Case]:
        """The cases of one dataset, or of one cohort of it."""
        return [
            case
            for case in self.cases
            if case.dataset == key and (cohort is None or case.cohort == cohort)
        ]

    def present(self) -> list[str]:
        """Keys of the datasets of which anything was found, in the registry's order."""
        held = {case.dataset for case in self.cases} | {key for key, _ in self.masks_without_image}
        return [key for key in DATASETS if key in held]

    def counts(self, key: str) -> Counter[str]:
        """Distinct case IDs of each cohort of a dataset."""
        return Counter(cohort for cohort, _ in {(c.cohort, c.case_id) for c in self.of(key)})

    def packed(self) -> list[Path]:
        """Archives without a folder of their name beside them, so perhaps never extracted."""
        return [
            path
            for _, path in self.archives
            if not path.with_name(archive_stem(path.name) or path.name).is_dir()
        ]

    def require_any(self) -> None:
        """Raise `LayoutError`, saying what was looked for, if no dataset was found."""
        if not self.cases and not self.masks_without_image:
            raise self.nothing_found()

    def require_unique(self) -> None:
        """Raise `LayoutError` naming the first pair of scans that claim one case ID."""
        if self.duplicates:
            first, more = self.duplicates[0], len(self.duplicates) - 1
            raise LayoutError(
                str(first) + (f", and {more} more such cases" if more else ""),
                expected="one copy of each dataset",
                remedy="move one of the copies out of this folder, or name the folder of one",
            )

    def nothing_found(self) -> LayoutError:
        """The error that says what was looked for and what lay there instead."""
        if self.root in self.repositories:
            return LayoutError(
                "is a dataset repository that `covidseg build` wrote",
                path=self.root,
                expected="a folder of downloads",
                remedy="give the folder that it was built from; `datasets.load_dataset` reads it",
            )
        finding = "holds none of the datasets looked for"
        if self.ignored:
            count = sum(entry.files for entry in self.ignored)
            finding += f"; {count} volumes or pictures in folders of other layouts"
        for passed in self.findings:
            finding += f"; {passed.file}: {passed.found}"
        if self.archives:
            names = ", ".join(sorted({path.name for _, path in self.archives}))
            finding += f"; archives not extracted: {names}"
        if self.unreadable:
            finding += f"; {len(self.unreadable)} folders may not be read"
        if self.damaged:
            finding += f"; {len(self.damaged)} damaged DICOM files or folders of such"
        if self.predictions:
            count = sum(entry.files for entry in self.predictions)
            finding += f"; {count} label maps that `covidseg predict` wrote"
        if self.repositories:
            finding += f"; {len(self.repositories)} dataset repositories that are passed over"
        layouts = "\n".join(f"  {line}" for key in self.looked_for for line in _shapes(key))
        return LayoutError(
            finding,
            path=self.root,
            expected=f"one of these layouts anywhere below it\n{layouts}\n",
            remedy="`covidseg datasets` says where each is from; `covidseg phantom` draws stand-ins"
            " for all of them",
        )


def find_cases(
    root: str | os.PathLike[str], datasets: Sequence[str] | None = None
) -> FoundDatasets:
    """Every case of ``datasets`` (default: all) below ``root``, in any layout that is known.

    The folder is listed once; names decide, files are opened only where names cannot (DICOM folders
    without a patient's name above, DICOM files too few for a scan or of another size than the scan
    beside them, StructSeg folders without their task's name). Two scans that
    claim one case ID are both returned and reported as `Duplicate`.

    Raises
    ------
    LayoutError
        ``root`` does not exist or is a file.
    ConfigError
        A name in ``datasets`` is not known.
    """
    chosen = [dataset(name) for name in datasets] if datasets else list(DATASETS.values())
    tree = walk(root)
    found = FoundDatasets(tree.root, tuple(entry.key for entry in chosen))
    found.unreadable = tree.unreadable
    found.repositories, found.predictions = tree.repositories, tree.predictions
    found.phantom_folders = _phantom_folders(tree)
    claimed: set[Path] = set()
    # Every dataset looks, also where few are asked for: what another one claims is not unknown.
    for entry in DATASETS.values():
        if entry not in chosen:
            claimed |= _claimed(entry, tree)
            continue
        part = entry.find(tree)
        claimed |= part.claimed
        found.cases += _without_links(part.cases)
        found.masks_without_image += [(entry.key, piece) for piece in part.masks_without_image]
        found.masks_twice += part.masks_twice
        found.findings += part.findings
    found.duplicates = _duplicates(found.cases)
    if any(entry.told_by_tags for entry in chosen):
        found.damaged = _damaged(tree, claimed)
    found.ignored = _ignored(tree, claimed | set(found.damaged))
    found.archives = [
        (entry.key, path)
        for path in tree.archives()
        for entry in chosen
        if path.name in {download.file for download in entry.downloads}
        or path.name.lower() in _ARCHIVES.get(entry.key, ())
    ]
    return found


def _claimed(entry: Dataset, tree: Tree) -> set[Path]:
    """Files of a dataset that nobody asked for: what is wrong with it is no matter here."""
    try:
        pieces = entry.pieces(tree)
    except CovidsegError:
        pieces = Dataset.pieces(entry, tree)
    return {piece.path for piece in pieces}


def _phantom_folders(tree: Tree) -> list[Path]:
    if phantom_marker(tree.root) is not None:
        return [tree.root]
    found = [folder.path for folder in tree.folders if MARKER in folder.files]
    # A link into a folder of phantoms leaves the marker behind.
    for folder in tree.folders:
        real = folder.path.resolve()
        if real != folder.path and phantom_marker(real) is not None:
            found.append(folder.path)
    return found


# Archives that are not openly downloadable, by the names they come under.
_ARCHIVES = {
    "structseg": ("task3_thoracic_oar.zip", "task4_lung_gtv.zip"),
    "covid1920": ("covid-19-20_v2.zip", "covid-19-20_testset.zip"),
    "mosmed": ("covid19_1110.zip",),
    "semiseg": ("covid-semiseg.zip",),
}


def _without_links(cases: list[Case]) -> list[Case]:
    """Of one file under several names (links) the case with the most masks: it is one scan."""
    kept: dict[tuple[str, str, int, int], Case] = {}
    for case in cases:
        try:
            status = os.stat(case.image)
        except OSError:
            kept[case.cohort, str(case.image), 0, 0] = case
            continue
        place = (case.cohort, case.case_id, status.st_dev, status.st_ino)
        if place not in kept or len(case.masks) > len(kept[place].masks):
            kept[place] = case
    return list(kept.values())


def _duplicates(cases: Iterable[Case]) -> list[Duplicate]:
    groups: dict[tuple[str, str, str], list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.dataset, case.cohort, case.case_id].append(case)
    return [
        Duplicate(*key, tuple(group))
        for key, group in sorted(groups.items(), key=lambda item: natural("/".join(item[0])))
        if len(group) > 1
    ]


def _damaged(tree: Tree, claimed: set[Path]) -> list[Path]:
    """What would be a case, or an annotation of one, if its tags could be read."""
    damaged: list[Path] = []
    for folder in tree.folders:
        if folder.path in claimed:
            continue
        files = [
            path
            for name, path in folder.files.items()
            if is_dicom_name(name) and path not in claimed
        ]
        if files and tree.dicom_identity(folder) is None:
            damaged += [folder.path] if len(files) > 1 else files
        elif len(files) < FEWEST_SLICES:
            # A few files need not be of one series.
            damaged += [path for path in files if tree.file_identity(path) is None]
    return damaged


def _ignored(tree: Tree, claimed: set[Path]) -> list[Ignored]:
    ignored = []
    for folder in tree.folders:
        if folder.path in claimed:
            continue
        left = sum(
            path not in claimed
            for name, path in folder.files.items()
            if VOLUME.search(name) or _PICTURE.search(name) or is_dicom_name(name)
        )
        if left:
            ignored.append(Ignored(folder.path, left))
    return ignored


def _shapes(key: str) -> list[str]:
    """The layouts of a dataset as its module's text draws them."""
    entry: Dataset = DATASETS[key]
    text = sys.modules[type(entry).__module__].__doc__ or ""
    drawn = [line.strip() for line in text.split("Layout", 1)[-1].splitlines() if "    " in line]
    return [f"{entry.title}:"] + [f"  {line}" for line in drawn if line]
