"""Task 3: learn from a source and four COVID-19 scans together.

    python trainers/transfer.py --recipe task3-infection --profile demo --data.fold 0 \\
        --transfer.method finetune --out runs/task3-infection/finetune
    accelerate launch trainers/transfer.py ...          (several GPUs)

Stop it and add --resume: it goes on bit for bit as if it had not been stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.engine.checkpoint import last_checkpoint
from covidseg.engine.distributed import start_processes
from covidseg.engine.loop import Result, refuse_begun, refuse_other_run, refuse_resuming, train
from covidseg.engine.losses import build_loss
from covidseg.engine.method import Method, Supervised
from covidseg.engine.runs import (
    as_one,
    one_piece_values,
    open_run,
    read_run,
    require_same_labels,
)
from covidseg.engine.segmentation import (
    FixedPatches,
    SegmentationRecipe,
    cached_cases,
    new_network,
    planned,
    planned_as_before,
    training_part,
    training_stream,
    with_precision,
)
from covidseg.engine.task_data import Part
from covidseg.engine.validation import DiceValidation
from covidseg.generalization.build import PaintedPatches, changed, painter
from covidseg.generalization.heterogeneous import Channels, OfDataset, PartlyLabelled
from covidseg.generalization.lesions import LesionConfig
from covidseg.generalization.numbers import check_numbers
from covidseg.generalization.painted import cases_with_lungs
from covidseg.inference.ensemble import Ensemble
from covidseg.inference.predictor import Predictor
from covidseg.trainers.options import parse, run_main

COVID = "covid-ct-seg"
PRETRAINED = "pretrained"  # folder of the run on the source alone, in the run's folder
LUNGS = "lungs"  # and of the masks that lesions are painted into, in the training cache
STAGED = ("finetune", "paint")


@dataclass(frozen=True)
class TransferConfig:
    """How the source and the COVID-19 scans are learnt from.

    Parameters
    ----------
    method
        `alone`: the COVID-19 scans without the source, as in Task 1. `joint`: both as one, whatever
        they label, as published. `heads`: a head for each dataset. `marginal`: what a dataset does
        not label is part of its background. `finetune`: the source first, then the COVID-19 scans.
        `paint`: likewise, but what is learnt of the source is lesions painted into its lungs.
    source_share
        Epochs that `finetune` and `paint` give to the source first, as a share of `train.epochs`;
        the COVID-19 scans then get all of `train.epochs`, as `alone` gives them.
    finetune_lr
        Their learning rate there, as a share of `optim.lr`.
    lesions
        How `paint` draws them.
    """

    method: Literal["alone", "joint", "heads", "marginal", "finetune", "paint"] = "joint"
    source_share: float = 0.25
    finetune_lr: float = 0.1
    lesions: LesionConfig = field(default_factory=LesionConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "transfer", positive=["source_share", "finetune_lr"])


@dataclass(frozen=True)
class TransferRecipe(SegmentationRecipe):
    """A recipe that learns from a configuration of Task 3."""

    transfer: TransferConfig = field(default_factory=TransferConfig)


def _of(part: Part, *, covid: bool) -> Part:
    """The part's rows of the COVID-19 scans, or the others."""
    rows = [row for row in part.rows if (row.dataset == COVID) == covid]
    if not rows:
        raise ConfigError(
            f"{part.configuration} has no {'COVID-19 scans' if covid else 'other source'}",
            expected="a configuration of Task 3, such as task3-msd-tumour",
        )
    return dataclasses.replace(part, rows=rows)


def run(recipe: TransferRecipe, out: Path, *, resume: bool = False) -> Result:
    """Train as the recipe says, and leave the run's folder ``out`` behind.

    ``finetune`` and ``paint`` leave the run on the source alone in ``out/pretrained``, ``paint``
    also the lungs that it found, in ``lungs`` of the training cache.
    """
    recipe = _decided(recipe)
    part = training_part(recipe.data)
    covid = _of(part, covid=True)
    method = recipe.transfer.method
    if method == "alone":
        return _stage(recipe, covid, out, resume=resume)
    source = _of(part, covid=False)
    if method in STAGED:
        return _finetune(recipe, source, covid, out, resume=resume)
    return _stage(recipe, part, out, resume=resume)


def _decided(recipe: TransferRecipe) -> TransferRecipe:
    """The recipe with what its method and the machine decide."""
    recipe = with_precision(recipe)
    if recipe.transfer.method != "joint":
        return recipe
    # As published: cases are drawn whatever their source.
    return dataclasses.replace(recipe, patch=dataclasses.replace(recipe.patch, by_source=False))


