"""COVID-19-20: supervised folds, their pseudo-labels, students of them; the challenge's tables.

    python trainers/covid1920.py --profile demo --hub data/hub --out runs/covid1920
    accelerate launch --multi_gpu --num_processes 8 trainers/covid1920.py --profile full ...

Trains nnU-Net's folds of the training part on its labels, lets them label the pool together, and
trains a student a fold on both, round after round. The folds together predict the challenge's
validation and test parts, each alone its own held-out scans. What has labels is scored by DSC, NSD
at 1 mm and NAVE, beside the published ten; what has none becomes an archive to submit. What is done
is kept: an interrupted call goes on where it was when it is given again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidseg.core.errors import ConfigError
from covidseg.engine import manifest
from covidseg.engine.checkpoint import last_checkpoint
from covidseg.engine.distributed import start_processes
from covidseg.engine.loop import refuse_other_run
from covidseg.engine.recipes import load_recipe
from covidseg.engine.runs import open_runs
from covidseg.engine.segmentation import planned, with_precision
from covidseg.engine.task_data import Part, part_names, read_part
from covidseg.pseudolabel.pool import TABLE as POOL_TABLE
from covidseg.pseudolabel.pool import gather
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.pseudolabel.rounds import label_pool, student_of, train_student, train_teacher
from covidseg.trainers.evaluation import predict_part, scored_part
from covidseg.trainers.options import Once, recipe_parser, refuse_fixed, run_main
from covidseg.trainers.submission import write_submission

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator

CONFIGURATION = "covid1920"
_FIXED = {
    "data.hub": "give --hub",
    "data.configuration": "it is covid1920",
    "data.fold": "give --folds",
}
MEASURED = ("validation", "test_seen", "test_unseen")


@dataclass(frozen=True)
class Protocol:
    """What is run; ``recipe`` is planned on the whole training part, so that all folds share it."""

    recipe: PseudolabelRecipe
    folds: tuple[int, ...]
    out: Path
    accelerator: Accelerator

    @property
    def main(self) -> bool:
        """Whether this process prints and scores."""
        return self.accelerator.is_main_process

    def of_fold(self, fold: int) -> PseudolabelRecipe:
        """The recipe of one fold."""
        data = dataclasses.replace(self.recipe.data, fold=fold)
        return dataclasses.replace(self.recipe, data=data)

    def part(self, fold: int | None, name: str) -> Part:
        """A part of a fold, or of the challenge itself."""
        own = CONFIGURATION if fold is None else f"{CONFIGURATION}-fold{fold}"
        return read_part(self.recipe.data.hub, own, name)

    def say(self, text: str) -> None:
        """Print on one process."""
        if self.main:
            print(text, flush=True)


def _check(recipe: PseudolabelRecipe) -> None:
    """Raise ConfigError for what a recipe asks of this protocol in vain."""
    asked: dict[str, tuple[object, object]] = {
        "method.name": (recipe.method.name, "noisy-student"),
        "rounds.teachers": (recipe.rounds.teachers, 1),
        "unlabelled.labelled_cases": (recipe.unlabelled.labelled_cases, None),
    }
    for name, (value, expected) in asked.items():
        if value != expected:
            raise ConfigError(
                f"{name} is {value}",
                expected=f"{'null' if expected is None else expected}: the folds are the teachers, "
                "and learn from all their labels",
                remedy="compare methods, or few labels, by trainers/compare_semi.py",
            )


def run(recipe: PseudolabelRecipe, folds: Sequence[int], out: Path) -> None:
    """Run the protocol; print the tables and where everything lies."""
    import pandas as pd

    _check(recipe)
    recipe.check()
    _refuse_other_folds(folds, out)
    recipe = with_precision(recipe)
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    main = accelerator.is_main_process
    whole = read_part(recipe.data.hub, CONFIGURATION, "train")
    with accelerator.main_process_first():
        recipe = planned(recipe, whole.cases, whole.targets, progress=main)
        pool = gather(
            recipe,
            whole.rows,
            out,
            measured=[f"{CONFIGURATION}-fold{fold}" for fold in folds],
            phantom=whole.phantom,
            accept=functools.partial(_refuse_another_pool, recipe, folds, out),
            progress=main,
        )
    protocol = Protocol(recipe, tuple(folds), out, accelerator)
    refused = sum(entry.state == "refused" for entry in pool.entries)
    protocol.say(f"{len(pool.scans)} unlabelled scans, {refused} refused: {out / POOL_TABLE}")
    runs: dict[int, Path] = {}
    for fold in folds:
        protocol.say(f"supervised, fold {fold}: training")
        runs[fold] = train_teacher(
            protocol.of_fold(fold),
            protocol.part(fold, "train"),
            out / "supervised" / f"fold{fold}",
            accelerator,
        )
    frames = [evaluate(protocol, "supervised", out / "supervised", runs)]
    for number in range(1, recipe.rounds.count + 1):
        folder = out / f"round{number}"
        protocol.say(f"round {number}: labelling the pool")
        begun = [
            student_of(protocol.of_fold(fold), folder / f"fold{fold}", number) for fold in folds
        ]
        pseudo = label_pool(recipe, list(runs.values()), pool, folder / "pool", accelerator, begun)
        students = {}
        for fold in folds:
            protocol.say(f"round {number}, student of fold {fold}: training")
            students[fold] = train_student(
                protocol.of_fold(fold),
                protocol.part(fold, "train"),
                pseudo,
                folder / f"fold{fold}",
                accelerator,
                number,
                start=runs[fold] if recipe.rounds.from_teacher else None,
            ).run_dir
        runs = students
        frames.append(evaluate(protocol, f"noisy student, round {number}", folder, runs))
    scored = [frame for frame in frames if frame is not None]
    if main and scored:
        print(report(protocol, pd.concat(scored, ignore_index=True)))
        print(f"Per-case scores, tables, figures and archives to submit: {out}")


def _refuse_other_folds(folds: Sequence[int], out: Path) -> None:
    """Raise ConfigError where a student in ``out`` began to learn from teachers of other folds.

    Said at its turn, that would be after the other folds' training, and the ensemble's predictions
    in ``out`` would be these folds' by then.
    """
    now = [f"fold{fold}" for fold in folds]
    for run in sorted(out.glob("round1/fold*/student")):
        if last_checkpoint(run) is None:
            continue
        learnt = (manifest.read(run) or {}).get("data", {}).get("pseudo", {})
        teachers = [Path(one).name for one in learnt.get("pseudo_labels", {}).get("teachers", [])]
        if teachers and teachers != now:
            began = " ".join(name.removeprefix("fold") for name in teachers)
            raise ConfigError(
                f"began to learn from pseudo-labels of the folds {began}",
                path=run,
                expected=f"these folds, in this order: --folds {began}",
                remedy="call it with them; for others name another folder, to which a copy of "
                f"{out / 'supervised'} brings the folds that are trained",
            )


def _refuse_another_pool(
    recipe: PseudolabelRecipe, folds: Sequence[int], out: Path, provenance: Mapping[str, Any]
) -> None:
    """Raise ConfigError where a student in ``out`` began to learn with another pool."""
    for number in range(1, recipe.rounds.count + 1):
        for fold in folds:
            data = dataclasses.replace(recipe.data, fold=fold)
            own, run = student_of(
                dataclasses.replace(recipe, data=data),
                out / f"round{number}" / f"fold{fold}",
                number,
            )
            refuse_other_run(run, own, {"pseudo": {"pseudo_labels": {"pool": provenance}}})


def evaluate(
    protocol: Protocol, algorithm: str, folder: Path, runs: Mapping[int, Path]
) -> pd.DataFrame | None:
    """Predict and score what measures these runs; the scores, on the main process."""
    import pandas as pd

    held = part_names(protocol.recipe.data.hub, CONFIGURATION)
    found = []
    parts: list[tuple[Sequence[Path], Part, Path]] = [
        (list(runs.values()), protocol.part(None, name), folder / "predictions" / name)
        for name in MEASURED
        if name in held
    ]
    parts += [
        (
            [one],
            protocol.part(fold, "validation"),
            folder / f"fold{fold}-predictions" / "validation",
        )
        for fold, one in runs.items()
    ]
    for used, part, place in parts:
        predictor = open_runs(used, device=protocol.accelerator.device)
        protocol.say(f"{algorithm}: predicting {part.name} of {part.configuration}")
        for fault in predict_part(
            predictor,
            part,
            place,
            runs=used,
            rank=protocol.accelerator.process_index,
            processes=protocol.accelerator.num_processes,
        ):
            print(f"not segmented: {fault}")
        protocol.accelerator.wait_for_everyone()
        if protocol.main:
            found.append(_scored(part, place, algorithm, folder))
    frames = [frame for frame in found if frame is not None]
    return pd.concat(frames, ignore_index=True) if frames else None


def _scored(part: Part, place: Path, algorithm: str, folder: Path) -> pd.DataFrame | None:
    """Scores of the cases that have a label; an archive to submit where some have none."""
    labelled = [row for row in part.rows if row.case.label is not None]
    if len(labelled) < len(part.rows):
        target = folder / "submission" / f"{part.name}.zip"
        names = [row.case.case_id for row in part.rows]
        absent = write_submission(place, names, part.name, target)
        print(f"{part.name} has scans without labels: {target} is ready to submit")
        if absent:
            print(f"  without {', '.join(absent)}, which could not be segmented")
    if not labelled:
        return None
    path = folder / f"scores-{part.configuration}-{part.name}.csv"
    scores = scored_part(part, place, path, algorithm=algorithm)
    return scores[scores["case_id"].isin([row.case.case_id for row in labelled])]


def report(protocol: Protocol, scores: pd.DataFrame) -> str:
    """Write tables, figures and per-case scores below the protocol's folder; the tables as text."""
    from covidseg.scoring.scores import write_scores
    from covidseg.scoring.tables import Table, render_tables, write_tables
    from covidseg.scoring.tables_covid1920 import covid1920_tables
    from covidseg.scoring.tables_report import report_figures, report_tables

    write_scores(scores, protocol.out / "scores.csv")
    held_out = scores["fold"].notna() & (scores["fold"].astype(str) != "")
    tables: list[Table] = []
    if (~held_out).any():
        measured = scores[~held_out]
        compare = measured["algorithm"].nunique() > 1
        tables += report_tables(measured, style="covid1920", missing="worst", compare=compare)
        report_figures(measured, protocol.out / "figures", missing="worst")
    for table in covid1920_tables(scores[held_out], published=False, missing="worst"):
        note = (
            "Each scan by the fold that held it out. A student's pseudo-labels come from teachers "
            "of all folds, most of which learnt from its held-out scans: its row is optimistic."
        )
        title = table.title.replace("COVID-19-20:", "COVID-19-20, folds of the training part:")
        tables.append(dataclasses.replace(table, title=title, notes=(*table.notes, note)))
    for form in ("md", "csv", "tex"):
        write_tables(tables, protocol.out / f"covid1920.{form}", form)
    return render_tables(tables, "md")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--recipe", default="covid1920-rank01-hu", help="a YAML file, or a name")
    parser.add_argument("--profile", help="demo (minutes on phantoms) or full (the winner's)")
    parser.add_argument(
        "--folds", nargs="+", action=Once, type=int, default=[0, 1, 2, 3, 4],
        help="folds of the training part, each a teacher and its students; default: all five",
    )  # fmt: skip
    parser.add_argument("--hub", type=Path, default=Path("data/hub"), help="dataset repository")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/covid1920"), help="folder of the runs"
    )
    options, overrides = parser.parse_known_args(arguments)
    refuse_fixed(overrides, _FIXED)
    words = [*overrides, "--data.hub", str(options.hub)]
    recipe = load_recipe(options.recipe, options.profile, words, PseudolabelRecipe)
    run(recipe, options.folds, options.out)


if __name__ == "__main__":
    run_main(main)
