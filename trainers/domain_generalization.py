"""Task 2: learn from sources without COVID-19, to hold on scans with it.

    python trainers/domain_generalization.py --recipe task2-lung --profile demo \\
        --generalization.name gin-ipa --out runs/task2-lung/gin-ipa
    accelerate launch trainers/domain_generalization.py ...          (several GPUs)

Refuses labelled scans of COVID-19, and patients of the test parts. Stop it and add --resume: it
goes on bit for bit as if it had not been stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from covidseg.engine.checkpoint import last_checkpoint
from covidseg.engine.distributed import start_processes
from covidseg.engine.loop import Result, refuse_resuming, train
from covidseg.engine.segmentation import (
    cached_cases,
    new_network,
    planned,
    planned_as_before,
    with_precision,
)
from covidseg.engine.validation import DiceValidation
from covidseg.generalization.build import (
    build_method,
    check,
    completed,
    generalising_stream,
    watched_patches,
)
from covidseg.generalization.config import GeneralizationRecipe
from covidseg.generalization.sources import Learnt, read_sources, require_start_without_covid
from covidseg.trainers.options import parse, run_main


def run(recipe: GeneralizationRecipe, out: Path, *, resume: bool = False) -> Result:
    """Train as the recipe says, and leave the run's folder ``out`` behind."""
    recipe = with_precision(recipe)
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    # A run that has begun was asked then, and its first weights may be gone by now.
    if last_checkpoint(out) is None:
        require_start_without_covid(recipe.train.start)
    learnt = _learnt(recipe)
    targets = check(recipe, learnt.targets)
    with accelerator.main_process_first():
        progress = accelerator.is_main_process
        recipe = completed(planned(recipe, learnt.cases, targets, progress=progress))
        cases = cached_cases(recipe, learnt.cases, progress=progress)
    return train(
        build_method(recipe, new_network(recipe, run=out)),
        generalising_stream(recipe, cases, learnt.provenance),
        recipe,
        out,
        accelerator=accelerator,
        validation=DiceValidation(watched_patches(recipe, cases), recipe.data.labels),
        resume=resume,
    )


def refuse_another(recipe: GeneralizationRecipe, out: Path) -> None:
    """Raise ConfigError where `run` would refuse to go on with what has begun in ``out``; nothing
    is measured for it.
    """
    if last_checkpoint(out) is not None:
        own = completed(planned_as_before(with_precision(recipe), out))
        refuse_resuming(out, own, {"train": _learnt(recipe).provenance})


def _learnt(recipe: GeneralizationRecipe) -> Learnt:
    """What a recipe learns from, as files."""
    return read_sources(
        recipe.data.hub,
        [recipe.data.name, *recipe.sources.more],
        part=recipe.data.part,
        cases=recipe.data.cases,
        one_class=recipe.sources.one_class,
        tested=recipe.sources.tested,
        overlap=recipe.sources.overlap,
        without_covid=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    recipe, out, resume = parse(__doc__ or "", arguments, GeneralizationRecipe)
    run(recipe, out, resume=resume)


if __name__ == "__main__":
    run_main(main)
