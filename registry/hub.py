"""Building a Hugging Face dataset repository from the raw downloads.

The repository is metadata and files: a parquet file a configuration and part, which name volumes
below the same folder. `datasets` reads it with its own niftifolder builder, so whoever loads it
needs no code of this project.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from covidseg.core.errors import ConfigError, LayoutError, StorageError
from covidseg.core.files import atomic_file, storage_error
from covidseg.core.lock import alone_in
from covidseg.core.parallel import map_cases
from covidseg.registry import hub_card, hub_rows
from covidseg.registry.cases import Case
from covidseg.registry.datasets import DATASETS
from covidseg.registry.find import FoundDatasets, find_cases
from covidseg.registry.findings import Finding
from covidseg.registry.hub_configurations import Configuration, Held, Plan, plan
from covidseg.registry.hub_volumes import (
    MARK,
    VOLUMES,
    Job,
    Notes,
    Placing,
    forget_others,
    noted,
    place,
    safe_name,
)
from covidseg.registry.phantom.marker import MARKER as PHANTOM_MARK


@dataclass
class BuildReport:
    """What a build did, and what it could not do.

    ``faults`` lists bad cases and layouts, ``warnings`` what somebody should look at, ``left_out``
    configurations that could not be made and why,
    ``leaks`` those of them that leak in a way nobody has published, ``withheld`` the datasets whose
    volumes were not put into a repository meant for publishing. ``kept`` says what of an earlier
    build was not found this time and is still there: datasets, cases where a folder could not be
    looked into, annotations that a case has lost; no row names these volumes.
    ``archives`` are downloads beside which nothing is extracted.
    """

    root: Path
    out: Path
    cases: int = 0
    unchanged: int = 0
    configurations: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    leaks: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    withheld: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    archives: list[Path] = field(default_factory=list)
    phantom: bool = False

    @property
    def sound(self) -> bool:
        """Whether every case and layout found is good and no configuration leaks."""
        return not self.faults and not self.leaks


def build_hub(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    datasets: Sequence[str] | None = None,
    placing: Placing = "link",
    publish: bool = False,
    partial: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> BuildReport:
    """Write a dataset repository of everything found below ``root``, in ``out``.

    Run again, it takes up where it was interrupted, and reads only what has changed. Volumes of an
    earlier build that nothing names any more are removed, but what may be the last copy stays: the
    volumes of a case that is there and cannot be read now or is there twice, an annotation that a
    case has lost, all of a dataset of which nothing is found now, and everything where something
    below ``root`` cannot be listed or told. A repository to ``publish`` holds nothing but what is
    named.

    Parameters
    ----------
    datasets
        Keys of the datasets to look for; default all.
    placing
        ``link`` links volumes that can stay as they are (hard, else symbolic, else a copy);
        ``copy`` copies them. What must be converted is always written.
    publish
        Make a repository that may be pushed: volumes whose licence forbids passing them on are
        left out of it, only their metadata is there; nothing is linked symbolically.
    partial
        Make configurations also of splits that lack cases.

    Raises
    ------
    LayoutError
        ``root`` does not exist or holds no dataset; or no configuration can be made.
    ConfigError
        ``out`` is a folder with other things in it, or has a name that `datasets` cannot load from.
        Another build is writing there.
    StorageError
        The disk is full or may not be written to.
    """
    out = Path(os.path.abspath(out))
    found = find_cases(root, datasets)
    found.require_any()
    _claim(out)
    # Of two builders each would remove what the other has written.
    with alone_in(out, "written", within=out / MARK):
        return _build(found, out, placing, publish, partial, workers, progress)


def _build(
    found: FoundDatasets,
    out: Path,
    placing: Placing,
    publish: bool,
    partial: bool,
    workers: int | None,
    progress: bool,
) -> BuildReport:
    report = BuildReport(found.root, out, archives=found.packed())
    cases = _usable(found, report)
    layouts = _layout_findings(found, cases, report)
    withheld = {
        key
        for key in DATASETS
        if publish
        and any(c.dataset == key for c in cases)
        and not DATASETS[key].licence.redistributable
    }
    report.withheld = {key: DATASETS[key].licence.name for key in sorted(withheld)}
    jobs = [
        Job(case, out, placing, files=case.dataset not in withheld, symbolic=not publish)
        for case in cases
    ]
    notes = _place_all(jobs, report, workers, progress)
    if publish:
        forget_others(out, jobs)
    held = _held(cases, notes, found)
    report.cases = len(cases)
    report.phantom = bool(held.phantom)
    made = plan(held, partial)
    _note_layouts(made, layouts)
    report.left_out, report.leaks = made.left_out, made.leaks
    if not made.configurations:
        raise LayoutError(
            "holds no case that a configuration can be made of",
            path=found.root,
            remedy="see `covidseg check`; first fault: " + next(iter(report.faults), "none"),
        )
    spared = set() if publish else _spared(out, found, cases, notes, report)
    _write(out, made, held, report, spared, location=None if publish else out)
    return report


def _claim(out: Path) -> None:
    """Make ``out`` a repository of ours, or refuse a folder with other things in it."""
    if why := _not_loadable(str(out)):
        raise ConfigError(why, path=out, remedy="name another folder with --out")
    mark = out / MARK
    try:
        if out.exists() and not mark.is_dir() and any(out.iterdir()):
            raise ConfigError(
                "is not empty and was not written by `covidseg build`",
                path=out,
                remedy="name an empty or new folder with --out",
            )
        mark.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise storage_error(fault, out) from fault


def _not_loadable(out: str) -> str | None:
    """What in a folder's path keeps `datasets` from loading from there."""
    if pattern := set(out) & set("[]*?"):
        return (
            f"has {' '.join(sorted(pattern))} in its path, which load_dataset takes for a pattern"
        )
    if "::" in out:
        return "has :: in its path, which load_dataset takes for a file within an archive"
    if any("\udc80" <= letter <= "\udcff" for letter in out):
        return "has a path that is no UTF-8, which load_dataset cannot open"
    return None


