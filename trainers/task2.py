"""Task 2 of the COVID-19-CT-Seg-Benchmark: learn without COVID-19 scans, test on them.

    python trainers/task2.py --profile demo --hub data/hub --out runs/task2
    python trainers/task2.py --profile full --subtasks lung --methods plain gin-ipa slaug ...
    accelerate launch trainers/task2.py --profile full ...   (each training on all GPUs)

Trains every source alone, as published, and all together (sampled evenly by source), with each
method, predicts the in-domain and the unseen tests and scores them: training beside training, on
the GPUs or cores there are. Prints the benchmark's tables with the published rows beneath, paired
comparisons, and how much of the gap between in-domain and unseen test each method closes. What is
done is kept: an interrupted call goes on where it was when it is given again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from covidseg.core.errors import ConfigError
from covidseg.engine import manifest
from covidseg.engine.config import as_mapping, differences
from covidseg.engine.distributed import start_processes
from covidseg.engine.recipes import load_recipe
from covidseg.engine.segmentation import with_precision
from covidseg.engine.task_data import read_part
from covidseg.generalization.build import open_generalising_run
from covidseg.generalization.config import GeneralizationRecipe
from covidseg.generalization.gap import IN_DOMAIN, gap_report
from covidseg.generalization.sources import source_parts
from covidseg.trainers import domain_generalization
from covidseg.trainers.evaluation import measure
from covidseg.trainers.options import Once, run_main
from covidseg.trainers.protocol import Settings, protocol_parser, settings
from covidseg.trainers.report import draw_extremes, write_report
from covidseg.trainers.side_by_side import Job

if TYPE_CHECKING:
    import pandas as pd

SOURCES = {
    "lung": ("structseg-lung", "nsclc-lung"),
    "infection": ("msd-tumour", "structseg-target", "nsclc-effusion"),
}
ALL = "all"
_BATCH_NORM = "--network.norm=batch"
METHODS: dict[str, tuple[str, ...]] = {
    "plain": (),
    # What the two below are to be compared with.
    "plain-batch": (_BATCH_NORM,),
    **{
        name: (f"--generalization.name={name}",)
        for name in ("gin", "gin-ipa", "slaug", "randconv", "bigaug")
    },
    # Instance normalisation would undo what MixStyle mixes, and has no statistics to adapt.
    "mixstyle": ("--generalization.name=mixstyle", _BATCH_NORM),
    "batch-norm": ("--generalization.adaptation=batch-norm", _BATCH_NORM),
    "lesioned-lungs": ("--generalization.lesions_in_lungs=true",),
    "lesions": ("--generalization.synthetic_lesions=true",),
    "lesions-gin": ("--generalization.synthetic_lesions=true", "--generalization.name=gin"),
}
DEFAULTS = {"lung": ("plain", "gin", "lesioned-lungs"), "infection": ("plain", "lesions")}


# What `--methods`, `--sources` and `--seeds` decide: a row is what its name says.
_FIXED = {
    **dict.fromkeys(
        ("generalization.name", "generalization.adaptation", "generalization.synthetic_lesions",
         "generalization.lesions_in_lungs"),
        "choose --methods",
    ),
    "sources.more": "choose --sources",
    "data.fold": "choose --sources, which have no folds",
    "seed": "give --seeds",
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One training.

    Parameters
    ----------
    subtask
        ``lung`` or ``infection``.
    source
        A source's name, or ``all``.
    method
        A name of `METHODS`.
    """

    subtask: str
    source: str
    method: str
    seed: int

    @property
    def paints(self) -> bool:
        """Whether it learns from lesions that are painted into lungs."""
        return self.method.startswith("lesions")

    @property
    def learnt(self) -> list[str]:
        """Configurations it learns from."""
        named = SOURCES["lung" if self.paints else self.subtask]
        chosen = named if self.source == ALL or self.paints else (self.source,)
        return [f"task2-{source}" for source in chosen]

    @property
    def tested(self) -> list[str]:
        """Configurations whose tests it is scored by: its own source's, or every source's."""
        every = self.source == ALL or self.paints
        chosen = SOURCES[self.subtask] if every else (self.source,)
        return [f"task2-{source}" for source in chosen]

    @property
    def algorithm(self) -> str:
        """Its name in tables."""
        if self.paints:
            sources = "no source's lesions"
        else:
            sources = "all sources" if self.source == ALL else "this source"
        return f"{self.method}, {sources}"

    def words(self) -> list[str]:
        """The recipe's values that make it what it is, as on a command line."""
        first, *more = self.learnt
        words = [f"--data.configuration={first}", f"--seed={self.seed}", *METHODS[self.method]]
        if more:
            words += [
                f"--sources.more=[{','.join(more)}]",
                "--sources.overlap=leave_out",
                "--sources.one_class=true",
                "--patch.by_source=true",
            ]
        return words


