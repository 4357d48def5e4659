"""Noisy student: teachers label the pool, a student learns from it, and teaches the next round.

    run_rounds(recipe, labelled, pool, run, accelerator)

leaves in the run's folder what every run has (so it predicts like any other), and beside it::

    rounds/teacher1/                 run of a teacher, where none was given
    rounds/1/pool/                   pseudo-labels, their table and a figure
    rounds/1/student/                run of the student
    rounds/1/fine-tuned/             the same, fine-tuned on the manual labels; the last one is the
                                     run itself

Called again, it goes on where it was: at the same scan of the pool, at the same step of a training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidseg.core.errors import ConfigError
from covidseg.core.lock import alone_in
from covidseg.core.parallel import default_workers
from covidseg.engine import manifest
from covidseg.engine.cache import CachedCase, TrainingCase, prepare_readable
from covidseg.engine.checkpoint import last_checkpoint
from covidseg.engine.loop import Result, refuse_other_run, train
from covidseg.engine.runs import read_run
from covidseg.engine.seeds import derived_seed
from covidseg.engine.segmentation import (
    FixedPatches,
    GridConfig,
    SegmentationRecipe,
    cached_cases,
    new_network,
)
from covidseg.engine.task_data import Part
from covidseg.engine.validation import DiceValidation
from covidseg.pseudolabel.build import new_method, training_streams
from covidseg.pseudolabel.config import MethodName
from covidseg.pseudolabel.deny import evaluation_rows
from covidseg.pseudolabel.figure import draw_kept
from covidseg.pseudolabel.pool import Pool, PoolScan
from covidseg.pseudolabel.prediction import (
    PseudoLabels,
    free_claims,
    open_teachers,
    predict_pool,
    write_table,
)
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.splits.audit import side

if TYPE_CHECKING:
    from accelerate import Accelerator

ROUNDS = "rounds"
_TEST = side("test")
# Spacings that differ by less than this share are one.
_SAME_SPACING = 0.01


def run_rounds(
    recipe: PseudolabelRecipe,
    labelled: Part,
    pool: Pool,
    out: Path,
    accelerator: Accelerator,
    *,
    teachers: Sequence[Path] = (),
) -> Result:
    """All rounds of a planned recipe; ``teachers`` are runs that label the first round's pool."""
    recipe.rounds.check(recipe.train.epochs)
    rounds = out / ROUNDS
    teachers = tuple(teachers)
    if not teachers:
        teachers = tuple(
            train_teacher(recipe, labelled, rounds / f"teacher{number}", accelerator, number)
            for number in range(1, recipe.rounds.teachers + 1)
        )
    result = None
    for number in range(1, recipe.rounds.count + 1):
        folder = rounds / str(number)
        final = out if number == recipe.rounds.count else None
        student = student_of(recipe, folder, number, final)
        pseudo = label_pool(recipe, teachers, pool, folder / "pool", accelerator, [student])
        result = train_student(
            recipe,
            labelled,
            pseudo,
            folder,
            accelerator,
            number,
            start=teachers[0] if recipe.rounds.from_teacher else None,
            final=final,
        )
        teachers = (result.run_dir,)
    assert result is not None
    return result


def train_teacher(
    recipe: PseudolabelRecipe, labelled: Part, run: Path, accelerator: Accelerator, number: int = 1
) -> Path:
    """Train a teacher on the labelled scans alone; the first one is the supervised baseline."""
    own = _phase(recipe, "supervised")
    if number > 1:
        own = dataclasses.replace(own, seed=derived_seed(recipe.seed, 100 + number))
    cases = cached(own, labelled.cases, accelerator)
    fit(own, cases, [], labelled.provenance, run, accelerator)
    return run


def label_pool(
    recipe: PseudolabelRecipe,
    teachers: Sequence[Path],
    pool: Pool,
    folder: Path,
    accelerator: Accelerator,
    students: Sequence[tuple[PseudolabelRecipe, Path]] = (),
) -> PseudoLabels:
    """Pseudo-labels of the pool in ``folder``, shared out over the processes.

    ``students`` are those that learn from them, as `student_of` gives them. What one of them has
    begun to learn from stays as it is, also where the teachers' `window` says something else now.

    Raises
    ------
    ConfigError
        A teacher is of another label set or spacing than the recipe; a student has begun to learn
        from other pseudo-labels or another pool, which stay as they are; another process is at the
        folder; none is kept.
    """
    refuse_other_teachers(recipe, teachers)
    windows = _windows_of(students)
    opened = open_teachers(teachers, device=accelerator.device, windows=windows)
    for own, run in students:
        made = {"key": opened.key, "pool": pool.provenance}
        refuse_other_run(run, own, {"pseudo": {"pseudo_labels": made}})
    main = accelerator.is_main_process
    with contextlib.ExitStack() as held:
        if main:
            held.enter_context(alone_in(folder, "labelled"))
            free_claims(folder)
        accelerator.wait_for_everyone()
        config = recipe.rounds.filter
        predict_pool(opened, pool.scans, folder, config, rank=accelerator.process_index)
        accelerator.wait_for_everyone()
        found = write_table(folder, pool.scans, opened.labels, phantom=pool.phantom)
        if main:
            free_claims(folder)
            draw_kept(folder, pool.scans, phantom=pool.phantom)
        accelerator.wait_for_everyone()
    provenance = {
        "teachers": [str(run) for run in teachers],
        "key": opened.key,
        "windows": opened.windows,
        "pool": pool.provenance,
        **found.provenance,
    }
    return PseudoLabels(found.cases, provenance)


