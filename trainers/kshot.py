"""The k-shot curve of Task 1: how scores grow with the number of annotated scans to learn from.

    python trainers/kshot.py --profile demo --hub data/hub --out runs/kshot

For each of five draws, models are trained on 1, 2, 4, 8 and 16 scans (nested supports, from the
published folds: `covidseg.fewshot.kshot`), side by side on the GPUs or cores there are, all for as
many steps; each predicts the draw's 4 test scans, which are the same for all of its points. Prints
the curve as a table and draws it. What is done is kept: the same command goes on after an
interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from covidseg.core.progress import progress_bar
from covidseg.engine.recipes import load_recipe
from covidseg.engine.runs import open_runs
from covidseg.engine.segmentation import SegmentationRecipe
from covidseg.engine.task_data import read_part
from covidseg.fewshot.curve import algorithm, curve_figure, curve_table
from covidseg.fewshot.kshot import DRAWS, SHOTS, draw, reverse
from covidseg.trainers.evaluation import predict_part, score_part
from covidseg.trainers.options import run_main
from covidseg.trainers.side_by_side import Job, run_side_by_side, unfinished


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a recipe's value may be the beginning of an option
        epilog="Every value of the recipe can be given too: --train.epochs 5; docs/recipes.md "
        "lists them.",
    )
    parser.add_argument("--subtask", default="infection", choices=["lung", "infection", "union"])
    parser.add_argument("--dimensions", default="2d", choices=["2d", "3d"])
    parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS))
    parser.add_argument("--draws", nargs="+", type=int, default=list(range(DRAWS)))
    parser.add_argument("--profile", help="demo (minutes on phantoms) or full (nnU-Net's)")
    parser.add_argument("--hub", type=Path, default=Path("data/hub"), help="dataset repository")
    parser.add_argument("--out", type=Path, default=Path("runs/kshot"), help="folder of the runs")
    options, overrides = parser.parse_known_args(arguments)
    recipe = f"task1-{options.subtask}-{options.dimensions}"
    points = [(number, shots) for number in options.draws for shots in options.shots]

    def folder(number: int, shots: int) -> Path:
        return options.out / recipe / f"draw{number}" / algorithm(shots)

    def job(number: int, shots: int) -> Job:
        cases = [case.case_id for case in draw(number).support(shots)]
        words = [
            *overrides, "--data.configuration", reverse(number, options.subtask).rpartition("-")[0],
            "--data.fold", str(number), "--data.cases", f"[{', '.join(cases)}]",
            "--data.hub", str(options.hub),
        ]  # fmt: skip
        profile = ["--profile", options.profile] if options.profile else []
        steps = load_recipe(recipe, options.profile, words, SegmentationRecipe).train.steps
        run = folder(number, shots)
        trainer = ["-m", "covidseg.trainers.supervised", "--resume", "--out", str(run)]
        name = f"draw{number}-{algorithm(shots)}"
        return Job(name, [*trainer, "--recipe", recipe, *profile, *words], [(run, steps)])

    run_side_by_side(unfinished([job(*point) for point in points]), options.out / recipe / "logs")
    frames = []
    for number, shots in progress_bar(points, desc="predicting", unit="run", leave=False):
        part = read_part(options.hub, reverse(number, options.subtask), "test")
        predictions = folder(number, shots) / "predictions" / "test"
        for fault in predict_part(open_runs([folder(number, shots)]), part, predictions):
            print(f"not segmented: {fault}")
        frames.append(score_part(part, predictions, algorithm=algorithm(shots), workers=1))
    report(frames, options.out / recipe)


def report(frames: Sequence, out: Path) -> None:
    """Write scores, table and figure into ``out``; print the table."""
    import pandas as pd

    from covidseg.scoring.plots import save_figure
    from covidseg.scoring.scores import write_scores
    from covidseg.scoring.tables import write_tables

    scores = pd.concat(frames, ignore_index=True)
    write_scores(scores, out / "scores.csv")
    table = curve_table(scores)
    write_tables([table], out / "kshot.md", "md")
    write_tables([table], out / "kshot.csv", "csv")
    save_figure(curve_figure(scores), out / "kshot")
    print(table.render("md"))
    print(f"Per-case scores, table and figure: {out}")


if __name__ == "__main__":
    run_main(main)
