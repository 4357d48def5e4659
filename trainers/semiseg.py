"""COVID-SemiSeg: cross-validate a recipe inside the 50 labelled slices, then train on all of them.

    python trainers/semiseg.py --hub data/hub --out runs/semiseg

First a network learns from phantoms alone (trainers/phantoms.py, recipe semiseg-phantoms); then the
five folds and the model of all slices start from its weights (from those of several in turn, with
--starts). What can goes side by side: one on each GPU, or sharing the processor's cores. Prints the
mean Dice over the 50 slices, each predicted by the model that did not see it (and whose fold holds
no slice that looks like the same patient's), with a patient-clustered interval. The model of all
50, for slices that nobody has seen, is left in `<out>/all`. What is done is kept: the same command
goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from covidseg.core.errors import ScoringError
from covidseg.core.progress import progress_bar
from covidseg.engine import manifest
from covidseg.engine.cache import read_training_case
from covidseg.engine.distributed import native_precision
from covidseg.engine.recipes import load_recipe, profiles_of
from covidseg.engine.runs import open_runs
from covidseg.engine.segmentation import SegmentationRecipe
from covidseg.engine.task_data import read_part
from covidseg.imaging.nifti import read_nifti
from covidseg.trainers.evaluation import extremes, predict_part, score_part
from covidseg.trainers.options import recipe_parser, refuse_fixed, run_main
from covidseg.trainers.overlays import Shown, draw_overlays
from covidseg.trainers.phantoms import PhantomsRecipe, draw
from covidseg.trainers.side_by_side import Job, run_side_by_side

if TYPE_CHECKING:
    import pandas as pd

FOLDS = range(5)
AUTO = "auto"
STARTS = "starts"  # folder of the runs on phantoms, in the driver's output
_START_OPTION = "--start."
# What the drivers of COVID-SemiSeg decide of a recipe.
FIXED = {"data.hub": "give --hub", "data.fold": "every fold is trained, and all slices"}


def run_name(fold: int | None) -> str:
    """The folder, within the driver's output, of a fold's run, or of the run on all slices."""
    return "all" if fold is None else f"fold{fold}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--recipe", default="semiseg-2d", help="a YAML file, or one's name")
    add_profile(parser)
    parser.add_argument("--hub", type=Path, default=Path("data/hub"), help="dataset repository")
    parser.add_argument("--out", type=Path, default=Path("runs/semiseg"), help="folder of the runs")
    add_start_recipe(parser)
    parser.add_argument(
        "--starts",
        type=int,
        default=1,
        metavar="N",
        help="networks that learn from phantoms, by N seeds (1); 0 starts from random weights",
    )
    options, given = parser.parse_known_args(arguments)
    of_starts, overrides = parted(given)
    refuse_fixed(overrides, FIXED)
    profile = chosen_profile(options.profile, options.recipe)
    print(f"profile {profile or 'of the recipe itself'}")
    starts = [options.out / STARTS / str(number) for number in range(options.starts)]

    def words(fold: int | None) -> list[str]:
        place = ["--data.fold", "null" if fold is None else str(fold)]
        start = ["--train.start", str(starts[runs.index(fold) % len(starts)])] if starts else []
        return [*start, *overrides, *place, "--data.hub", str(options.hub)]

    def job(fold: int | None) -> Job:
        recipe = load_recipe(options.recipe, profile, words(fold), SegmentationRecipe)
        run = options.out / run_name(fold)
        chosen = ["--recipe", options.recipe, *profile_words(profile), *words(fold)]
        trainer = ["-m", "covidseg.trainers.supervised", "--resume", "--out", str(run)]
        return Job(run_name(fold), [*trainer, *chosen], [(run, recipe.train.steps)])

    # The model that people use comes first: on a slow machine all six take hours.
    runs: tuple[int | None, ...] = (None, *FOLDS)
    jobs = [job(fold) for fold in runs]
    logs = options.out / "logs"
    # Also where all six are trained: whether it was from these is for them to say.
    of_phantoms = chosen_profile(options.profile, options.start_recipe)
    learn_phantoms(options.start_recipe, of_phantoms, of_starts, dict(enumerate(starts)), logs)
    run_side_by_side(jobs, logs)
    scores = cross_validated(options.out, options.hub, options.recipe)
    print(summary(scores))
    print(f"Per-slice scores: {options.out / 'scores.csv'}. Model of all: {options.out / 'all'}")
    print(how_to_predict(options.out))
    print(f"Best, median and worst slice: {picture(options.out, options.hub, scores)}")


def learn_phantoms(
    recipe: str, profile: str | None, words: Sequence[str], runs: Mapping[int, Path], logs: Path
) -> None:
    """Train a network on phantoms for each seed, in its folder of ``runs``, side by side."""
    jobs: list[Job] = []
    for number, run in runs.items():
        values = ["--seed", str(number), *words]
        own = load_recipe(recipe, profile, values, PhantomsRecipe)
        if not jobs and not manifest.is_complete(run):
            draw(own)  # here, where its progress is seen
        chosen = ["--recipe", recipe, *profile_words(profile), *values]
        trainer = ["-m", "covidseg.trainers.phantoms", "--resume", "--out", str(run)]
        jobs.append(Job(f"phantoms{number}", [*trainer, *chosen], [(run, own.train.steps)]))
    run_side_by_side(jobs, logs)


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Values for the networks that learn from phantoms (`--start.KEY VALUE`), and the others."""
    of_starts: list[str] = []
    others: list[str] = []
    chosen = others
    for word in words:
        if word.startswith("--"):
            chosen = of_starts if word.startswith(_START_OPTION) else others
        chosen.append(word.replace(_START_OPTION, "--", 1) if chosen is of_starts else word)
    return of_starts, others


