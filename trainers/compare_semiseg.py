"""Every semi-supervised method on COVID-SemiSeg's real slices, at equal steps, cross-validated.

    python trainers/compare_semiseg.py --hub data/hub-semiseg --out runs/compare-semiseg

All methods start from one network that has learnt from phantoms (of the seed), learn from the same
40 labelled slices of a fold with as many labelled patches a step, and from the same pool, for the
same number of steps; the last checkpoint predicts the fold's other ten. The noisy student's teacher
is the supervised run of its seed and fold, and it starts where its teacher did. Of the two networks
of CPS the second starts from random weights, or both would be one. Prints every method's mean Dice
over the 50 slices and its difference from supervised learning, with intervals over patients, the
signed-rank test, and the means seed by seed. Trainings go side by side, one on each GPU or core;
what is done is kept, so that an interrupted call goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from covidseg.core.errors import ConfigError
from covidseg.engine.recipes import load_recipe
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.trainers import pseudolabel
from covidseg.trainers.compare_semi import BASELINE, METHODS, STUDENT, by_seed
from covidseg.trainers.options import Once, recipe_parser, refuse_fixed, run_main
from covidseg.trainers.semiseg import (
    FIXED,
    FOLDS,
    STARTS,
    add_profile,
    add_start_recipe,
    chosen_profile,
    cross_validated,
    learn_phantoms,
    parted,
    profile_words,
    run_name,
)
from covidseg.trainers.semiseg_pseudolabel import phases
from covidseg.trainers.side_by_side import Job, run_side_by_side

if TYPE_CHECKING:
    import pandas as pd

NAME = "compare-semiseg"


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where."""

    recipe: str
    profile: str | None
    of_phantoms: str | None
    overrides: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    out: Path

    def folder(self, method: str, seed: int) -> Path:
        """The folder of a method's five runs."""
        return self.out / f"seed{seed}" / method

    def start(self, seed: int) -> Path:
        """The run on phantoms that the trainings of a seed start from."""
        return self.out / STARTS / str(seed)

    def job(self, method: str, seed: int, fold: int) -> Job:
        """The process that trains a method on a fold."""
        run = self.folder(method, seed) / run_name(fold)
        words = [
            "--train.start", str(self.start(seed)), *self.overrides,
            "--method.name", method, "--data.fold", str(fold), "--seed", str(seed),
        ]  # fmt: skip
        if method == "mean-teacher":
            words += ["--train.ema", "null"]  # what predicts is an average already
        recipe = load_recipe(self.recipe, self.profile, words, PseudolabelRecipe)
        if recipe.rounds.count != 1:
            raise ConfigError(
                f"rounds.count is {recipe.rounds.count}",
                expected="1: with more, the noisy student takes more steps than the others",
            )
        # What cannot be, or was trained otherwise, is said before anything is trained.
        pseudolabel.refuse_another(recipe, run)
        chosen = ["--recipe", self.recipe, *profile_words(self.profile), *words]
        runs = [(run, recipe.train.steps)]
        if method == STUDENT:
            runs = phases(recipe, run)
            chosen += ["--teacher", str(self.folder(BASELINE, seed) / run_name(fold))]
        trainer = ["-m", "covidseg.trainers.pseudolabel", "--resume", "--out", str(run)]
        return Job(f"seed{seed}-{method}-{run_name(fold)}", [*trainer, *chosen], runs)


def compare(comparison: Comparison, hub: Path, start_recipe: str, of_starts: Sequence[str]) -> None:
    """Train everything, score it, print the tables and where everything lies."""
    logs = comparison.out / "logs"
    # The noisy student after the others: one of them is its teacher.
    batches = [
        [
            comparison.job(method, seed, fold)
            for seed in comparison.seeds
            for method in comparison.methods
            if (method == STUDENT) is later
            for fold in FOLDS
        ]
        for later in (False, True)
    ]
    runs = {seed: comparison.start(seed) for seed in comparison.seeds}
    learn_phantoms(start_recipe, comparison.of_phantoms, of_starts, runs, logs)
    for jobs in batches:
        run_side_by_side(jobs, logs)
    print(report(comparison, all_scores(comparison, hub)))
    print(f"Per-slice scores, tables and figures: {comparison.out}")