def _windows_of(students: Sequence[tuple[PseudolabelRecipe, Path]]) -> Any:
    """How the teachers labelled for a student that has begun; None where none has."""
    for _, run in students:
        if last_checkpoint(run) is not None:
            learnt = (manifest.read(run) or {}).get("data", {}).get("pseudo", {})
            return learnt.get("pseudo_labels", {}).get("windows")
    return None


def student_of(
    recipe: PseudolabelRecipe, folder: Path, number: int = 1, final: Path | None = None
) -> tuple[PseudolabelRecipe, Path]:
    """A round's training on pseudo-labels, before it is fine-tuned, and the folder of its run."""
    tuned = recipe.rounds.fine_tune_epochs
    own = _phase(recipe, "noisy-student", epochs=recipe.train.epochs - tuned)
    run = final if final is not None and not tuned else folder / "student"
    return dataclasses.replace(own, seed=derived_seed(recipe.seed, 200 + number)), run


def fine_tuning_of(
    recipe: PseudolabelRecipe, folder: Path, number: int = 1, final: Path | None = None
) -> tuple[PseudolabelRecipe, Path]:
    """The training on the manual labels that ends a round which has one, and its run's folder."""
    own = _phase(recipe, "supervised", epochs=recipe.rounds.fine_tune_epochs)
    own = dataclasses.replace(
        own,
        seed=derived_seed(recipe.seed, 300 + number),
        optim=dataclasses.replace(
            own.optim, lr=own.optim.lr * recipe.rounds.fine_tune_lr, warmup_steps=0
        ),
        patch=dataclasses.replace(
            own.patch, batch_size=recipe.rounds.fine_tune_batch_size or own.patch.batch_size
        ),
    )
    return own, final or folder / "fine-tuned"


def train_student(
    recipe: PseudolabelRecipe,
    labelled: Part,
    pseudo: PseudoLabels,
    folder: Path,
    accelerator: Accelerator,
    number: int = 1,
    *,
    start: Path | None = None,
    final: Path | None = None,
) -> Result:
    """Train a student and fine-tune it on the manual labels.

    ``number`` is that of the round, and decides the first weights unless ``start`` is a run that
    has them. The last of the two runs is in
    ``final`` instead of ``folder``, if that is given.
    """
    own, run = student_of(recipe, folder, number, final)
    cases = cached(own, labelled.cases, accelerator)
    pseudo_cases = cached(own, pseudo.cases, accelerator)
    provenance = {**labelled.provenance, "pseudo_labels": pseudo.provenance}
    result = fit(own, cases, pseudo_cases, provenance, run, accelerator, start=start)
    if not recipe.rounds.fine_tune_epochs:
        return result
    own, run = fine_tuning_of(recipe, folder, number, final)
    return fit(own, cases, [], provenance, run, accelerator, start=result.run_dir)


def fit(
    recipe: PseudolabelRecipe,
    labelled: Sequence[CachedCase],
    unlabelled: Sequence[CachedCase],
    provenance: Mapping[str, Any],
    run: Path,
    accelerator: Accelerator,
    *,
    start: Path | None = None,
) -> Result:
    """Train the method of a planned recipe, from the weights of the run ``start`` if there is one.

    Goes on from the run's last checkpoint.
    """

    if start is not None:
        recipe = dataclasses.replace(
            recipe, train=dataclasses.replace(recipe.train, start=str(start))
        )
    watched = DiceValidation(FixedPatches(recipe, labelled), recipe.data.labels)
    return train(
        new_method(recipe, functools.partial(new_network, recipe, run=run)),
        training_streams(recipe, labelled, unlabelled, provenance),
        recipe,
        run,
        accelerator=accelerator,
        validation=watched,
        resume=True,
    )


def _phase(
    recipe: PseudolabelRecipe, method: MethodName, epochs: int | None = None
) -> PseudolabelRecipe:
    return dataclasses.replace(
        recipe,
        method=dataclasses.replace(recipe.method, name=method),
        train=dataclasses.replace(recipe.train, epochs=epochs or recipe.train.epochs),
    )


def cached(
    recipe: PseudolabelRecipe, cases: Sequence[TrainingCase], accelerator: Accelerator
) -> list[CachedCase]:
    """Cases in the training cache, built by all processes together; `CovidsegError` where one
    cannot be read.
    """
    share_out(recipe, cases, accelerator)
    return cached_cases(recipe, cases, progress=False)


