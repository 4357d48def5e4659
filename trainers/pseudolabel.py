"""Learning from labelled and unlabelled scans: noisy student, Mean Teacher, UA-MT, CPS, BCP, ...

    python trainers/pseudolabel.py --recipe covid1920-rank01-hu --profile demo --data.fold 0 \\
        --out runs/covid1920/fold0
    accelerate launch --multi_gpu --num_processes 2 trainers/pseudolabel.py ...

`method.name` says which method; `noisy-student` trains a teacher first, or takes those that
--teacher names, and goes through rounds. Stop it and add --resume: it goes on where it was, at the
same step of a training or the same scan of the pool.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from covidseg.core.errors import ConfigError
from covidseg.engine.distributed import start_processes
from covidseg.engine.loop import Result, refuse_other_run, refuse_resuming
from covidseg.engine.segmentation import (
    planned,
    planned_as_before,
    training_part,
    with_precision,
)
from covidseg.pseudolabel.pool import few_labels, gather
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.pseudolabel.rounds import (
    ROUNDS,
    cached,
    cached_pool,
    fine_tuning_of,
    fit,
    run_rounds,
    student_of,
    taught_by_evaluation,
    with_teachers_grid,
)
from covidseg.trainers.options import parsed, run_main, trainer_parser


def run(
    recipe: PseudolabelRecipe,
    out: Path,
    *,
    teachers: Sequence[Path] = (),
    resume: bool = False,
) -> Result:
    """Train as the recipe says, and leave the run's folder ``out`` behind."""
    recipe.check()
    name = recipe.method.name
    if teachers and name != "noisy-student":
        raise ConfigError(
            f"--teacher is given, and method.name is {name}",
            remedy="set --method.name noisy-student, or leave --teacher out",
        )
    if not resume and any((out / place).exists() for place in ("manifest.json", ROUNDS)):
        raise ConfigError(
            "holds a run already",
            path=out,
            remedy="add --resume to go on with it, or choose another folder",
        )
    recipe = with_precision(recipe)
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    main = accelerator.is_main_process
    part = training_part(recipe.data)
    rows, rest = few_labels(part.rows, recipe.unlabelled.labelled_cases, recipe.seed)
    labelled = dataclasses.replace(part, rows=rows)
    for told in taught_by_evaluation(recipe, teachers):
        if main:
            print(f"note: {told}", flush=True)
    recipe = with_teachers_grid(recipe, teachers)
    with accelerator.main_process_first():
        recipe = planned(recipe, labelled.cases, part.targets, progress=main)
        pool = None
        if name != "supervised":
            pool = gather(
                recipe,
                rows,
                out,
                more=rest,
                phantom=part.phantom,
                accept=functools.partial(_refuse_another_pool, recipe, out),
                progress=main,
            )
    if pool is not None and name == "noisy-student":
        return run_rounds(recipe, labelled, pool, out, accelerator, teachers=teachers)
    unlabelled = [] if pool is None else cached_pool(recipe, pool.scans, accelerator)
    provenance = dict(labelled.provenance)
    if pool is not None:
        provenance["pool"] = pool.provenance
    cases = cached(recipe, labelled.cases, accelerator)
    return fit(recipe, cases, unlabelled, provenance, out, accelerator)


def refuse_another(recipe: PseudolabelRecipe, out: Path) -> None:
    """Raise ConfigError where `run` would refuse the recipe, or to go on by it with what has begun
    in ``out``; no scan is read for it.
    """
    recipe.check()
    part = training_part(recipe.data)
    rows, _ = few_labels(part.rows, recipe.unlabelled.labelled_cases, recipe.seed)
    known = {"labelled": dataclasses.replace(part, rows=rows).provenance}
    recipe = with_precision(recipe)
    if recipe.method.name != "noisy-student":
        refuse_resuming(out, planned_as_before(recipe, out), known)
        return
    for number in range(1, recipe.rounds.count + 1):
        for own, run in _of_round(recipe, out, number):
            refuse_other_run(run, planned_as_before(own, run), known)


def _of_round(
    recipe: PseudolabelRecipe, out: Path, number: int
) -> list[tuple[PseudolabelRecipe, Path]]:
    """The student's training in a round of a run in ``out``, and its fine-tuning if there is any;
    the folder of each.
    """
    final = out if number == recipe.rounds.count else None
    place = (recipe, out / ROUNDS / str(number), number, final)
    return [
        student_of(*place),
        *([fine_tuning_of(*place)] if recipe.rounds.fine_tune_epochs else []),
    ]


def _refuse_another_pool(
    recipe: PseudolabelRecipe, out: Path, provenance: Mapping[str, Any]
) -> None:
    """Raise ConfigError where a run in ``out`` began to learn with another pool."""
    if recipe.method.name != "noisy-student":
        refuse_other_run(out, recipe, {"unlabelled": {"pool": provenance}})
        return
    for number in range(1, recipe.rounds.count + 1):
        own, run = _of_round(recipe, out, number)[0]
        refuse_other_run(run, own, {"pseudo": {"pseudo_labels": {"pool": provenance}}})


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = trainer_parser(__doc__ or "")
    parser.add_argument(
        "--teacher", nargs="+", type=Path, default=[], metavar="RUN",
        help="trained runs that label the first round's pool together",
    )  # fmt: skip
    options, recipe = parsed(parser, arguments, PseudolabelRecipe)
    run(recipe, options.out, teachers=options.teacher, resume=options.resume)


if __name__ == "__main__":
    run_main(main)
