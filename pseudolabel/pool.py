"""The unlabelled pool: scans of a dataset repository's part, and of folders that the user names.

    pool = gather(recipe, labelled_part.rows, run / "pool")
    pool.scans      # what may be learnt from, each a TrainingCase without a label
    pool.entries    # all there were, with the reason where one was left out; also in pool.csv

Every scan passes the deny-list (`covidseg.pseudolabel.deny`). One that cannot be read is left out
and listed, and the rest goes on.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from covidseg.core.errors import ConfigError, CovidsegError, LayoutError
from covidseg.core.files import atomic_file
from covidseg.core.parallel import map_cases
from covidseg.engine.cache import TrainingCase, read_image
from covidseg.engine.seeds import derived_seed
from covidseg.engine.task_data import Row, part_names, read_part
from covidseg.imaging.content import oriented_content_hash, values_hash
from covidseg.imaging.nifti import write_nifti
from covidseg.inference.files import Input, find_inputs, read_input
from covidseg.pseudolabel.deny import (
    LABELLED,
    Denied,
    Refusal,
    as_if_of,
    evaluation_rows,
    refusals,
)
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.registry.cases import Intensity
from covidseg.scoring.folder import case_id_of
from covidseg.splits.records import CaseRecord

TABLE = "pool.csv"
_COLUMNS = ("case_id", "origin", "state", "reason")
_IN_HUB = "hub:"


@dataclass(frozen=True)
class PoolScan:
    """A scan to learn from without a label.

    ``record`` is what the deny-list compares; its data set is empty for a scan of a folder.
    ``values`` is the scan's `covidseg.imaging.content.values_hash`.
    """

    case: TrainingCase
    record: CaseRecord
    origin: str
    values: str | None = None


@dataclass(frozen=True)
class Entry:
    """A row of the pool's table; ``state`` is `taken`, `refused`, `unreadable` or `not drawn`."""

    case_id: str
    origin: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class Pool:
    """What may be learnt from, and what became of every scan."""

    scans: list[PoolScan]
    entries: list[Entry]
    phantom: bool

    @property
    def provenance(self) -> dict[str, Any]:
        """What a run's manifest says of the pool."""
        counts = {
            state: sum(entry.state == state for entry in self.entries)
            for state in ("taken", "refused", "unreadable", "not drawn")
        }
        # By the voxels where they are known: a folder of scans may have been moved.
        listed = [
            [scan.case.case_id, scan.record.content_hash or scan.case.content]
            for scan in self.scans
        ]
        digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
        return {"phantom": self.phantom, "sha256": digest, **counts}


