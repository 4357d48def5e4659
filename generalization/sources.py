"""The sources a network learns from: put together only where that is what the recipe says."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from covidseg.core.errors import ConfigError, SplitError
from covidseg.engine import manifest
from covidseg.engine.cache import TrainingCase
from covidseg.engine.task_data import Part, Row, part_names, read_part
from covidseg.registry.datasets import DATASETS
from covidseg.splits import tasks
from covidseg.splits.load import CLEAN_SUFFIX

# Datasets of scans from before the pandemic or of other diseases: what Task 2 may learn from.
# Whatever is not here is taken to show COVID-19.
WITHOUT_COVID = ("structseg", "nsclc", "msd")
_NAMED = 5


@dataclass(frozen=True)
class Learnt:
    """Training cases of all sources, what their labels mean, and what the manifest says of them."""

    cases: list[TrainingCase]
    targets: dict[int, str]
    provenance: dict[str, Any]


def read_sources(
    hub: str | Path,
    configurations: Sequence[str],
    *,
    part: str = "train",
    cases: Sequence[str] = (),
    one_class: bool = False,
    tested: Sequence[str] = (),
    overlap: Literal["refuse", "leave_out"] = "refuse",
    without_covid: bool,
) -> Learnt:
    """The training cases of several configurations of a dataset repository; no volume is read.

    Parameters
    ----------
    hub
        Folder of the dataset repository.
    configurations
        The sources, such as ``task2-structseg-lung``.
    part
        The part of each that is learnt from.
    cases
        The cases of the first source's part that are learnt from; all of them where empty.
    one_class, tested, overlap
        See `covidseg.generalization.config.SourcesConfig`.
    without_covid
        Hold Task 2's rule; see `require_without_covid`.

    Raises
    ------
    ConfigError
        A source is missing in the repository, lacks a case of ``cases``, is named twice, or labels
        something else.
    SplitError
        A labelled scan with COVID-19 is among them, a patient stands in a test part, or one scan
        is there twice with different labels.
    """
    if repeated := sorted({name for name in configurations if configurations.count(name) > 1}):
        raise ConfigError(f"the source {repeated[0]} is named twice", expected="each source once")
    for name in configurations:
        source_parts(hub, name)
    parts = [read_part(hub, name, part) for name in configurations]
    if cases:
        parts[0] = parts[0].chosen(cases)
    if without_covid:
        require_without_covid(case for source in parts for case in source.cases)
    _require_one_meaning(parts, one_class)
    _require_each_scan_once(parts)
    held_out = _patients_of_tests(hub, [*configurations, *tested])
    kept, removed = [], []
    for source in parts:
        for row in source.rows:
            held = held_out.get((row.dataset, row.patient_id))
            if held is None:
                kept.append((source, row))
            else:
                removed.append((source, row, held))
    if removed and overlap == "refuse":
        source, row, held = removed[0]
        raise SplitError(
            f"patient {row.patient_id} of {row.dataset} is learnt from in {source.configuration} "
            f"and tested in {held}; {len(removed)} such training cases",
            expected="no patient on both sides",
            remedy="--sources.overlap leave_out learns without those cases; the test parts stay",
        )
    if not kept:
        raise SplitError("every training case is of a patient of a test part")
    return Learnt(
        [row.case for _, row in kept], parts[0].targets, _provenance(parts, kept, removed, part)
    )


def source_parts(hub: str | Path, name: str) -> list[str]:
    """The parts that a source has; ConfigError, with the way to get it, where it is not there."""
    tasks.configuration(name.removesuffix(CLEAN_SUFFIX))
    try:
        return part_names(hub, name)
    except ConfigError as fault:
        raise _missing(hub, name) from fault


def _missing(hub: str | Path, name: str) -> ConfigError:
    """Which dataset a configuration lacks, where it was looked for, and how to get it."""
    subtask, _ = tasks.configuration(name.removesuffix(CLEAN_SUFFIX))
    needed = dict.fromkeys(a.dataset for a in subtask.parts["train"])
    titles = ", ".join(f"{DATASETS[key].title} ({key})" for key in needed)
    first = next(iter(needed))
    return ConfigError(
        f"the source {name} is not in the repository: it is made of {titles}",
        path=hub,
        remedy=f"`covidseg datasets {first}` says where to get it; then `covidseg build RAW_FOLDER "
        f"--out {hub}`, which says why a configuration is left out",
    )


def _require_one_meaning(parts: Sequence[Part], one_class: bool) -> None:
    first = parts[0]
    for other in parts[1:]:
        if other.targets != first.targets:
            raise ConfigError(
                f"{other.configuration} labels {_names(other.targets.values())}, "
                f"{first.configuration} {_names(first.targets.values())}",
                expected="sources that label the same",
                remedy="learn from them separately",
            )
    meanings = {part.configuration: _labels_of(part.configuration) for part in parts}
    if len({frozenset(labels) for labels in meanings.values()}) > 1 and not one_class:
        listed = "; ".join(f"{name}: {_names(labels)}" for name, labels in meanings.items())
        raise ConfigError(
            f"the sources label different things ({listed})",
            expected="sources that label the same",
            remedy="--sources.one_class true learns them as one class "
            f"({_names(first.targets.values())})",
        )


def _labels_of(configuration: str) -> list[str]:
    """What a configuration's training part labels, in the annotation's own words."""
    subtask, _ = tasks.configuration(configuration.removesuffix(CLEAN_SUFFIX))
    return sorted({label for a in subtask.parts["train"] for label in a.meaning})


def _require_each_scan_once(parts: Sequence[Part]) -> None:
    seen: dict[str, str] = {}
    for part in parts:
        for row in part.rows:
            before = seen.setdefault(row.case.case_id, part.configuration)
            if before != part.configuration:
                raise SplitError(
                    f"scan {row.case.case_id} is in {before} and in {part.configuration}, with "
                    "other labels in each: what one labels would be background in the other",
                    expected="each scan once",
                    remedy="learn from one of the two",
                )


def _patients_of_tests(hub: str | Path, configurations: Iterable[str]) -> dict[tuple, str]:
    """Every patient of a test or validation part, and which part that is."""
    held: dict[tuple, str] = {}
    for name in dict.fromkeys(configurations):
        for part in source_parts(hub, name):
            if part.startswith(("test", "validation")):
                for row in read_part(hub, name, part).rows:
                    held.setdefault((row.dataset, row.patient_id), f"{part} of {name}")
    return held


def _provenance(
    parts: Sequence[Part],
    kept: Sequence[tuple[Part, Row]],
    removed: Sequence[tuple[Part, Row, str]],
    part: str,
) -> dict[str, Any]:
    whole = {
        source.configuration: dataclasses.replace(
            source, rows=[row for of, row in kept if of is source]
        )
        for source in parts
    }
    if len(whole) == 1 and not removed:
        return parts[0].provenance
    digests = "".join(source.sha256 for source in whole.values())
    return {
        "configuration": " + ".join(whole),
        "part": part,
        "sha256": hashlib.sha256(digests.encode()).hexdigest(),
        "phantom": any(source.phantom for source in parts),
        "labels": {name: _labels_of(name) for name in whole},
        "cases": {row.case.case_id: row.content for _, row in kept},
        "left_out": {row.case.case_id: f"patient of {held}" for _, row, held in removed},
    }


def require_without_covid(cases: Iterable[TrainingCase]) -> None:
    """Hold Task 2's rule: nothing is learnt from a labelled scan that shows COVID-19.

    Raises
    ------
    SplitError
        A case is of a dataset that is not known to be without COVID-19.
    """
    found = [case for case in cases if case.source not in WITHOUT_COVID]
    if found:
        sources = _names(dict.fromkeys(case.source for case in found))
        raise SplitError(
            f"{len(found)} training cases are labelled scans with COVID-19, of {sources}: "
            f"{_names(case.case_id for case in found)}",
            expected="Task 2 learns from scans without COVID-19 alone: " + ", ".join(WITHOUT_COVID),
            remedy="train on the part `train` of a configuration of Task 2; Tasks 1 and 3 learn "
            "from COVID-19 scans",
        )


def require_start_without_covid(start: str | Path | None) -> None:
    """Hold Task 2's rule for the weights that training starts from, and those that they came from.

    Networks that learnt from phantoms alone (`trainers/phantoms.py`) have seen no patient's scan.

    Raises
    ------
    SplitError
        A run learnt from labelled scans that may show COVID-19, or says nothing of what it learnt.
    """
    if start is None:
        return
    for run in manifest.learnt_by(Path(start)):
        if run["data"] is None:
            raise SplitError(
                "does not say what it learnt from",
                path=run["run"],
                expected="a run with its manifest.json, to hold Task 2's rule",
                remedy="start from random weights: --train.start null",
            )
        if not run["phantoms"]:
            for data in run["data"]:
                _refuse_covid_in(run["run"], data)


def _refuse_covid_in(start: str | Path, data: Mapping[str, Any]) -> None:
    for name in filter(None, data.get("configuration", "").split(" + ")):
        subtask, _ = tasks.configuration(name.removesuffix(CLEAN_SUFFIX))
        part = data.get("part", "train")
        learnt = {a.dataset for a in subtask.parts.get(part, ())}
        if showing := sorted(learnt - set(WITHOUT_COVID)):
            raise SplitError(
                f"learnt from labelled scans with COVID-19: {part} of {name}, of "
                + _names(showing),
                path=start,
                expected="Task 2 learns from scans without COVID-19 alone, from its first weights "
                "on: " + ", ".join(WITHOUT_COVID),
                remedy="start from another run, or from random weights: --train.start null",
            )


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
