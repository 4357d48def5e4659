"""COVID-SemiSeg: what 1,600 unlabelled slices add to the 50 labelled ones.

    python trainers/semiseg.py --out runs/semiseg                      (the teachers)
    python trainers/semiseg_pseudolabel.py --teachers runs/semiseg --out runs/semiseg-pseudolabel

A student a fold goes on from its teacher's weights, and learns from the fold's labelled slices and
from the pool as that teacher labels it: teacher and student alike have seen nothing of the slices
that they are then measured on. Students train side by side. Prints the gain over the teachers,
slice by slice, with a patient-clustered interval; further steps alone may be a part of it, which
trainers/supervised.py with --train.start TEACHER shows. The student of all 50 slices is left in
`<out>/all`. What is done is kept: the same command goes on after an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from covidseg.core.errors import ConfigError
from covidseg.engine import manifest
from covidseg.engine.recipes import load_recipe
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.pseudolabel.rounds import ROUNDS
from covidseg.trainers.options import recipe_parser, refuse_fixed, run_main
from covidseg.trainers.semiseg import (
    FIXED,
    FOLDS,
    add_profile,
    chosen_profile,
    cross_validated,
    how_to_predict,
    picture,
    profile_words,
    run_name,
    summary,
)
from covidseg.trainers.side_by_side import Job, run_side_by_side

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--recipe", default="semiseg-pseudolabel", help="a YAML file, or its name")
    add_profile(parser)
    parser.add_argument("--hub", type=Path, default=Path("data/hub"), help="dataset repository")
    parser.add_argument(
        "--teachers", type=Path, default=Path("runs/semiseg"), help="what trainers/semiseg.py left"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/semiseg-pseudolabel"), help="folder of the runs"
    )
    options, overrides = parser.parse_known_args(arguments)
    refuse_fixed(overrides, FIXED)
    profile = chosen_profile(options.profile, options.recipe)
    print(f"profile {profile or 'of the recipe itself'}")

    def job(fold: int | None) -> Job:
        name = run_name(fold)
        place = ["--data.fold", "null" if fold is None else str(fold)]
        teacher = finished(options.teachers / name)
        words = [*overrides, *place, "--data.hub", str(options.hub)]
        recipe = load_recipe(options.recipe, profile, words, PseudolabelRecipe)
        run = options.out / name
        chosen = ["--recipe", options.recipe, *profile_words(profile), *words]
        trainer = ["-m", "covidseg.trainers.pseudolabel", "--resume", "--out", str(run)]
        return Job(name, [*trainer, "--teacher", str(teacher), *chosen], phases(recipe, run))

    run_side_by_side([job(fold) for fold in (None, *FOLDS)], options.out / "logs")
    teachers = cross_validated(
        options.teachers, options.hub, "teacher", options.out / "teachers.csv"
    )
    students = cross_validated(options.out, options.hub, options.recipe)
    print(f"Teachers: {summary(teachers)}")
    print(f"Students: {summary(students)}")
    print(gain(teachers, students))
    print(f"Per-slice scores: {options.out / 'scores.csv'}. Model of all: {options.out / 'all'}")
    print(how_to_predict(options.out))
    print(f"Best, median and worst slice: {picture(options.out, options.hub, students)}")


def finished(run: Path) -> Path:
    """A teacher's run.

    Raises
    ------
    ConfigError
        It is not there, or not trained to its end.
    """
    if not manifest.is_complete(run):
        raise ConfigError(
            "holds no finished teacher",
            path=run,
            remedy="train the teachers first: make semiseg, or trainers/semiseg.py",
        )
    return run


def phases(recipe: PseudolabelRecipe, run: Path) -> list[tuple[Path, int]]:
    """The trainings of a recipe's rounds after the teacher's, and their steps."""
    each, tuned = recipe.train.steps_per_epoch, recipe.rounds.fine_tune_epochs
    found = []
    for number in range(1, recipe.rounds.count + 1):
        folder, last = run / ROUNDS / str(number), number == recipe.rounds.count
        student = run if last and not tuned else folder / "student"
        found.append((student, (recipe.train.epochs - tuned) * each))
        if tuned:
            found.append((run if last else folder / "fine-tuned", tuned * each))
    return found


def gain(teachers: pd.DataFrame, students: pd.DataFrame) -> str:
    """The students' mean gain in Dice over their teachers, in a sentence."""
    from covidseg.scoring.statistics import bootstrap_mean
    from covidseg.scoring.statistics_paired import signed_rank_test

    both = students.merge(teachers, on=["case_id", "label"], suffixes=("", "_teacher"))
    both = both[both["dsc"].notna() & both["dsc_teacher"].notna()]
    paired = both["dsc"] - both["dsc_teacher"]
    differences, patients = paired.to_numpy(), both["patient_id"].to_numpy()
    interval = bootstrap_mean(differences, patients, seed=0)
    test = signed_rank_test(paired.groupby(patients).mean().to_numpy())
    phantom = " (PHANTOMS)" if students["phantom"].any() else ""
    return (
        f"Gain over the teachers{phantom}: {differences.mean():+.3f} Dice, 95 % interval "
        f"[{interval.low:+.3f}, {interval.high:+.3f}], {(differences > 0).sum()} of "
        f"{len(differences)} slices better; Wilcoxon signed-rank over patients p = {test.p:.2g}."
    )


if __name__ == "__main__":
    run_main(main)