def cached_pool(
    recipe: PseudolabelRecipe, scans: Sequence[PoolScan], accelerator: Accelerator
) -> list[CachedCase]:
    """The pool in the training cache, without the scans that cannot be preprocessed."""
    cases = [scan.case for scan in scans]
    share_out(recipe, cases, accelerator)
    prepared, faults = prepare_readable(
        cases, recipe.grid.preprocessing(), Path(recipe.data.cache), progress=False
    )
    if accelerator.is_main_process:
        for case_id, fault in faults.items():
            print(f"left out of the pool: {case_id}: {fault}")
    return prepared


def share_out(
    recipe: PseudolabelRecipe, cases: Sequence[TrainingCase], accelerator: Accelerator
) -> None:
    """Let every process bring its share of the cases into the training cache."""
    rank, processes = accelerator.process_index, accelerator.num_processes
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    prepare_readable(
        cases[rank::processes],
        recipe.grid.preprocessing(),
        Path(recipe.data.cache),
        workers=max(1, default_workers() // here),
        progress=rank == 0,
    )
    accelerator.wait_for_everyone()


# Teachers ----------------------------------------------------------------------------------------


def with_teachers_grid(recipe: PseudolabelRecipe, teachers: Sequence[Path]) -> PseudolabelRecipe:
    """The recipe on the teachers' grid where it leaves its own open."""
    if not teachers or recipe.grid.spacing_mm or recipe.grid.plane_size:
        return recipe
    first: SegmentationRecipe = read_run(teachers[0])
    spacing = first.grid.spacing_mm
    if spacing is not None and spacing[0] is None and recipe.network.dimensions == 3:
        return recipe  # the teacher is of 2D, and says nothing of the planes
    own = dataclasses.replace(recipe.grid, spacing_mm=spacing, plane_size=first.grid.plane_size)
    return dataclasses.replace(recipe, grid=own)


def taught_by_evaluation(recipe: PseudolabelRecipe, teachers: Sequence[Path]) -> list[str]:
    """What is to be said of teachers that learnt the labels of scans the student is measured on.

    Those of a fold's validation part make its scores optimistic, and that is said.

    Raises
    ------
    ConfigError
        A teacher learnt the labels of a test part.
    """
    if not teachers:
        return []
    measured = evaluation_rows(recipe.data.hub, [recipe.data.name])
    said = []
    for run in teachers:
        known = manifest.read(run) or {}
        learnt = {
            content for data in known.get("data", {}).values()
            for content in data.get("cases", {}).values()
        }  # fmt: skip
        for part, rows in measured.items():
            same = [row.case.case_id for row in rows if row.content in learnt]
            if not same:
                continue
            words = f"learnt the labels of {len(same)} of the {len(rows)} scans of {part}"
            if side(part) == _TEST:
                raise ConfigError(
                    f"this teacher {words} of {recipe.data.name} ({same[0]})",
                    path=run,
                    expected="teachers that know nothing of the scans that measure their student",
                    remedy="give runs of the same fold, or leave --teacher out",
                )
            said.append(f"{run} {words}: the student's scores there are optimistic")
    return said


def refuse_other_teachers(recipe: PseudolabelRecipe, teachers: Sequence[Path]) -> None:
    """Raise ConfigError for a teacher that predicts something else, or on another grid."""
    for run in teachers:
        teacher: SegmentationRecipe = read_run(run)
        if teacher.data.labels != recipe.data.labels:
            raise ConfigError(
                f"this teacher predicts {', '.join(teacher.data.labels)}",
                path=run,
                expected=", ".join(recipe.data.labels),
                remedy="give a run that was trained for the recipe's labels",
            )
        if not _same_grid(recipe, teacher.grid):
            raise ConfigError(
                f"this teacher predicts at {_grid_words(teacher.grid)}",
                path=run,
                expected=_grid_words(recipe.grid),
                remedy="give a run of the recipe's grid, or leave grid.spacing_mm and "
                "grid.plane_size open, to take the teacher's",
            )


def _same_grid(recipe: PseudolabelRecipe, grid: GridConfig) -> bool:
    if recipe.grid.plane_size != grid.plane_size:
        return False
    own, other = recipe.grid.spacing_mm, grid.spacing_mm
    if own is None or other is None:
        return own == other
    return all(map(_same_step, own, other))


def _same_step(own: float | None, other: float | None) -> bool:
    if own is None or other is None:
        return True  # each scan's own steps are whatever the other takes
    return abs(own - other) <= _SAME_SPACING * own


def _grid_words(grid: GridConfig) -> str:
    if grid.plane_size is not None:
        return f"pictures of {grid.plane_size[0]} × {grid.plane_size[1]} pixels"
    if grid.spacing_mm is None:
        return "each scan's own spacing"
    steps = ["each scan's own" if step is None else f"{step:.3g}" for step in grid.spacing_mm]
    return " × ".join(steps) + " mm (z, y, x)"
