"""Supervised training of one network on a part of a split.

    python trainers/supervised.py --recipe task1-infection-3d --profile demo --data.fold 0 \\
        --out runs/task1-infection-3d/fold0
    accelerate launch trainers/supervised.py ...          (several GPUs)

Stop it and add --resume: it goes on bit for bit as if it had not been stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from covidseg.engine.checkpoint import last_checkpoint
from covidseg.engine.distributed import start_processes
from covidseg.engine.loop import Result, refuse_resuming, train
from covidseg.engine.losses import build_loss
from covidseg.engine.method import Supervised
from covidseg.engine.segmentation import (
    FixedPatches,
    SegmentationRecipe,
    cached_cases,
    new_network,
    planned,
    planned_as_before,
    training_part,
    training_stream,
    with_precision,
)
from covidseg.engine.task_data import Part
from covidseg.engine.validation import DiceValidation
from covidseg.trainers.options import parse, run_main


def run(recipe: SegmentationRecipe, out: Path, *, resume: bool = False) -> Result:
    """Train as the recipe says, and leave the run's folder ``out`` behind."""
    return learn(recipe, training_part(recipe.data), out, resume=resume)


def refuse_another(recipe: SegmentationRecipe, out: Path) -> None:
    """Raise ConfigError where `run` would refuse to go on with what has begun in ``out``; nothing
    is measured for it.
    """
    if last_checkpoint(out) is not None:
        own = planned_as_before(with_precision(recipe), out)
        refuse_resuming(out, own, {"train": training_part(recipe.data).provenance})


def learn(recipe: SegmentationRecipe, part: Part, out: Path, *, resume: bool = False) -> Result:
    """Train as the recipe says on a part, whatever its ``data`` section says."""
    recipe = with_precision(recipe)
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    with accelerator.main_process_first():
        progress = accelerator.is_main_process
        recipe = planned(recipe, part.cases, part.targets, progress=progress)
        cases = cached_cases(recipe, part.cases, progress=progress)
    stream = training_stream(recipe, cases, part.provenance)
    method = Supervised(new_network(recipe, run=out), build_loss(recipe.loss))
    watched = DiceValidation(FixedPatches(recipe, cases), recipe.data.labels)
    return train(
        method, stream, recipe, out, accelerator=accelerator, validation=watched, resume=resume
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    recipe, out, resume = parse(__doc__ or "", arguments, SegmentationRecipe)
    run(recipe, out, resume=resume)


if __name__ == "__main__":
    run_main(main)