def _usable(found: FoundDatasets, report: BuildReport) -> list[Case]:
    """The cases found, without those that two files claim."""
    report.faults += [str(duplicate) for duplicate in found.duplicates]
    report.faults += [
        f"{path}: a second {name} mask of {case.dataset} {case.case_id}; the nearest is used"
        for case, name, path in found.masks_twice
    ]
    report.faults += [f"{path}: cannot be listed ({reason})" for path, reason in found.unreadable]
    report.faults += [
        f"{path}: DICOM that cannot be read (empty, cut short or damaged)" for path in found.damaged
    ]
    twice = {case.image for duplicate in found.duplicates for case in duplicate.cases}
    return [case for case in found.cases if case.image not in twice]


def _layout_findings(found: FoundDatasets, cases: list[Case], report: BuildReport) -> list[Finding]:
    """What is wrong, or perhaps wrong, with the layouts that the cases lie in."""
    layouts: list[Finding] = []
    for key, dataset in DATASETS.items():
        layouts += dataset.layout_findings([case for case in cases if case.dataset == key])
    report.faults += [str(finding) for finding in layouts if finding.severity == "error"]
    report.warnings += [
        str(finding) for finding in found.findings + layouts if finding.severity == "warning"
    ]
    return [finding for finding in layouts if finding.severity != "note"]


def _note_layouts(made: Plan, layouts: list[Finding]) -> None:
    """Whoever loads a configuration reads in the card what is to be said of its datasets."""
    for configuration in made.configurations:
        held = {row["dataset"] for rows in configuration.parts.values() for row in rows}
        configuration.notes += [
            f"{finding.found}: {finding.remedy}" for finding in layouts if finding.dataset in held
        ]


def _place_all(
    jobs: list[Job], report: BuildReport, workers: int | None, progress: bool
) -> dict[tuple[str, str, str], Notes]:
    notes: dict[tuple[str, str, str], Notes] = {}
    waiting = []
    for job in jobs:
        if kept := noted(job):
            notes[_place_of(job.case)] = kept
        else:
            waiting.append(job)
    report.unchanged = len(notes)
    results = map_cases(place, waiting, workers=workers, description="reading", progress=progress)
    for job, result in results:
        if isinstance(result, StorageError):
            # Every other case would meet the same disk.
            raise result
        if isinstance(result, Exception):
            case = job.case
            report.faults.append(
                f"{case.image}: {case.dataset} {case.case_id} could not be read"
                f" ({type(result).__name__}: {result})"
            )
            continue
        notes[_place_of(job.case)] = result
        report.faults += result.faults()
    return notes


def _place_of(case: Case) -> tuple[str, str, str]:
    return case.dataset, case.cohort, case.case_id


def _held(
    cases: list[Case], notes: dict[tuple[str, str, str], Notes], found: FoundDatasets
) -> Held:
    sound = {
        place: case
        for case in cases
        if (place := _place_of(case)) in notes and not notes[place].fault
    }
    phantom = {place for place, case in sound.items() if found.is_phantom(case)}
    return Held(sound, notes, phantom)


