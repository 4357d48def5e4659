"""Task 3 of the COVID-19-CT-Seg-Benchmark: learn from a source and four COVID-19 scans, five folds.

    python trainers/task3.py --profile demo --hub data/hub --out runs/task3
    python trainers/task3.py --profile full --sources msd-tumour --methods alone finetune heads
    accelerate launch trainers/task3.py --profile full ...   (each training on all GPUs)

Trains every fold of every source with each method; `alone` is Task 1 at the same fold. All take the
same number of steps, and `finetune` and `paint` a quarter more on the source before. Predicts the
source's held-out cases, the 16 COVID-19 scans and, for infection, MosMed, and scores them: training
beside training, on the GPUs or cores there are. Prints the benchmark's tables with the published
rows beneath and paired comparisons. What is done is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from covidseg.core.errors import ConfigError
from covidseg.engine import manifest
from covidseg.engine.distributed import start_processes
from covidseg.engine.recipes import load_recipe
from covidseg.engine.runs import read_run
from covidseg.engine.segmentation import with_precision
from covidseg.engine.task_data import configuration_names, part_names, read_part
from covidseg.generalization.sources import source_parts
from covidseg.trainers import transfer
from covidseg.trainers.evaluation import measure
from covidseg.trainers.options import Once, run_main
from covidseg.trainers.protocol import Settings, protocol_parser, settings
from covidseg.trainers.report import draw_extremes, write_report
from covidseg.trainers.side_by_side import Job
from covidseg.trainers.transfer import TransferRecipe, open_transfer_run

if TYPE_CHECKING:
    import pandas as pd

SOURCES = {
    "lung": ("structseg-lung", "nsclc-lung", "msd-lung"),
    "infection": ("msd-tumour", "structseg-target", "nsclc-effusion"),
}
# What `--methods` and `--folds` decide.
_FIXED = {"transfer.method": "choose --methods", "data.fold": "give --folds"}
METHODS = ("alone", "joint", "heads", "marginal", "finetune", "paint")


@dataclass(frozen=True, kw_only=True)
class Protocol(Settings):
    """What of Task 3 is run."""

    sources: tuple[tuple[str, str], ...]  # subtask, source
    methods: tuple[str, ...]
    folds: tuple[int, ...]


@dataclass(frozen=True)
class Arm:
    """One training: a method, with a source, on a fold."""

    subtask: str
    source: str
    method: str
    fold: int

    def words(self) -> list[str]:
        """The recipe's values that make it what it is, as on a command line."""
        return [f"--data.fold={self.fold}", f"--transfer.method={self.method}"]


def arms(protocol: Protocol) -> list[Arm]:
    """All trainings of the protocol, in the order of the tables."""
    return [
        Arm(subtask, source, method, fold)
        for subtask, source in protocol.sources
        for method in protocol.methods
        for fold in protocol.folds
        if not _impossible(subtask, method)
    ]


def _impossible(subtask: str, method: str) -> bool:
    """Whether there is no such training: what `paint` paints is lesions, whatever the source."""
    return subtask == "lung" and method == "paint"


def run_folder(protocol: Protocol, arm: Arm) -> Path:
    """Where an arm's run lies. Without the source it is the same training for all of them."""
    place = protocol.out / arm.subtask / ("" if arm.method == "alone" else arm.source)
    return place / arm.method / f"fold{arm.fold}"


def job(protocol: Protocol, arm: Arm) -> Job:
    """An arm, from training to scores, as a process of its own."""
    run, recipe = run_folder(protocol, arm), _recipe(protocol, arm)
    configuration, names = _tested(protocol, arm, recipe)
    chosen = {"subtasks": arm.subtask, "sources": arm.source, "methods": arm.method}
    return Job(
        "-".join(run.relative_to(protocol.out).parts),
        protocol.process("task3", {**chosen, "folds": arm.fold}),
        transfer.stages(recipe, run),
        [_scores(run, configuration, name) for name in names],
    )


def _recipe(protocol: Protocol, arm: Arm) -> TransferRecipe:
    """What an arm learns from and how; it is measured on `_tested`."""
    # The published joint training draws cases, whatever their source.
    by_source = str(arm.method not in ("alone", "joint")).lower()
    source = arm.source
    if arm.method == "alone":
        source = _source_of_alone(protocol, arm)
    words = [
        f"--patch.by_source={by_source}",
        *protocol.overrides,
        f"--data.configuration=task3-{source}",
        *arm.words(),
        f"--data.hub={protocol.hub}",
    ]
    return load_recipe(f"task3-{arm.subtask}", protocol.profile, words, TransferRecipe)


def _source_of_alone(protocol: Protocol, arm: Arm) -> str:
    """By which source's configuration the one training for all sources is called: the one that it
    has been called by, else the first that there is, whichever are asked for.
    """
    run = run_folder(protocol, arm)
    if (run / "config.yaml").is_file():
        return read_run(run, TransferRecipe).data.configuration.removeprefix("task3-")
    held = configuration_names(protocol.hub)
    return next(one for one in SOURCES[arm.subtask] if f"task3-{one}-fold{arm.fold}" in held)