def gather(
    recipe: PseudolabelRecipe,
    labelled: Sequence[Row],
    folder: Path,
    *,
    more: Sequence[Row] = (),
    measured: Sequence[str] = (),
    phantom: bool = False,
    accept: Callable[[Mapping[str, Any]], None] | None = None,
    progress: bool = True,
) -> Pool:
    """The pool that a recipe names, without what must not be learnt from; its table in ``folder``.

    Parameters
    ----------
    recipe
        ``unlabelled`` names the repository's part and further pools; ``data`` the configuration
        whose evaluation parts are denied.
    labelled
        The rows that are learnt from with their labels.
    folder
        Gets ``pool.csv``.
    more
        Further rows whose labels are not to be used.
    measured
        Further configurations whose evaluation parts are denied.
    phantom
        Whether the repository's scans are phantoms.
    accept
        Called with the pool's `Pool.provenance` before the table is written; raises where a run
        that has begun did so with another pool, whose table then stays.

    Raises
    ------
    ConfigError
        No scan is left; two scans have one name; the pool is the test set; there is no such pool.
    """
    cache = Path(recipe.data.cache)
    scans, entries = _of_hub(recipe, more)
    for word in recipe.unlabelled.also:
        if word.startswith(_IN_HUB):
            scans += _of_part(recipe.data.hub, word)
            continue
        found, faults = _of_folder(Path(word), cache, progress)
        scans += found
        entries += faults
    _refuse_one_name_twice(scans)
    parts = evaluation_rows(recipe.data.hub, [recipe.data.name, *measured])
    parts[LABELLED] = list(labelled)
    scans, unreadable, denied = _with_values(scans, parts, cache, progress)
    entries += unreadable
    datasets = sorted({one.record.dataset for one in denied})
    refused = refusals(
        {
            scan.case.case_id: [scan.record]
            if scan.record.dataset
            else as_if_of(scan.record, datasets)
            for scan in scans
        },
        {scan.case.case_id: scan.values for scan in scans if scan.values},
        denied,
    )
    allowed = [scan for scan in scans if scan.case.case_id not in refused]
    kept = _drawn(allowed, recipe.unlabelled.cases, recipe.seed)
    taken = {scan.case.case_id for scan in kept}
    for scan in scans:
        name = scan.case.case_id
        if name in refused:
            state, reason = "refused", refused[name].reason
        elif name in taken:
            state, reason = "taken", ""
        else:
            state, reason = "not drawn", f"unlabelled.cases is {recipe.unlabelled.cases}"
        entries.append(Entry(name, scan.origin, state, reason))
    pool = Pool(kept, entries, phantom)
    if accept is not None:
        accept(pool.provenance)
    _write_table(folder / TABLE, entries)
    _refuse_the_test_set(scans, refused)
    if not kept:
        states = [entry.state for entry in entries]
        raise ConfigError(
            f"no unlabelled scan is left: of {len(entries)}, {states.count('refused')} were "
            f"refused by the deny-list and {states.count('unreadable')} cannot be read",
            path=folder / TABLE,
            remedy="the table says why each was; name another pool in unlabelled.configuration or "
            "unlabelled.also",
        )
    return pool


def few_labels(rows: Sequence[Row], count: int | None, seed: int) -> tuple[list[Row], list[Row]]:
    """``count`` of the rows drawn by ``seed``, to be learnt from with labels, and the others.

    A smaller count gives some of a greater one's rows. With None all are labelled.

    Raises
    ------
    ConfigError
        There are fewer rows.
    """
    if count is None:
        return list(rows), []
    if not 1 <= count <= len(rows):
        raise ConfigError(
            f"unlabelled.labelled_cases is {count}", expected=f"1 to {len(rows)}, the cases there"
        )
    order = np.random.default_rng(derived_seed(seed, 4)).permutation(len(rows))
    chosen = set(order[:count].tolist())
    return (
        [row for number, row in enumerate(rows) if number in chosen],
        [row for number, row in enumerate(rows) if number not in chosen],
    )


def _drawn(scans: Sequence[PoolScan], count: int | None, seed: int) -> list[PoolScan]:
    """``count`` of the scans, some of those of a greater count; all where it is None."""
    if count is None or count >= len(scans):
        return list(scans)
    if count < 1:
        raise ConfigError(f"unlabelled.cases is {count}", expected="1 or more, or null for all")
    order = np.random.default_rng(derived_seed(seed, 6)).permutation(len(scans))
    return [scans[number] for number in sorted(order[:count].tolist())]


def _of_hub(recipe: PseudolabelRecipe, more: Sequence[Row]) -> tuple[list[PoolScan], list[Entry]]:
    """The repository's part, what its builder refused already, and ``more``."""
    name = recipe.unlabelled.configuration or recipe.data.name
    scans = [_of_row(row, f"{name}/{recipe.data.part}") for row in more]
    part = recipe.unlabelled.part
    entries: list[Entry] = []
    if part and part in part_names(recipe.data.hub, name):
        scans += _of_part(recipe.data.hub, f"{_IN_HUB}{name}/{part}")
        # A scan can be that of several parts; one entry says so.
        refused = {
            one["case"]: one for one in reversed(_refused_by_builder(Path(recipe.data.hub), name))
        }
        entries = [
            Entry(case.split("/", 1)[1], f"{name}/{part}", "refused", _words(one))
            for case, one in sorted(refused.items())
        ]
    elif part and not more and not recipe.unlabelled.also:
        raise ConfigError(
            f"{name} has no part {part!r}",
            path=recipe.data.hub,
            expected="unlabelled scans",
            remedy="name the configuration that has them in unlabelled.configuration, or folders "
            "of scans in unlabelled.also",
        )
    return scans, entries