def refuse_another(recipe: TransferRecipe, out: Path) -> None:
    """Raise ConfigError where `run` would refuse to go on with what has begun in ``out``; nothing
    is measured for it.
    """
    if all(last_checkpoint(one) is None for one, _ in stages(recipe, out)):
        return
    recipe = _decided(recipe)
    part = training_part(recipe.data)
    method = recipe.transfer.method
    learnt = part if method in ("joint", "heads", "marginal") else _of(part, covid=True)
    if method not in STAGED:
        own = planned_as_before(recipe, out)
        refuse_resuming(out, own, {"train": learnt.provenance})
        return
    first, tuned = _of_stages(recipe, recipe, out)
    refuse_other_run(out, planned_as_before(tuned, out), {"train": learnt.provenance})
    before = out / PRETRAINED
    # Which scans have lungs to paint into shows when they are read.
    known = {} if method == "paint" else {"train": _of(part, covid=False).provenance}
    refuse_resuming(before, planned_as_before(first, before), known)


def stages(recipe: TransferRecipe, out: Path) -> list[tuple[Path, int]]:
    """The runs that a recipe trains, in their order, and the steps of each."""
    if recipe.transfer.method not in STAGED:
        return [(out, recipe.train.steps)]
    before = _source_epochs(recipe) * recipe.train.steps_per_epoch
    return [(out / PRETRAINED, before), (out, recipe.train.steps)]


def _source_epochs(recipe: TransferRecipe) -> int:
    share = recipe.transfer.source_share
    epochs = round(recipe.train.epochs * share)
    if epochs < 1:
        raise ConfigError(
            f"transfer.source_share is {share} of {recipe.train.epochs} epochs",
            expected="at least an epoch on the source",
        )
    return epochs


def _finetune(
    recipe: TransferRecipe, source: Part, covid: Part, out: Path, *, resume: bool
) -> Result:
    chosen = recipe.transfer
    if chosen.method == "paint" and not set(covid.targets.values()) <= {"infection", "lesion"}:
        raise ConfigError(
            f"transfer.method is paint, and {covid.configuration} is of "
            + ", ".join(covid.targets.values()),
            expected="a configuration of infections, such as task3-msd-tumour-fold0",
            remedy="choose finetune: painted are lesions alone",
        )
    _source_epochs(recipe)  # too few are refused before anything is measured
    # Planned for the scans that it is for, as nnU-Net asks of those who fine-tune: clipped to the
    # Hounsfield units of tumours, ground glass would be lost.
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    with accelerator.main_process_first():
        plan = planned(recipe, covid.cases, covid.targets, progress=accelerator.is_main_process)
    first, tuned = _of_stages(recipe, plan, out)
    before = out / PRETRAINED
    # Before the stage on the source is trained for nothing.
    refuse_begun(out, resume)
    refuse_other_run(out, tuned, {"train": covid.provenance})
    if chosen.method == "paint":
        _painted_stage(first, source, covid.targets, before, resume=resume)
    else:
        _stage(first, source, before, resume=resume)
    return _stage(tuned, covid, out, resume=resume)


def _of_stages(
    recipe: TransferRecipe, plan: TransferRecipe, out: Path
) -> tuple[TransferRecipe, TransferRecipe]:
    """The recipes of both stages in ``out``, of a recipe that is planned as ``plan``."""
    first = dataclasses.replace(
        plan,
        train=dataclasses.replace(recipe.train, epochs=_source_epochs(recipe)),
        data=recipe.data,
    )
    tuned = dataclasses.replace(
        plan,
        train=dataclasses.replace(recipe.train, start=str(out / PRETRAINED)),
        optim=dataclasses.replace(recipe.optim, lr=recipe.optim.lr * recipe.transfer.finetune_lr),
    )
    return first, tuned


def _painted_stage(
    recipe: TransferRecipe, source: Part, targets: dict[int, str], out: Path, *, resume: bool
) -> Result:
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    with accelerator.main_process_first():
        progress = accelerator.is_main_process
        lungs = Path(recipe.data.cache) / LUNGS
        listed, without = cases_with_lungs(source.cases, lungs, progress=progress)
        recipe = planned(recipe, listed, targets, progress=progress)
        cases = cached_cases(recipe, listed, progress=progress)
    if progress:
        for case_id, fault in without.items():
            print(f"left out of the source: {case_id}: {fault}")
    paint = painter(recipe, recipe.transfer.lesions)
    kept = [row for row in source.rows if row.case.case_id not in without]
    provenance = {
        **dataclasses.replace(source, rows=kept).provenance,
        "labels": {row.dataset: ["painted lesions"] for row in source.rows},
        "without_lungs": sorted(without),
    }
    watched = PaintedPatches(FixedPatches(recipe, cases), paint, recipe.seed)
    return train(
        Supervised(new_network(recipe, run=out), build_loss(recipe.loss)),
        changed(training_stream(recipe, cases, provenance), before=[paint]),
        recipe,
        out,
        accelerator=accelerator,
        validation=DiceValidation(watched, recipe.data.labels),
        resume=resume,
    )


