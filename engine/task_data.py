"""A part of a split as training cases, read from a dataset repository through `datasets`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covidseg.core.errors import ConfigError, LayoutError
from covidseg.engine.cache import TrainingCase
from covidseg.registry.cases import Intensity
from covidseg.splits.records import CaseRecord


@dataclass(frozen=True)
class Row:
    """A case of a part: what training and scoring want to know of it.

    ``record`` is what the audit for leaks compares.
    """

    case: TrainingCase
    dataset: str
    patient_id: str
    content: str
    record: CaseRecord


@dataclass(frozen=True)
class Part:
    """One part of a configuration.

    ``targets`` are the values of a prediction and their names; ``sha256`` is of the cases and their
    content, in order.
    """

    configuration: str
    name: str
    rows: list[Row]
    targets: dict[int, str]
    phantom: bool

    @property
    def cases(self) -> list[TrainingCase]:
        """The cases alone."""
        return [row.case for row in self.rows]

    def chosen(self, case_ids: Sequence[str]) -> Part:
        """The part's cases of these names, in their order here; `ConfigError` for any other."""
        known = {row.case.case_id: row for row in self.rows}
        if unknown := [name for name in case_ids if name not in known]:
            raise ConfigError(
                f"{self.configuration} has no case {unknown[0]!r} in its part {self.name}",
                expected="some of " + ", ".join(known),
            )
        return dataclasses.replace(self, rows=[known[name] for name in case_ids])

    @property
    def sha256(self) -> str:
        """Hash of the cases, their voxels and where these lie, in order, for a run's manifest."""
        listed = [[row.dataset, row.case.case_id, row.case.content] for row in self.rows]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    @property
    def provenance(self) -> dict[str, Any]:
        """What a run's manifest says of the data."""
        return {
            "configuration": self.configuration,
            "part": self.name,
            "sha256": self.sha256,
            "phantom": self.phantom,
            "cases": {row.case.case_id: row.content for row in self.rows},
        }


def configuration_names(hub: str | Path) -> tuple[str, ...]:
    """All configurations of a repository; `LayoutError` where ``hub`` is none."""
    _require_repository(hub)
    return _config_names(str(hub), _version(hub))


def part_names(hub: str | Path, configuration: str) -> list[str]:
    """The parts that a configuration has."""
    _require(hub, configuration)
    return list(_split_names(str(Path(hub)), configuration, _version(hub)))


def _version(hub: str | Path) -> tuple[int, int]:
    """Changes whenever the repository is written anew."""
    status = (Path(hub) / "README.md").stat()
    return status.st_mtime_ns, status.st_size


# Each of these reads the repository's whole card, which takes longer than all rows of a part.
@functools.lru_cache(512)
def _split_names(hub: str, configuration: str, version: tuple[int, int]) -> tuple[str, ...]:
    from datasets import get_dataset_split_names

    with _judged(hub):
        return tuple(get_dataset_split_names(hub, configuration))


@functools.lru_cache(8)
def _config_names(hub: str, version: tuple[int, int]) -> tuple[str, ...]:
    from datasets import get_dataset_config_names

    with _judged(hub):
        return tuple(get_dataset_config_names(hub))


def read_part(hub: str | Path, configuration: str, part: str) -> Part:
    """The cases of one part of a configuration, as files; no volume is read.

    Raises
    ------
    LayoutError
        ``hub`` is no dataset repository.
    ConfigError
        It has no such configuration or part.
    """
    from datasets import Nifti, disable_progress_bars, load_dataset

    names = part_names(hub, configuration)
    if part not in names:
        raise ConfigError(
            f"{configuration} has no part {part!r}", path=hub, expected="one of " + ", ".join(names)
        )
    disable_progress_bars()
    rows = load_dataset(str(Path(hub)), configuration, split=part)
    for column in ("image", "label"):
        if column in rows.column_names:
            rows = rows.cast_column(column, Nifti(decode=False))
    found = [_row(row) for row in rows]
    targets: dict[int, str] = {}
    if found and "target_names" in rows.column_names:
        targets = {entry["value"]: entry["name"] for entry in rows[0]["target_names"]}
    phantom = any(rows["phantom"]) if len(rows) else False
    return Part(configuration, part, found, targets, phantom)


def _row(row: dict[str, Any]) -> Row:
    window = row["intensity"]["window_hu"]
    intensity = Intensity(row["intensity"]["scale"], tuple(window) if window else None)
    label = row.get("label")
    content = f"{row['image_content_hash']}-{row.get('label_content_hash')}"
    # The hashes are of voxels; shape, place and scale of them are not in there.
    known = json.dumps([content, row["affine"], row["shape"], row["intensity"]])
    case = TrainingCase(
        case_id=row["case_id"],
        image=Path(row["image"]["path"]),
        label=Path(label["path"]) if label else None,
        intensity=intensity,
        values={entry["value"]: entry["target"] for entry in row.get("label_to_target") or ()},
        source=row["dataset"],
        content=hashlib.sha256(known.encode()).hexdigest(),
    )
    record = CaseRecord(
        row["dataset"],
        row["case_id"],
        row["patient_id"],
        row["cohort"],
        row["series_uid"],
        row["image_content_hash"],
    )
    return Row(case, row["dataset"], row["patient_id"], content, record)


def _require_repository(hub: str | Path) -> None:
    if not (Path(hub) / "README.md").is_file():
        raise LayoutError(
            "is no dataset repository",
            path=hub,
            remedy=f"build one: covidseg build RAW_FOLDER --out {hub}",
        )


@contextlib.contextmanager
def _judged(hub: str | Path) -> Iterator[None]:
    """Make what `datasets` finds wrong with a folder the project's own error."""
    try:
        yield
    # Of a README that is another project's, or damaged, it raises nearly anything.
    except Exception as fault:
        if isinstance(fault, OSError) and not isinstance(fault, FileNotFoundError):
            raise  # the system's refusal to read says nothing of what the folder is
        why = " ".join(str(fault).split())
        raise LayoutError(
            f"is no dataset repository ({type(fault).__name__}: {why[:200]})",
            path=hub,
            remedy="build one in a folder of its own: covidseg build RAW_FOLDER --out FOLDER",
        ) from fault


def _require(hub: str | Path, configuration: str) -> None:
    names = configuration_names(hub)
    if configuration not in names:
        import difflib

        near = difflib.get_close_matches(configuration, names, n=3)
        twice = re.fullmatch(r"(.+-fold\d+)-fold\d+", configuration)
        if twice and twice[1] in names:
            bare, fold = twice[1].rsplit("-fold", 1)
            raise ConfigError(
                f"data.configuration {twice[1]} names a fold already",
                expected=f"{bare}, and data.fold {fold}",
            )
        raise ConfigError(
            f"the repository has no configuration {configuration!r}",
            path=hub,
            expected="for instance " + ", ".join(near or names[:3]),
            remedy="a configuration is missing where its dataset was not found or is incomplete: "
            "covidseg build says which and why",
        )