def _words(one: Mapping[str, str]) -> str:
    # A fold has a validation part of its own; the challenge's is denied beside it.
    part = "validation" if one["part"] == "test of the challenge" else one["part"]
    return Refusal(one["kind"], one["same_as"], part).reason


def _refused_by_builder(hub: Path, configuration: str) -> list[dict[str, str]]:
    try:
        report = json.loads((hub / ".covidseg" / "report.json").read_text())
    except (OSError, ValueError):
        return []
    return report.get("refused", {}).get(configuration, [])


def _of_part(hub: str, word: str) -> list[PoolScan]:
    """Scans of ``hub:CONFIGURATION/PART``."""
    name, _, part = word.removeprefix(_IN_HUB).partition("/")
    rows = read_part(hub, name, part or "unlabelled").rows
    return [_of_row(row, f"{name}/{part or 'unlabelled'}") for row in rows]


def _of_row(row: Row, origin: str) -> PoolScan:
    case = TrainingCase(
        row.case.case_id,
        row.case.image,
        None,
        row.case.intensity,
        {},
        row.case.source,
        # With its label the case had another hash; without, it is another case of the cache.
        hashlib.sha256(f"{row.case.content} unlabelled".encode()).hexdigest(),
    )
    return PoolScan(case, row.record, origin)


# Folders -----------------------------------------------------------------------------------------


def _of_folder(folder: Path, cache: Path, progress: bool) -> tuple[list[PoolScan], list[Entry]]:
    """The scans of a folder, read once to know them by their content."""
    if not folder.is_dir():
        raise ConfigError(
            "is no folder of unlabelled scans",
            path=folder,
            expected="NIfTI files, slice pictures or DICOM series, or hub:CONFIGURATION/PART",
        )
    inputs = find_inputs([folder])
    names: dict[str, Input] = {}
    for one in inputs:
        if names.setdefault(one.name, one) is not one:
            raise LayoutError(
                f"two scans are called {one.name}",
                path=folder,
                remedy="rename one of them: a pseudo-label goes by its scan's name",
            )
    scans, entries = {}, []
    examine = partial(_examined, cache=cache, origin=str(folder))
    for one, result in map_cases(
        examine, inputs, description="unlabelled scans", progress=progress
    ):
        if isinstance(result, CovidsegError):
            entries.append(Entry(one.name, str(folder), "unreadable", str(result)))
        elif isinstance(result, Exception):
            raise result
        else:
            scans[one.name] = result
    return [scans[one.name] for one in inputs if one.name in scans], entries


def _examined(one: Input, cache: Path, origin: str) -> PoolScan:
    """What is to be known of a scan; a DICOM series becomes a NIfTI file in the cache."""
    stamp = _stamp(one)
    kept = cache / "pool" / f"{stamp}.json"
    image = one.source if isinstance(one.source, Path) else kept.with_suffix(".nii.gz")
    if kept.exists():
        known = json.loads(kept.read_text())
    else:
        volume, intensity = read_input(one)
        if one.kind == "dicom":
            write_nifti(image, volume)
        known = {
            "content": oriented_content_hash(volume),
            "values": values_hash(volume),
            "intensity": asdict(intensity),
        }
        with atomic_file(kept) as temporary:
            temporary.write_text(json.dumps(known))
    window = known["intensity"]["window_hu"]
    intensity = Intensity(known["intensity"]["scale"], tuple(window) if window else None)
    series = None if isinstance(one.source, Path) else one.source
    record = CaseRecord(
        "",
        case_id_of(f"{one.name}.nii.gz"),
        series.patient_id if series else None,
        "unlabelled",
        series.uid if series else None,
        known["content"],
    )
    content = hashlib.sha256(json.dumps([known, stamp]).encode()).hexdigest()
    case = TrainingCase(one.name, image, None, intensity, {}, "unlabelled", content)
    return PoolScan(case, record, origin, known["values"])