def _tested(protocol: Protocol, arm: Arm, recipe: TransferRecipe) -> tuple[str, list[str]]:
    """The configuration that measures an arm, and its parts: without the source, not its own."""
    data = dataclasses.replace(recipe.data, configuration=f"task3-{arm.source}")
    left_out = {data.part} | ({"validation"} if arm.method == "alone" else set())
    return data.name, [n for n in part_names(protocol.hub, data.name) if n not in left_out]


def _scores(run: Path, configuration: str, part: str) -> Path:
    return run / f"scores-{configuration}-{part}.csv"


def run_arm(protocol: Protocol, arm: Arm) -> pd.DataFrame | None:
    """Train an arm, if that is not done, predict and score; the scores, on the main process."""
    folder, method = run_folder(protocol, arm), arm.method
    recipe = with_precision(_recipe(protocol, arm))
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    main = accelerator.is_main_process
    if main and not manifest.is_complete(folder):
        print(f"{arm.source}, {method}, fold {arm.fold}: training", flush=True)
    # A complete run of the same recipe stays as it is; one of another is refused.
    transfer.run(recipe, folder, resume=True)
    frames = []
    configuration, names = _tested(protocol, arm, recipe)
    for name in names:
        part = read_part(protocol.hub, configuration, name)
        # The source's own cases are labelled as the source labels.
        inside = name == "validation"
        dataset = part.rows[0].dataset if inside else transfer.COVID
        predictor = open_transfer_run(folder, dataset, device=accelerator.device)
        predictions = folder / "predictions" / name
        found = measure(
            predictor,
            part,
            predictions,
            _scores(folder, configuration, name),
            accelerator,
            runs=[folder],
            algorithm=method,
            workers=protocol.workers,
        )
        if found is not None:
            frames.append(found)
            stem = "-".join([*folder.relative_to(protocol.out).parts, name, "overlays"])
            draw_extremes(part, predictions, found, protocol.out / "figures" / stem)
    if not main:
        return None
    import pandas as pd

    return pd.concat(frames, ignore_index=True)


def run(protocol: Protocol) -> None:
    """Run the protocol; print the tables and where everything lies."""
    import pandas as pd

    from covidseg.scoring.tables import render_tables

    # All that is missing is said before the first training, not after hours of it.
    for _, source in protocol.sources:
        for fold in protocol.folds:
            source_parts(protocol.hub, f"task3-{source}-fold{fold}")
    chosen = arms(protocol)
    if not chosen:
        raise ConfigError(
            "there is no training of the chosen sources, methods and folds",
            expected="a source of the chosen subtasks, and for lungs a method other than paint",
        )
    if any(_impossible(of, method) for of, _ in protocol.sources for method in protocol.methods):
        print("lung: paint is left out, what it paints is lesions", flush=True)
    # As is what was trained otherwise.
    for arm in chosen:
        transfer.refuse_another(_recipe(protocol, arm), run_folder(protocol, arm))
    # Without the source, one training is that of all sources.
    jobs = {run_folder(protocol, arm): job(protocol, arm) for arm in chosen}
    protocol.run_unfinished(list(jobs.values()))
    found = [run_arm(protocol, arm) for arm in chosen]
    frames = [frame for frame in found if frame is not None]
    if frames and not protocol.one:
        scores = pd.concat(frames, ignore_index=True)
        print(render_tables(write_report(scores, protocol.out, "task3", compare=True), "md"))
        print(f"Per-case scores, tables and figures: {protocol.out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = protocol_parser(
        __doc__, "demo (minutes on phantoms) or full (the paper's)", "runs/task3"
    )
    every = [source for named in SOURCES.values() for source in named]
    parser.add_argument(
        "--subtasks", nargs="+", action=Once, default=list(SOURCES), choices=list(SOURCES),
        help="what is segmented; default: both",
    )  # fmt: skip
    parser.add_argument(
        "--sources", nargs="+", action=Once, default=every, choices=every,
        help="what is learnt from beside COVID-19 scans; default: all of the subtasks",
    )  # fmt: skip
    parser.add_argument(
        "--methods", nargs="+", action=Once, default=list(METHODS), choices=list(METHODS),
        help="how both are learnt from, docs/generalization.md; default: all",
    )  # fmt: skip
    parser.add_argument(
        "--folds", nargs="+", action=Once, type=int, default=[0, 1, 2, 3, 4],
        help="folds to train; default: all five",
    )  # fmt: skip
    options, overrides = parser.parse_known_args(arguments)
    chosen = tuple(
        (subtask, source)
        for subtask in options.subtasks
        for source in SOURCES[subtask]
        if source in options.sources
    )
    run(
        Protocol(
            sources=chosen,
            methods=tuple(options.methods),
            folds=tuple(options.folds),
            **settings(options, overrides, _FIXED),
        )
    )


if __name__ == "__main__":
    run_main(main)