@dataclass(frozen=True, kw_only=True)
class Protocol(Settings):
    """What of Task 2 is run."""

    arms: tuple[Arm, ...]


def arms(
    subtasks: Sequence[str],
    methods: Sequence[str] | None,
    sources: Sequence[str] | None,
    seeds: Sequence[int],
) -> tuple[Arm, ...]:
    """All trainings: each method on each source and on all together, lesions once."""
    found = []
    for subtask in subtasks:
        for method in methods or DEFAULTS[subtask]:
            paints = method.startswith("lesions")
            if (paints and subtask == "lung") or (
                method == "lesioned-lungs" and subtask == "infection"
            ):
                continue
            chosen = [ALL] if paints else [*SOURCES[subtask], ALL]
            for source in chosen:
                # Lesions are painted into the lungs of all sources, beside whichever is chosen.
                chosen_too = methods is not None or any(
                    s in SOURCES[subtask] for s in sources or ()
                )
                if sources is None or source in sources or (paints and chosen_too):
                    found += [Arm(subtask, source, method, seed) for seed in seeds]
    if not found:
        raise ConfigError(
            "there is no training of the chosen subtasks, methods and sources",
            expected="a source of the chosen subtasks; lesions and lesions-... for infection, "
            "lesioned-lungs for lung",
        )
    return tuple(found)


def run_folder(protocol: Protocol, arm: Arm) -> Path:
    """Where an arm's run lies."""
    return protocol.out / arm.subtask / arm.source / arm.method / f"seed{arm.seed}"


def job(protocol: Protocol, arm: Arm) -> Job:
    """An arm, from training to scores, as a process of its own."""
    run = run_folder(protocol, arm)
    chosen = {"subtasks": arm.subtask, "sources": arm.source, "methods": arm.method}
    return Job(
        "-".join([arm.subtask, arm.source, arm.method, f"seed{arm.seed}"]),
        protocol.process("task2", {**chosen, "seeds": arm.seed}),
        [(run, _recipe(protocol, arm).train.steps)],
        [_scores(run, *measured) for measured in _measured(protocol, arm)],
    )


def _recipe(protocol: Protocol, arm: Arm) -> GeneralizationRecipe:
    words = [*protocol.overrides, *arm.words()]
    found = _loaded(protocol, arm, words)
    # With the last word, what is given must change nothing: it would be dropped without one.
    given = as_mapping(_loaded(protocol, arm, [*words, *protocol.overrides]))
    if dropped := differences(as_mapping(found), given):
        raise ConfigError(
            f"--{dropped[0].split(':')[0]} contradicts a training that is chosen: {arm.method}, "
            f"{arm.source}",
            remedy="leave it out, or choose other --methods and --sources",
        )
    return found


def _loaded(protocol: Protocol, arm: Arm, words: Sequence[str]) -> GeneralizationRecipe:
    words = [*words, f"--data.hub={protocol.hub}"]
    return load_recipe(f"task2-{arm.subtask}", protocol.profile, words, GeneralizationRecipe)


def _measured(protocol: Protocol, arm: Arm) -> list[tuple[str, str]]:
    """Configurations and their parts that an arm predicts."""
    # Tumours and effusions are not what painted lesions are learnt for.
    return [
        (configuration, name)
        for configuration in arm.tested
        for name in source_parts(protocol.hub, configuration)
        if name.startswith("test") and not (arm.paints and name == IN_DOMAIN)
    ]


