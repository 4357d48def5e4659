"""Supervised training on phantoms, for weights that real scans are then learnt from.

    python trainers/phantoms.py --recipe semiseg-phantoms --profile cpu --out runs/start
    python trainers/supervised.py --recipe semiseg-2d --train.start runs/start --out runs/real
    accelerate launch trainers/phantoms.py ...          (several GPUs)

Any recipe of `trainers/supervised.py` will do: phantoms of the data sets of its configuration are
drawn, every case by several seeds, and all that have labels are learnt from, whatever part of a
split their names belong to; no real scan is. Stop it and add --resume: it goes on bit for bit as if
it had not been stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from covidseg.core.errors import ConfigError
from covidseg.engine.config import FREE
from covidseg.engine.distributed import start_processes
from covidseg.engine.loop import Result
from covidseg.engine.segmentation import SegmentationRecipe, with_precision
from covidseg.engine.task_data import Part, Row, part_names, read_part
from covidseg.registry.hub import build_hub
from covidseg.registry.phantom.generate import write_phantoms
from covidseg.splits.tasks import Subtask, configuration
from covidseg.trainers import supervised
from covidseg.trainers.options import parse, run_main


@dataclass(frozen=True)
class PhantomsConfig:
    """The phantoms that are learnt from.

    Parameters
    ----------
    seeds
        How many times every case is drawn: by the seeds 1, 2, ... (The demonstrations have seed 0,
        so that they are never tested on what was learnt from.)
    size
        `tiny`, `small` or `full`, as `covidseg phantom` has them.
    folder
        Where they are drawn, and kept for the next time.
    """

    seeds: int = 6
    size: str = "small"
    folder: str = field(default="data/phantoms", metadata=FREE)


@dataclass(frozen=True)
class PhantomsRecipe(SegmentationRecipe):
    """A supervised recipe that learns from phantoms instead of its configuration's cases."""

    phantoms: PhantomsConfig = field(default_factory=PhantomsConfig)


def run(recipe: PhantomsRecipe, out: Path, *, resume: bool = False) -> Result:
    """Draw the phantoms, train on them, and leave the run's folder ``out`` behind."""
    recipe = with_precision(recipe)
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    with accelerator.main_process_first():
        part = draw(recipe, progress=accelerator.is_main_process)
    return supervised.learn(recipe, part, out, resume=resume)


def draw(recipe: PhantomsRecipe, *, progress: bool = True) -> Part:
    """All labelled phantoms of a recipe's configuration, drawn where they are not there yet.

    Case IDs say what tells them apart, part and seed: `test-12@3`.

    Raises
    ------
    ConfigError
        No such configuration or size, fewer than one seed, or labels that mean several things.
    StorageError
        The folder holds something else, or the disk refuses.
    """
    from filelock import FileLock

    settings, name = recipe.phantoms, recipe.data.name
    if settings.seeds < 1:
        raise ConfigError(f"phantoms.seeds is {settings.seeds}", expected="at least 1")
    subtask, _ = configuration(name.removesuffix("-clean"))
    parts = labelled_parts(subtask)
    rows: list[Row] = []
    targets: dict[int, str] = {}
    for seed in range(1, settings.seeds + 1):
        folder = Path(settings.folder) / f"{settings.size}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        # Trainings side by side want the same phantoms at once.
        with FileLock(folder / ".lock"):
            hub = _repository(folder, settings.size, seed, subtask, progress)
        drawn = part_names(hub, name)
        parts = [part for part in parts if part in drawn]
        for part in parts:
            read = read_part(hub, name, part)
            for row in read.rows:
                if row.case.label is not None:
                    name_here = f"{part}-{row.case.case_id}@{seed}"
                    case = dataclasses.replace(row.case, case_id=name_here)
                    rows.append(dataclasses.replace(row, case=case))
            targets = targets or read.targets
    return Part(name, "+".join(parts), rows, targets, phantom=True)


def labelled_parts(subtask: Subtask) -> list[str]:
    """The parts whose annotations hold all that a subtask predicts; a pool is named too, though
    none of its cases has one.

    Raises
    ------
    ConfigError
        The subtask calls different things by one name, as Tasks 2 and 3 do with lesions.
    """
    whole = set(subtask.targets.values())
    parts = {
        part: [a.meaning for a in annotations]
        for part, annotations in subtask.parts.items()
        if all(set(a.meaning.values()) == whole for a in annotations)
    }
    meanings = [meaning for found in parts.values() for meaning in found]
    if any(meaning != meanings[0] for meaning in meanings):
        names = sorted({name for meaning in meanings for name in meaning})
        raise ConfigError(
            f"{subtask.name} calls {' and '.join(names)} by one name",
            expected="a configuration whose labels mean one thing, such as task1-infection-fold0",
        )
    return list(parts)


def _repository(folder: Path, size: str, seed: int, subtask: Subtask, progress: bool) -> Path:
    datasets = sorted({a.dataset for listed in subtask.parts.values() for a in listed})
    raw, hub = folder / "raw", folder / "hub"
    written = write_phantoms(
        raw, size, datasets=datasets, seed=seed, unlabelled=False, progress=progress
    )
    for fault in written.faults.values():
        raise fault
    # Of whatever data sets have been drawn there: for other configurations, too.
    build_hub(raw, hub, progress=progress)
    return hub


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    recipe, out, resume = parse(__doc__ or "", arguments, PhantomsRecipe)
    run(recipe, out, resume=resume)


if __name__ == "__main__":
    run_main(main)