def how_to_predict(out: Path) -> str:
    """What to call for slices that nobody has seen."""
    return (
        "Other slices, by all six networks together (or by one: name its folder): "
        f"covidseg predict --run {out} SLICES --out FOLDER"
    )


def add_profile(parser: argparse.ArgumentParser) -> None:
    """The option that says which profile of the recipe to train."""
    parser.add_argument(
        "--profile",
        default=AUTO,
        help="a profile of the recipe: cpu-bf16, cpu, gpu; auto (the default) for the one that "
        "this machine has the time for",
    )


def add_start_recipe(parser: argparse.ArgumentParser) -> None:
    """The option that says how phantoms are learnt from."""
    parser.add_argument(
        "--start-recipe",
        default="semiseg-phantoms",
        help="recipe of the networks that learn from phantoms; its values are given as "
        "--start.train.epochs 5",
    )


def chosen_profile(asked: str, recipe: str) -> str | None:
    """The profile asked for, or for `AUTO` that of this machine, or none if the recipe has none."""
    if asked != AUTO:
        return asked
    if not profiles_of(recipe):
        return None
    on_cpu = "cpu-bf16" if native_precision() == "bf16" else "cpu"
    return "gpu" if torch.cuda.is_available() else on_cpu


def profile_words(profile: str | None) -> list[str]:
    """The profile as a trainer's command line names it."""
    return [] if profile is None else ["--profile", profile]


def cross_validated(out: Path, hub: Path, algorithm: str, path: Path | None = None) -> pd.DataFrame:
    """Predict each slice by the fold's run that did not see it; write and return the scores.

    They go to ``path``, or to ``scores.csv`` beside the runs.
    """
    import pandas as pd

    from covidseg.scoring.scores import write_scores

    frames = []
    for fold in progress_bar(FOLDS, desc="predicting", unit="fold", leave=False):
        run = out / run_name(fold)
        part = read_part(hub, f"semiseg-fold{fold}", "validation")
        folder = run / "predictions" / "validation"
        for fault in predict_part(open_runs([run]), part, folder, runs=[run]):
            print(f"not segmented: {fault}")
        # Slices are scored sooner than processes start.
        frames.append(score_part(part, folder, algorithm=algorithm, workers=1))
    scores = pd.concat(frames, ignore_index=True)
    write_scores(scores, path or out / "scores.csv")
    return scores


def picture(out: Path, hub: Path, scores: pd.DataFrame) -> Path:
    """Draw the best, the median and the worst slice, each as its fold's run predicted it."""
    cases = {
        case.case_id: (case, out / run_name(fold) / "predictions" / "validation")
        for fold in FOLDS
        for case in read_part(hub, f"semiseg-fold{fold}", "validation").cases
    }
    dsc = scores.set_index("case_id")["dsc"]
    shown = []
    chosen = extremes(scores, scores["label"].iloc[0])
    for place, case_id in zip(("best", "median", "worst"), chosen, strict=False):
        case, folder = cases[case_id]
        image, annotation = read_training_case(case)
        assert annotation is not None
        prediction = read_nifti(folder / f"{case_id}.nii.gz")
        title = f"{place}: {case_id}, DSC {dsc[case_id]:.3f}"
        shown.append(Shown(title, image, annotation, prediction, greys=(0, 255)))
    if not shown:
        raise ScoringError("no slice could be segmented", path=out)
    phantom = bool(scores["phantom"].any())
    return draw_overlays(shown, ["infection"], out / "overlays", phantom=phantom)[0]


def summary(scores: pd.DataFrame) -> str:
    """The mean Dice with its interval, in a sentence."""
    from covidseg.scoring.statistics import bootstrap_mean

    scored = scores[scores["dsc"].notna()]
    interval = bootstrap_mean(scored["dsc"].to_numpy(), scored["patient_id"].to_numpy(), seed=0)
    phantom = " of PHANTOMS" if scores["phantom"].any() else ""
    return (
        f"COVID-SemiSeg{phantom}, five-fold cross-validation inside the labelled slices: mean Dice "
        f"{scored['dsc'].mean():.3f}, 95 % interval [{interval.low:.3f}, {interval.high:.3f}], "
        f"{len(scored)} slices of {len(scores)}."
    )


if __name__ == "__main__":
    run_main(main)
