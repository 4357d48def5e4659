"""Task 1 of the COVID-19-CT-Seg-Benchmark: learn from 4 annotated scans, test on 16, five folds.

    python trainers/task1.py --profile demo --hub data/hub --out runs/task1
    accelerate launch trainers/task1.py --profile full ...   (each training on all GPUs)

Trains every fold of every subtask, predicts the test parts (and MosMed's, for infection) and scores
them, fold beside fold on the GPUs or cores there are; prints the benchmark's tables with the
published rows beneath. What is done is kept: an interrupted call goes on where it was when it is
given again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from covidseg.engine import manifest
from covidseg.engine.distributed import start_processes
from covidseg.engine.recipes import load_recipe
from covidseg.engine.runs import open_runs, read_run
from covidseg.engine.segmentation import SegmentationRecipe, with_precision
from covidseg.engine.task_data import part_names, read_part
from covidseg.trainers import supervised
from covidseg.trainers.evaluation import measure
from covidseg.trainers.options import Once, run_main
from covidseg.trainers.protocol import Settings, protocol_parser, settings
from covidseg.trainers.report import draw_extremes, write_report
from covidseg.trainers.side_by_side import Job

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Protocol(Settings):
    """What of Task 1 is run."""

    subtasks: tuple[str, ...]
    dimensions: tuple[str, ...]
    folds: tuple[int, ...]


@dataclass(frozen=True)
class Fold:
    """One training: a recipe of Task 1 on a fold's four cases."""

    subtask: str
    dimensions: str
    number: int

    @property
    def recipe_name(self) -> str:
        """The recipe's name."""
        return f"task1-{self.subtask}-{self.dimensions}"


def folds(protocol: Protocol) -> list[Fold]:
    """All trainings of the protocol, in the order of the tables."""
    return [
        Fold(subtask, dimensions, number)
        for dimensions in protocol.dimensions
        for subtask in protocol.subtasks
        for number in protocol.folds
    ]


def run_folder(protocol: Protocol, fold: Fold) -> Path:
    """Where a fold's run lies."""
    return protocol.out / fold.recipe_name / f"fold{fold.number}"


def job(protocol: Protocol, fold: Fold) -> Job:
    """A fold, from training to scores, as a process of its own."""
    recipe, run = _recipe(protocol, fold), run_folder(protocol, fold)
    chosen = {"subtasks": fold.subtask, "dimensions": fold.dimensions, "folds": fold.number}
    return Job(
        f"{fold.recipe_name}-fold{fold.number}",
        protocol.process("task1", chosen),
        [(run, recipe.train.steps)],
        [_scores(run, name) for name in _tests(protocol, recipe)],
    )


def _recipe(protocol: Protocol, fold: Fold) -> SegmentationRecipe:
    words = [*protocol.overrides, f"--data.fold={fold.number}", f"--data.hub={protocol.hub}"]
    return load_recipe(fold.recipe_name, protocol.profile, words, SegmentationRecipe)


def _tests(protocol: Protocol, recipe: SegmentationRecipe) -> list[str]:
    names = part_names(protocol.hub, recipe.data.name)
    return [name for name in names if name.startswith("test")]


def _scores(run: Path, part: str) -> Path:
    return run / f"scores-{part}.csv"


def run_fold(protocol: Protocol, fold: Fold) -> pd.DataFrame | None:
    """Train a fold, if that is not done, predict and score; the scores, on the main process."""
    folder = run_folder(protocol, fold)
    recipe = with_precision(_recipe(protocol, fold))
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    main = accelerator.is_main_process
    if main and not manifest.is_complete(folder):
        print(f"{fold.recipe_name}, fold {fold.number}: training", flush=True)
    # A complete run of the same recipe stays as it is; one of another is refused.
    supervised.run(recipe, folder, resume=True)
    predictor = open_runs([folder], device=accelerator.device)
    frames = []
    for name in _tests(protocol, recipe):
        part = read_part(protocol.hub, recipe.data.name, name)
        predictions = folder / "predictions" / name
        algorithm = f"{recipe.network.dimensions}D U-Net (this run)"
        found = measure(
            predictor,
            part,
            predictions,
            _scores(folder, name),
            accelerator,
            runs=[folder],
            algorithm=algorithm,
            workers=protocol.workers,
        )
        if found is not None:
            frames.append(found)
    if not main:
        return None
    import pandas as pd

    scores = pd.concat(frames, ignore_index=True)
    _draw(protocol, fold, scores)
    return scores


def run(protocol: Protocol) -> None:
    """Run the protocol; print the tables and where everything lies."""
    import pandas as pd

    from covidseg.scoring.tables import render_tables

    chosen = folds(protocol)
    # What was trained otherwise is said before anything is, not when it is collected.
    for fold in chosen:
        supervised.refuse_another(_recipe(protocol, fold), run_folder(protocol, fold))
    protocol.run_unfinished([job(protocol, fold) for fold in chosen])
    found = [run_fold(protocol, fold) for fold in chosen]
    frames = [frame for frame in found if frame is not None]
    if frames and not protocol.one:
        scores = pd.concat(frames, ignore_index=True)
        print(render_tables(write_report(scores, protocol.out, "task1", compare=False), "md"))
        print(f"Per-case scores, tables and figures: {protocol.out}")


def _draw(protocol: Protocol, fold: Fold, scores: pd.DataFrame) -> None:
    folder = run_folder(protocol, fold)
    part = read_part(protocol.hub, read_run(folder).data.name, "test")
    stem = protocol.out / "figures" / f"{fold.recipe_name}-fold{fold.number}-overlays"
    draw_extremes(part, folder / "predictions" / part.name, scores, stem)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = protocol_parser(
        __doc__, "demo (minutes on phantoms) or full (the paper's)", "runs/task1"
    )
    parser.add_argument(
        "--subtasks", nargs="+", action=Once, default=["lung", "infection"],
        choices=["lung", "infection", "union"],
        help="what is segmented; default: lung and infection",
    )  # fmt: skip
    parser.add_argument(
        "--dimensions", nargs="+", action=Once, default=["3d"], choices=["2d", "3d"],
        help="of the networks; default: 3d",
    )  # fmt: skip
    parser.add_argument(
        "--folds", nargs="+", action=Once, type=int, default=[0, 1, 2, 3, 4],
        help="folds to train; default: all five",
    )  # fmt: skip
    options, overrides = parser.parse_known_args(arguments)
    run(
        Protocol(
            subtasks=tuple(options.subtasks),
            dimensions=tuple(options.dimensions),
            folds=tuple(options.folds),
            **settings(options, overrides, {"data.fold": "give --folds"}),
        )
    )


if __name__ == "__main__":
    run_main(main)
