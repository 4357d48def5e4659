"""Semi-supervised methods compared fairly: same labels, pool, network and steps, several seeds.

    python trainers/compare_semi.py --profile demo --hub data/hub --out runs/compare-semi

Every method trains the same recipe on COVID-19-20 with `unlabelled.labelled_cases` labelled scans,
which the seed draws alike for all methods; the other training scans are in the pool, without their
labels. The last checkpoint predicts the seen and the unseen test part. Prints DSC, NSD at 1 mm and
NAVE with patient-clustered intervals, each case's scores averaged over the seeds, and every
method's difference from supervised learning with a paired test. The noisy student's teacher is the
supervised run of its seed; so that its gain is not mistaken for that of further steps,
`supervised-longer` has as many as teacher and student together. Trainings go side by side, one on
each GPU or core; what is done is kept, so that an interrupted call goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from covidseg.core.errors import ConfigError
from covidseg.engine.recipes import load_recipe
from covidseg.engine.runs import open_runs
from covidseg.engine.task_data import part_names, read_part
from covidseg.pseudolabel.config import MethodName
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.trainers import pseudolabel
from covidseg.trainers.evaluation import predict_part, scored_part
from covidseg.trainers.options import Once, recipe_parser, refuse_fixed, run_main
from covidseg.trainers.semiseg_pseudolabel import phases
from covidseg.trainers.side_by_side import Job, run_side_by_side

if TYPE_CHECKING:
    import pandas as pd

METHODS: tuple[str, ...] = get_args(MethodName)
BASELINE, STUDENT = "supervised", "noisy-student"
LONGER = "supervised-longer"
PARTS = ("test_seen", "test_unseen")
_FIXED = {"method.name": "choose --methods", "seed": "give --seeds", "data.hub": "give --hub"}


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where."""

    recipe: str
    profile: str | None
    overrides: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    out: Path

    def run(self, method: str, seed: int) -> Path:
        """The folder of one training."""
        return self.out / f"seed{seed}" / method

    def values(self, method: str, seed: int) -> list[str]:
        """The recipe's values for one training, as on a command line."""
        name, longer = (BASELINE, True) if method == LONGER else (method, False)
        words = [*self.overrides, "--method.name", name, "--seed", str(seed)]
        if longer:
            epochs = self.load(BASELINE, seed).train.epochs + self.load(STUDENT, seed).train.epochs
            words += ["--train.epochs", str(epochs)]
        return words

    def load(self, method: str, seed: int) -> PseudolabelRecipe:
        """The recipe of one training."""
        values = self.values(method, seed)
        return load_recipe(self.recipe, self.profile, values, PseudolabelRecipe)

    def job(self, method: str, seed: int) -> Job:
        """The process that trains a method and predicts with it."""
        recipe, run = self.load(method, seed), self.run(method, seed)
        runs = [(run, recipe.train.steps)]
        if method == STUDENT:
            runs = phases(recipe, run)
        words = ["--one", method, "--out", str(self.out), "--recipe", self.recipe]
        if self.profile:
            words += ["--profile", self.profile]
        entry = ["-m", "covidseg.trainers.compare_semi", *words, "--seeds", str(seed)]
        return Job(f"seed{seed}-{method}", [*entry, *self.overrides], runs)


def train_and_predict(comparison: Comparison, method: str, seed: int) -> None:
    """Train one method with one seed and predict the test parts with its last checkpoint."""
    recipe, run = comparison.load(method, seed), comparison.run(method, seed)
    teachers = [comparison.run(BASELINE, seed)] if method == STUDENT else []
    pseudolabel.run(recipe, run, teachers=teachers, resume=True)
    predictor = open_runs([run])
    for name in PARTS:
        part = read_part(recipe.data.hub, recipe.data.name, name)
        for fault in predict_part(predictor, part, run / "predictions" / name, runs=[run]):
            print(f"not segmented: {fault}")


