"""COVID-SemiSeg: cross-validate a recipe inside the 50 labelled slices, then train on all of them.

    python trainers/semiseg.py --profile cpu --hub data/hub --out runs/semiseg

Prints the mean Dice over the 50 slices, each predicted by the model that did not see it (and whose
fold holds no slice that looks like the same patient's), with a patient-clustered interval. The
model of all 50, for slices that nobody has seen, is left in `<out>/all`. What is done is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from covidseg.engine import manifest
from covidseg.engine.distributed import start_processes
from covidseg.engine.recipes import load_recipe
from covidseg.engine.runs import open_runs
from covidseg.engine.segmentation import SegmentationRecipe, with_precision
from covidseg.engine.task_data import read_part
from covidseg.trainers import supervised
from covidseg.trainers.evaluation import predict_part, score_part
from covidseg.trainers.options import run_main

FOLDS = range(5)


def trained(recipe: SegmentationRecipe, folder: Path) -> Path:
    """The run of ``recipe`` in ``folder``, trained now unless it is complete."""
    done = manifest.read(folder)
    if done is None or done["status"] != "complete":
        supervised.run(recipe, folder, resume=True)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="semiseg-2d")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--hub", type=Path, default=Path("data/hub"))
    parser.add_argument("--out", type=Path, default=Path("runs/semiseg"))
    options, overrides = parser.parse_known_args(arguments)

    def recipe(fold: int | None) -> SegmentationRecipe:
        place = ["--data.fold", "null" if fold is None else str(fold)]
        words = [*overrides, *place, "--data.hub", str(options.hub)]
        found = load_recipe(options.recipe, options.profile, words, SegmentationRecipe)
        return with_precision(found)

    accelerator = start_processes(recipe(None).train.mixed_precision)
    rank, processes = accelerator.process_index, accelerator.num_processes
    frames = []
    for fold in FOLDS:
        if rank == 0:
            print(f"fold {fold}", flush=True)
        run = trained(recipe(fold), options.out / f"fold{fold}")
        part = read_part(options.hub, recipe(fold).data.name, "validation")
        folder = run / "predictions" / "validation"
        predictor = open_runs([run], device=accelerator.device)
        for fault in predict_part(predictor, part, folder, rank=rank, processes=processes):
            print(f"not segmented: {fault}")
        accelerator.wait_for_everyone()
        if rank == 0:
            frames.append(score_part(part, folder, algorithm=options.recipe))
    trained(recipe(None), options.out / "all")
    if rank == 0:
        summarise(frames, options.out)


def summarise(frames: Sequence, out: Path) -> None:
    """Write the per-slice scores and print their mean with its interval."""
    import pandas as pd

    from covidseg.scoring.scores import write_scores
    from covidseg.scoring.statistics import bootstrap_mean

    scores = pd.concat(frames, ignore_index=True)
    write_scores(scores, out / "scores.csv")
    scored = scores[scores["dsc"].notna()]
    interval = bootstrap_mean(scored["dsc"].to_numpy(), scored["patient_id"].to_numpy(), seed=0)
    print(
        f"COVID-SemiSeg, five-fold cross-validation inside the labelled slices: mean Dice "
        f"{scored['dsc'].mean():.3f}, 95 % interval [{interval.low:.3f}, {interval.high:.3f}], "
        f"{len(scored)} slices of {len(scores)}."
    )
    print(f"Per-slice scores: {out / 'scores.csv'}. Model of all labelled slices: {out / 'all'}")


if __name__ == "__main__":
    run_main(main)