def all_scores(comparison: Comparison, hub: Path) -> pd.DataFrame:
    """Per-slice scores of every method and seed; the seed stands in the column ``fold``."""
    import pandas as pd

    from covidseg.scoring.scores import write_scores

    frames = [
        cross_validated(comparison.folder(method, seed), hub, method).assign(fold=seed)
        for seed in comparison.seeds
        for method in comparison.methods
    ]
    scores = pd.concat(frames, ignore_index=True)
    write_scores(scores, comparison.out / "scores.csv")
    return scores


def report(comparison: Comparison, scores: pd.DataFrame) -> str:
    """Write tables and figures; the tables as text."""
    from covidseg.scoring.statistics_paired import compare_methods
    from covidseg.scoring.tables import render_tables, write_tables
    from covidseg.scoring.tables_comparison import comparison_tables
    from covidseg.scoring.tables_report import report_figures
    from covidseg.scoring.tables_summary import DEFAULT_BOOTSTRAP, summarise_folds
    from covidseg.scoring.tables_values import case_values, is_phantom

    # A slice that could not be predicted counts as missed. Pictures have no spacing to score
    # surfaces at.
    values = case_values(scores, metrics=["dsc"], missing="worst")
    summary = summarise_folds(values, DEFAULT_BOOTSTRAP)
    lines = [
        f"  {row.algorithm}: {row.mean:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"
        for row in summary[summary["fold"] == "average"].itertuples()
    ]
    phantom = is_phantom(scores)
    of_phantoms = " of PHANTOMS" if phantom else ""
    said = [
        f"COVID-SemiSeg{of_phantoms}: mean Dice of the labelled slices, cross-validated",
        *lines,
    ]
    if len(comparison.methods) > 1:
        found = compare_methods(scores, metrics=["dsc"], against=BASELINE, missing="worst")
        tables = comparison_tables(found, DEFAULT_BOOTSTRAP, phantom=phantom)
        for form in ("md", "csv", "tex"):
            write_tables(tables, comparison.out / f"{NAME}.{form}", form)
        said.append(render_tables(tables, "md"))
    report_figures(scores, comparison.out / "figures", missing="worst")
    return "\n".join([*said, by_seed(scores)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--recipe", default="semiseg-semi", help="a YAML file, or one's name")
    add_profile(parser)
    parser.add_argument(
        "--methods", nargs="+", action=Once, default=list(METHODS), choices=METHODS,
        help=f"what is compared with {BASELINE}, which is always trained; default: all",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", nargs="+", action=Once, type=int, default=[0],
        help="every method is trained with each, on five folds; default: 0",
    )  # fmt: skip
    parser.add_argument("--hub", type=Path, default=Path("data/hub"), help="dataset repository")
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME, help="folder of the runs")
    add_start_recipe(parser)
    options, given = parser.parse_known_args(arguments)
    of_starts, overrides = parted(given)
    refuse_fixed(overrides, {**FIXED, "method.name": "choose --methods", "seed": "give --seeds"})
    methods = [method for method in METHODS if method in {BASELINE, *options.methods}]
    profile = chosen_profile(options.profile, options.recipe)
    print(f"profile {profile or 'of the recipe itself'}")
    comparison = Comparison(
        options.recipe,
        profile,
        chosen_profile(options.profile, options.start_recipe),
        (*overrides, "--data.hub", str(options.hub)),
        tuple(methods),
        tuple(options.seeds),
        options.out,
    )
    compare(comparison, options.hub, options.start_recipe, of_starts)


if __name__ == "__main__":
    run_main(main)