def _spared(
    out: Path,
    found: FoundDatasets,
    cases: list[Case],
    notes: dict[tuple[str, str, str], Notes],
    report: BuildReport,
) -> set[str]:
    """Volumes of earlier builds that no row names and that must stay.

    ``report.kept`` tells of those of which nothing is found now; of the others a fault tells.
    """
    present = {case.dataset for case in found.cases}
    standing = {(case.dataset, case.cohort, safe_name(case.case_id)): case for case in cases}
    faulty = {
        key
        for key, case in standing.items()
        if (place := _place_of(case)) not in notes or notes[place].faults()
    }
    faulty |= {(one.dataset, one.cohort, safe_name(one.case_id)) for one in found.duplicates}
    # Any case may lie where nobody could look.
    unseen = bool(found.unreadable or found.damaged)
    sound = {key[0] for key in standing.keys() - faulty}
    spared = set()
    missed: dict[str, set[tuple[str, str]]] = {}
    for path in (out / VOLUMES).rglob("*"):
        file = path.relative_to(out).as_posix()
        dataset, *inside = file.split("/")[1:]
        if path.is_dir():
            continue
        if dataset not in present:
            spared.add(file)
            missed.setdefault(dataset, set())
        elif len(inside) == 1 and dataset not in sound:
            # The marker of phantoms, which those that stay need.
            spared.add(file)
        elif len(inside) == 3:
            cohort, role, name = inside
            key = (dataset, cohort, re.sub(r"\.nii(\.gz)?$", "", name))
            case = standing.get(key)
            if key in faulty:
                spared.add(file)
            elif case is None and unseen:
                spared.add(file)
                missed.setdefault(dataset, set()).add(key[1:])
            elif case is not None and role != "image" and role not in case.masks:
                spared.add(file)
                missed.setdefault(f"{dataset} {role}", set()).add(key[1:])
    report.kept = [
        f"{what} of {len(keys)} case{'s' * (len(keys) > 1)}" if keys else what
        for what, keys in sorted(missed.items())
    ]
    return spared


def _write(
    out: Path,
    made: Plan,
    held: Held,
    report: BuildReport,
    spared: set[str],
    location: Path | None,
) -> None:
    """Parquet files, then the card that names them, then away with what nothing names."""
    hashes = {}
    keep = set()
    for configuration in made.configurations:
        digest = hashlib.sha256()
        if location is not None:
            # Rows in the cache of `datasets` hold absolute paths: the same rows elsewhere, in a
            # folder of the same name, must not be taken for these.
            digest.update(str(location).encode())
        for part, rows in configuration.parts.items():
            content = hub_rows.to_parquet(rows, configuration.columns)
            digest.update(content)
            name = hub_card.parquet_name(configuration.name, part)
            keep.add(name)
            _write_if_new(out / name, content)
        hashes[configuration.name] = digest.hexdigest()[:16]
        report.configurations[configuration.name] = {
            part: len(rows) for part, rows in configuration.parts.items()
        }
        if configuration.notes:
            report.notes[configuration.name] = configuration.notes
    cases = list(held.cases.values())
    card = (
        "---\n"
        + hub_card.front_matter(made.configurations, hashes, report.phantom)
        + "---\n\n"
        + hub_card.text(
            made.configurations, report.left_out, cases, list(report.withheld), report.phantom
        )
    )
    _write_if_new(out / "README.md", card.encode())
    _write_if_new(
        out / MARK / "report.json", _as_json(report, made.configurations, location).encode()
    )
    written = {file for notes in held.notes.values() for file in notes.written}
    _prune(out, keep, written | spared | _mark_phantoms(out, held))


def _mark_phantoms(out: Path, held: Held) -> set[str]:
    """The markers of the datasets that are phantoms alone, for who uses the volumes themselves."""
    marks = set()
    for dataset in {dataset for dataset, _, _ in held.cases}:
        folder = f"{VOLUMES}/{dataset}"
        places = {place for place in held.cases if place[0] == dataset}
        if places <= held.phantom and (out / folder).is_dir():
            content = json.dumps({"phantom": True, "dataset": dataset}, indent=1)
            _write_if_new(out / folder / PHANTOM_MARK, content.encode())
            marks.add(f"{folder}/{PHANTOM_MARK}")
    return marks


def _write_if_new(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def _as_json(
    report: BuildReport, configurations: list[Configuration], location: Path | None
) -> str:
    """The report; where it is to be published (no ``location``) without the paths of a machine."""
    faults, warnings = report.faults, report.warnings
    if location is None:
        faults, warnings = (
            [line.replace(f"{report.root}{os.sep}", "") for line in lines]
            for lines in (faults, warnings)
        )
    return json.dumps(
        {
            "root": None if location is None else str(report.root),
            "phantom": report.phantom,
            "cases": report.cases,
            "configurations": report.configurations,
            "split_sha256": {c.name: c.split_sha256 for c in configurations if c.split_sha256},
            "notes": report.notes,
            "refused": {c.name: c.refused for c in configurations if c.refused},
            "left_out": report.left_out,
            "faults": faults,
            "warnings": warnings,
            "withheld": report.withheld,
        },
        indent=1,
    )


def _prune(out: Path, parquet: set[str], named: set[str]) -> None:
    """Remove parquet files and what lies beside the volumes, but for what is ``named``."""
    try:
        for path in out.glob("*.parquet"):
            if path.name not in parquet:
                path.unlink()
        for folder, _, files in os.walk(out / VOLUMES, topdown=False):
            for file in files:
                path = Path(folder, file)
                if path.relative_to(out).as_posix() not in named:
                    path.unlink()
            if not os.listdir(folder):
                os.rmdir(folder)
    except OSError as fault:
        raise storage_error(fault, out) from fault