def _stamp(one: Input) -> str:
    paths = [one.source] if isinstance(one.source, Path) else list(one.source.files)
    states = []
    for path in paths:
        status = path.stat()
        states.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()[:32]


# What is compared --------------------------------------------------------------------------------


def _with_values(
    scans: Sequence[PoolScan],
    parts: Mapping[str, Sequence[Row]],
    cache: Path,
    progress: bool,
) -> tuple[list[PoolScan], list[Entry], list[Denied]]:
    """The scans with the hash of their values, those that cannot be read, and what is denied."""
    cases = [scan.case for scan in scans if scan.values is None]
    cases += [row.case for rows in parts.values() for row in rows]
    hashes = _hashes(cases, cache, progress)
    known, entries = [], []
    for scan in scans:
        value = scan.values or hashes[scan.case.content]
        if isinstance(value, CovidsegError):
            entries.append(Entry(scan.case.case_id, scan.origin, "unreadable", str(value)))
        else:
            known.append(replace(scan, values=value))
    denied = []
    for part, rows in parts.items():
        for row in rows:
            value = hashes[row.case.content]
            denied.append(Denied(row.record, part, value if isinstance(value, str) else None))
    return known, entries, denied


def _hashes(
    cases: Sequence[TrainingCase], cache: Path, progress: bool
) -> dict[str | None, str | CovidsegError]:
    """The hash of each case's values by its content, or why it cannot be read.

    What was read before is not read again.
    """
    found: dict[str | None, str | CovidsegError] = {}
    once = list({case.content: case for case in cases}.values())
    for case, result in map_cases(
        partial(_hash, cache=cache),
        once,
        already=partial(_known_hash, cache=cache),
        description="deny-list",
        progress=progress,
    ):
        if isinstance(result, Exception) and not isinstance(result, CovidsegError):
            raise result
        found[case.content] = result
    return found


def _hash(case: TrainingCase, cache: Path) -> str:
    value = values_hash(read_image(case))
    with atomic_file(_hash_file(case, cache)) as temporary:
        temporary.write_text(value)
    return value


def _known_hash(case: TrainingCase, cache: Path) -> str | None:
    path = _hash_file(case, cache)
    return path.read_text() if path.exists() else None


def _hash_file(case: TrainingCase, cache: Path) -> Path:
    return cache / "values" / f"{case.content}.txt"


# Refusals ----------------------------------------------------------------------------------------


def _refuse_one_name_twice(scans: Sequence[PoolScan]) -> None:
    known: dict[str, PoolScan] = {}
    for scan in scans:
        other = known.setdefault(scan.case.case_id, scan)
        if other is not scan:
            raise ConfigError(
                f"{scan.origin} and {other.origin} both hold a scan {scan.case.case_id}",
                remedy="rename one of them, or name one pool alone",
            )


def _refuse_the_test_set(scans: Sequence[PoolScan], refused: Mapping[str, Refusal]) -> None:
    """An overlap is refused scan by scan; a folder that is mostly test scans is a mistake."""
    for origin in {scan.origin for scan in scans if not scan.record.dataset}:
        own = [scan.case.case_id for scan in scans if scan.origin == origin]
        same = [case for case in own if case in refused and refused[case].of_evaluation]
        if 2 * len(same) > len(own):
            raise ConfigError(
                f"{len(same)} of its {len(own)} scans are of an evaluation part "
                f"({same[0]} is {refused[same[0]].reason})",
                path=origin,
                expected="scans that no model is measured on",
                remedy="name another folder in unlabelled.also",
            )


def _write_table(path: Path, entries: Sequence[Entry]) -> None:
    with atomic_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for entry in sorted(entries, key=lambda one: (one.state, one.case_id)):
            writer.writerow([getattr(entry, column) for column in _COLUMNS])