def _scores(run: Path, configuration: str, part: str) -> Path:
    return run / f"scores-{configuration}-{part}.csv"


def run_arm(protocol: Protocol, arm: Arm) -> pd.DataFrame | None:
    """Train an arm, if that is not done, predict and score; the scores, on the main process."""
    folder = run_folder(protocol, arm)
    recipe = with_precision(_recipe(protocol, arm))
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    main = accelerator.is_main_process
    if main and not manifest.is_complete(folder):
        print(f"{arm.subtask}, {arm.source}, {arm.method}: training", flush=True)
    # A complete run of the same recipe stays as it is; one of another is refused.
    domain_generalization.run(recipe, folder, resume=True)
    predictor = open_generalising_run(folder, device=accelerator.device)
    frames = []
    for configuration, name in _measured(protocol, arm):
        part = read_part(protocol.hub, configuration, name)
        # The unseen tests are the same for all sources: predicted once.
        place = f"{configuration}-{name}" if name == IN_DOMAIN else name
        predictions = folder / "predictions" / place
        found = measure(
            predictor,
            part,
            predictions,
            _scores(folder, configuration, name),
            accelerator,
            runs=[folder],
            algorithm=arm.algorithm,
            workers=protocol.workers,
        )
        if found is not None:
            frames.append(found)
            stem = "-".join([*folder.relative_to(protocol.out).parts, place, "overlays"])
            draw_extremes(part, predictions, found, protocol.out / "figures" / stem)
    if not main:
        return None
    import pandas as pd

    # The published splits have no folds: the column counts the seeds.
    return pd.concat(frames, ignore_index=True).assign(fold=arm.seed)


def report(scores: pd.DataFrame, out: Path) -> str:
    """Write tables, figures and per-case scores into ``out``; the tables as text."""
    from covidseg.scoring.tables import render_tables, write_tables

    tables = write_report(scores, out, "task2", compare=True, repetition="Seed")
    gap = gap_report(scores)
    write_tables([gap], out / "gap.csv", "csv")
    return render_tables([*tables, gap], "md")


def run(protocol: Protocol) -> None:
    """Run the protocol; print the tables and where everything lies."""
    import pandas as pd

    # All that is missing, or was trained otherwise, is said before the first training, not after
    # hours of it.
    for name in dict.fromkeys(n for arm in protocol.arms for n in [*arm.learnt, *arm.tested]):
        source_parts(protocol.hub, name)
    for arm in protocol.arms:
        domain_generalization.refuse_another(_recipe(protocol, arm), run_folder(protocol, arm))
    protocol.run_unfinished([job(protocol, arm) for arm in protocol.arms])
    found = [run_arm(protocol, arm) for arm in protocol.arms]
    frames = [frame for frame in found if frame is not None]
    if frames and not protocol.one:
        print(report(pd.concat(frames, ignore_index=True), protocol.out))
        print(f"Per-case scores, tables and figures: {protocol.out}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    parser = protocol_parser(
        __doc__, "demo (minutes on phantoms) or full (the paper's)", "runs/task2"
    )
    parser.add_argument(
        "--subtasks", nargs="+", action=Once, default=list(SOURCES), choices=list(SOURCES),
        help="what is segmented; default: both",
    )  # fmt: skip
    parser.add_argument(
        "--methods",
        nargs="+",
        action=Once,
        choices=list(METHODS),
        help="default: plain, gin and lesioned-lungs for lungs, plain and lesions for infection",
    )
    parser.add_argument(
        "--sources",
        nargs="+",
        action=Once,
        choices=[*(source for named in SOURCES.values() for source in named), ALL],
        help="default: each alone, and all together",
    )
    parser.add_argument(
        "--seeds", nargs="+", action=Once, type=int, default=[0],
        help="every training is done with each; default: 0",
    )  # fmt: skip
    options, overrides = parser.parse_known_args(arguments)
    run(
        Protocol(
            arms=arms(options.subtasks, options.methods, options.sources, options.seeds),
            **settings(options, overrides, _FIXED),
        )
    )


if __name__ == "__main__":
    run_main(main)
