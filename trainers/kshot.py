"""The k-shot curve of Task 1: how scores grow with the number of annotated scans to learn from.

    python trainers/kshot.py --profile demo --hub data/hub --out runs/kshot

For each of five draws, models are trained on 1, 2, 4, 8 and 16 scans (nested supports, from the
published folds: `covidseg.fewshot.kshot`), all for as many steps; each predicts the draw's 4 test
scans, which are the same for all of its points. That goes side by side on the GPUs or cores there
are. Prints the curve as a table and draws it. What is done is kept: the same command goes on after
an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from covidseg.core.progress import progress_bar
from covidseg.engine.recipes import load_recipe
from covidseg.engine.runs import open_runs
from covidseg.engine.segmentation import SegmentationRecipe
from covidseg.engine.task_data import read_part
from covidseg.fewshot.curve import algorithm, curve_figure, curve_table
from covidseg.fewshot.kshot import DRAWS, SHOTS, draw, reverse
from covidseg.trainers import supervised
from covidseg.trainers.evaluation import predict_part, scored_part
from covidseg.trainers.options import Once, run_main
from covidseg.trainers.protocol import Settings, protocol_parser, settings
from covidseg.trainers.side_by_side import Job, run_side_by_side, unfinished

if TYPE_CHECKING:
    import pandas as pd

SCORES = "scores-test.csv"
# What `--draws` and `--shots` decide.
_FIXED = {"data.fold": "give --draws", "data.cases": "give --draws and --shots"}


@dataclass(frozen=True)
class Point:
    """A draw and how many scans are learnt from."""

    draw: int
    shots: int


@dataclass(frozen=True, kw_only=True)
class Curve(Settings):
    """What is trained, and where."""

    recipe: str

    @property
    def place(self) -> Path:
        """Where the curve's runs, tables and figures lie."""
        return self.out / self.recipe

    def run(self, point: Point) -> Path:
        """The folder of a point's run."""
        return self.place / f"draw{point.draw}" / algorithm(point.shots)

    def _chosen(self, point: Point) -> list[str]:
        subtask = self.recipe.split("-")[1]
        cases = [case.case_id for case in draw(point.draw).support(point.shots)]
        return [
            *self.overrides,
            f"--data.configuration={reverse(point.draw, subtask).rpartition('-')[0]}",
            f"--data.fold={point.draw}",
            f"--data.cases=[{', '.join(cases)}]",
            f"--data.hub={self.hub}",
        ]

    def words(self, point: Point) -> list[str]:
        """What trains a point, for `trainers/supervised.py`."""
        profile = ["--profile", self.profile] if self.profile else []
        place = ["--recipe", self.recipe, *profile, "--resume", "--out", str(self.run(point))]
        return [*place, *self._chosen(point)]

    def load(self, point: Point) -> SegmentationRecipe:
        """The recipe of a point."""
        return load_recipe(self.recipe, self.profile, self._chosen(point), SegmentationRecipe)

    def job(self, point: Point) -> Job:
        """A point, from training to scores, as a process of its own."""
        _, subtask, dimensions = self.recipe.split("-")
        chosen = {"subtask": subtask, "dimensions": dimensions, "draws": point.draw}
        return Job(
            f"draw{point.draw}-{algorithm(point.shots)}",
            self.process("kshot", {**chosen, "shots": point.shots}),
            [(self.run(point), self.load(point).train.steps)],
            [self.run(point) / SCORES],
        )

    def measure(self, point: Point) -> pd.DataFrame:
        """Train a point, predict and score its test scans, where that is not done; the scores."""
        # A complete run of the same recipe stays as it is; one of another is refused.
        supervised.main(self.words(point))
        run, name = self.run(point), algorithm(point.shots)
        part = read_part(self.hub, reverse(point.draw, self.recipe.split("-")[1]), "test")
        predictions = run / "predictions" / part.name
        for fault in predict_part(open_runs([run]), part, predictions, runs=[run]):
            print(f"not segmented: {fault}")
        return scored_part(part, predictions, run / SCORES, algorithm=name, workers=self.workers)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = protocol_parser(
        __doc__, "demo (minutes on phantoms) or full (nnU-Net's)", "runs/kshot"
    )
    parser.add_argument(
        "--subtask", default="infection", choices=["lung", "infection", "union"],
        help="what is segmented; default: infection",
    )  # fmt: skip
    parser.add_argument(
        "--dimensions", default="2d", choices=["2d", "3d"], help="of the network; default: 2d"
    )
    parser.add_argument(
        "--shots", nargs="+", action=Once, type=int, default=list(SHOTS),
        help="scans that are learnt from, a training each; default: 1 2 4 8 16",
    )  # fmt: skip
    parser.add_argument(
        "--draws", nargs="+", action=Once, type=int, default=list(range(DRAWS)),
        help="which scans are learnt from and tested; default: all five",
    )  # fmt: skip
    options, overrides = parser.parse_known_args(arguments)
    curve = Curve(
        recipe=f"task1-{options.subtask}-{options.dimensions}",
        **settings(options, overrides, _FIXED),
    )
    points = [Point(number, shots) for number in options.draws for shots in options.shots]
    if options.one:
        for point in points:
            curve.measure(point)
        return
    # What was trained otherwise is said before anything is, not when it is collected.
    for point in points:
        supervised.refuse_another(curve.load(point), curve.run(point))
    run_side_by_side(unfinished([curve.job(point) for point in points]), curve.place / "logs")
    bar = progress_bar(points, desc="collecting", unit="run", leave=False)
    report([curve.measure(point) for point in bar], curve.place)


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