def _stage(recipe: TransferRecipe, part: Part, out: Path, *, resume: bool) -> Result:
    accelerator = start_processes(recipe.train.mixed_precision, recipe.train.processes)
    mode = recipe.transfer.method
    channels = Channels.plan([row.dataset for row in part.rows], part.targets)
    several = mode in ("heads", "marginal")
    listed = channels.relabelled(part.rows) if several else part.cases
    targets = channels.targets if several else part.targets
    with accelerator.main_process_first():
        progress = accelerator.is_main_process
        recipe = planned(recipe, listed, targets, progress=progress)
        cases = cached_cases(recipe, listed, progress=progress)
    network = new_network(recipe, run=out)
    loss = build_loss(recipe.loss)
    method: Method = Supervised(network, loss)
    if mode in ("heads", "marginal"):
        datasets = {row.case.case_id: row.dataset for row in part.rows}
        method = PartlyLabelled(network, loss, channels, datasets, mode)
    provenance = {**part.provenance, "labels": _meanings(recipe, part)}
    return train(
        method,
        training_stream(recipe, cases, provenance),
        recipe,
        out,
        accelerator=accelerator,
        # What a network of several datasets says of a patch is not one label map.
        validation=None
        if several
        else DiceValidation(FixedPatches(recipe, cases), recipe.data.labels),
        resume=resume,
    )


def _meanings(recipe: TransferRecipe, part: Part) -> dict[str, list[str]]:
    """What each dataset's annotation calls what is learnt: nothing is merged without a word."""
    from covidseg.splits.tasks import configuration

    subtask, _ = configuration(part.configuration.removesuffix("-clean"))
    learnt = {row.dataset for row in part.rows}
    named = subtask.parts[recipe.data.part]
    return {a.dataset: sorted(a.meaning) for a in named if a.dataset in learnt}


def open_transfer_run(
    run: str | Path,
    dataset: str = COVID,
    *,
    device: str | torch.device | None = None,
    mirror: bool | None = None,
    batch_size: int | None = None,
) -> Predictor:
    """A predictor from any run; one of Task 3 labels as ``dataset`` does."""
    predictor = open_run(run, device=device, mirror=mirror, batch_size=batch_size)
    recipe = read_run(run, TransferRecipe)
    mode = recipe.transfer.method
    if mode not in ("heads", "marginal"):
        return predictor
    own = predicted_labels(recipe)
    channels = Channels.plan(
        [name.split("_", 1)[0] for name in recipe.data.labels], dict(enumerate(own, start=1))
    )
    networks: list[nn.Module] = [
        OfDataset(network, channels, dataset, mode) for network in predictor.networks
    ]
    pieces = one_piece_values(recipe.window, own)
    return dataclasses.replace(predictor, networks=networks, classes=len(own) + 1, one_piece=pieces)


def open_transfer_runs(
    runs: Sequence[str | Path],
    dataset: str = COVID,
    *,
    device: str | torch.device | None = None,
    mirror: bool | None = None,
    batch_size: int | None = None,
) -> Predictor | Ensemble:
    """As `covidseg.engine.runs.open_runs`, with runs of Task 3 labelling as ``dataset`` does."""
    require_same_labels(runs, [predicted_labels(read_run(run, TransferRecipe)) for run in runs])
    return as_one(
        [
            open_transfer_run(run, dataset, device=device, mirror=mirror, batch_size=batch_size)
            for run in runs
        ]
    )


def predicted_labels(recipe: TransferRecipe) -> tuple[str, ...]:
    """What a run predicts, from value 1 on: the channels of several datasets are of one labels."""
    if recipe.transfer.method not in ("heads", "marginal"):
        return tuple(recipe.data.labels)
    return tuple(dict.fromkeys(name.split("_", 1)[1] for name in recipe.data.labels))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; see the module's text."""
    recipe, out, resume = parse(__doc__ or "", arguments, TransferRecipe)
    run(recipe, out, resume=resume)


if __name__ == "__main__":
    run_main(main)