def compare(comparison: Comparison) -> None:
    """Train everything, score it, print the tables and where everything lies."""
    recipe = comparison.load(BASELINE, comparison.seeds[0])
    if recipe.rounds.count != 1:
        raise ConfigError(
            f"rounds.count is {recipe.rounds.count}",
            expected="1: with more, the noisy student takes more steps than the others",
        )
    absent = [name for name in PARTS if name not in part_names(recipe.data.hub, recipe.data.name)]
    if absent:
        raise ConfigError(f"{recipe.data.name} has no part {absent[0]}", path=recipe.data.hub)
    for name in PARTS:
        rows = read_part(recipe.data.hub, recipe.data.name, name).rows
        unlabelled = sum(row.case.label is None for row in rows)
        if unlabelled:
            raise ConfigError(
                f"{unlabelled} of the {len(rows)} scans of {name} have no label to compare by",
                path=recipe.data.hub,
                remedy="get the labels, or let `make covid1920` make archives to submit",
            )
    # What cannot be, or was trained otherwise, is said before hours of training, not at its turn.
    for seed in comparison.seeds:
        for method in comparison.methods:
            own = comparison.load(method, seed)
            pseudolabel.refuse_another(own, comparison.run(method, seed))
    first = [method for method in comparison.methods if method != STUDENT]
    later = [method for method in comparison.methods if method == STUDENT]
    for methods in (first, later):
        jobs = [comparison.job(method, seed) for seed in comparison.seeds for method in methods]
        run_side_by_side(jobs, comparison.out / "logs")
    print(report(comparison, all_scores(comparison, recipe)))
    print(f"Per-case scores, tables and figures: {comparison.out}")


def all_scores(comparison: Comparison, recipe: PseudolabelRecipe) -> pd.DataFrame:
    """Per-case scores of every method and seed; the seed stands in the column ``fold``."""
    import pandas as pd

    from covidseg.scoring.scores import write_scores

    frames = []
    for seed in comparison.seeds:
        for method in comparison.methods:
            run = comparison.run(method, seed)
            for name in PARTS:
                part = read_part(recipe.data.hub, recipe.data.name, name)
                folder, path = run / "predictions" / name, run / f"scores-{name}.csv"
                frames.append(scored_part(part, folder, path, algorithm=method, fold=seed))
    scores = pd.concat(frames, ignore_index=True)
    write_scores(scores, comparison.out / "scores.csv")
    return scores


def report(comparison: Comparison, scores: pd.DataFrame) -> str:
    """Write tables and figures; the tables as text."""
    from covidseg.scoring.statistics_paired import compare_methods
    from covidseg.scoring.tables import render_tables, write_tables
    from covidseg.scoring.tables_comparison import comparison_tables
    from covidseg.scoring.tables_covid1920 import covid1920_tables
    from covidseg.scoring.tables_report import report_figures
    from covidseg.scoring.tables_summary import DEFAULT_BOOTSTRAP
    from covidseg.scoring.tables_values import is_phantom

    tables = covid1920_tables(scores, published=False, missing="worst")
    if len(comparison.methods) > 1:
        found = compare_methods(scores, against=BASELINE, missing="worst")
        tables += comparison_tables(found, DEFAULT_BOOTSTRAP, phantom=is_phantom(scores))
    for form in ("md", "csv", "tex"):
        write_tables(tables, comparison.out / f"compare-semi.{form}", form)
    report_figures(scores, comparison.out / "figures", missing="worst")
    return render_tables(tables, "md") + "\n" + by_seed(scores)


def by_seed(scores: pd.DataFrame) -> str:
    """Mean DSC of each method and seed, to see how much the seeds differ; a case that is missing
    counts as in the tables.
    """
    from covidseg.scoring.tables_values import case_values

    values = case_values(scores, metrics=["dsc"], missing="worst")
    wide = values.pivot_table(index=["part", "algorithm"], columns="fold", values="value")
    lines = [
        f"  {part}, {method}: " + ", ".join(f"{value:.3f}" for value in row)
        for (part, method), row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return "\n".join(["Mean DSC, seed by seed:", *lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--recipe", default="covid1920-semi", help="a YAML file, or one's name")
    parser.add_argument("--profile", help="demo (for phantoms) or full")
    choices = [BASELINE, LONGER, *(method for method in METHODS if method != BASELINE)]
    parser.add_argument(
        "--methods", nargs="+", action=Once, default=choices, choices=choices,
        help=f"what is compared with {BASELINE}, which is always trained; default: all",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", nargs="+", action=Once, type=int, default=[0, 1, 2],
        help="every method is trained with each; default: 0 1 2",
    )  # fmt: skip
    parser.add_argument("--hub", type=Path, help="dataset repository")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/compare-semi"), help="folder of the runs"
    )
    # One of the processes that the comparison starts, and the method that it trains.
    parser.add_argument("--one", choices=choices, help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args(arguments)
    if options.one is None:  # which is called with what is said here
        refuse_fixed(overrides, _FIXED)
    if options.hub is not None:
        overrides += ["--data.hub", str(options.hub)]
    methods = [method for method in choices if method in {BASELINE, *options.methods}]
    comparison = Comparison(
        options.recipe,
        options.profile,
        tuple(overrides),
        tuple(methods),
        tuple(options.seeds),
        options.out,
    )
    if options.one is None:
        compare(comparison)
        return
    for seed in options.seeds:
        train_and_predict(comparison, options.one, seed)


if __name__ == "__main__":
    run_main(main)
