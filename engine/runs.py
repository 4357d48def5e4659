"""From a run's folder back to something that predicts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch

from covidseg.core.errors import ConfigError, UnreadableFileError
from covidseg.core.files import sha256_of_file
from covidseg.engine import manifest
from covidseg.engine.checkpoint import last_checkpoint, load_predictor, read_description
from covidseg.engine.recipes import load_recipe
from covidseg.engine.segmentation import SegmentationRecipe, WindowConfig, without_weights
from covidseg.inference.ensemble import Ensemble
from covidseg.inference.predictor import Predictor
from covidseg.inference.sliding import Sliding
from covidseg.networks.build import build_network

SomeRecipe = TypeVar("SomeRecipe", bound=SegmentationRecipe)

# Folders in a run's own folder that hold runs of its earlier stages.
EARLIER_STAGES = ("pretrained", "rounds")


def read_run(
    run: str | Path,
    schema: type[SomeRecipe] = SegmentationRecipe,  # type: ignore[assignment]
) -> SomeRecipe:
    """The planned recipe that a run was trained with, as far as ``schema`` knows its sections."""
    config = Path(run) / "config.yaml"
    if not config.is_file():
        raise UnreadableFileError(
            "is no run's folder",
            path=run,
            expected="config.yaml and checkpoints/ in it",
            remedy="give the folder that training wrote to",
        )
    return load_recipe(config, schema=schema, others=True)


def runs_in(folders: Sequence[Path]) -> list[Path]:
    """The runs that are meant: each folder that is one, and those in a folder of several.

    Raises
    ------
    ConfigError
        A run is only in an earlier stage, or one in a folder of several is not complete.
    """
    found: list[Path] = []
    for folder in folders:
        if _in_earlier_stage(folder):
            raise ConfigError(
                f"is not trained to its last stage: it holds {_earlier_stages(folder)} alone",
                path=folder,
                expected="config.yaml and checkpoints/ in it",
                remedy="train it to its end (the same call with --resume), or name the runs that "
                "you want instead",
            )
        inside = [] if _is_run(folder) else sorted(filter(_is_begun, folder.glob("*")))
        for run in inside:
            if not manifest.is_complete(run):
                raise ConfigError(
                    "is not trained to its end",
                    path=run,
                    remedy=f"wait for it, or name the runs that you want instead of {folder}",
                )
        found += inside or [folder]
    return found


def unfinished(run: str | Path) -> str | None:
    """How far a run came that was not trained to its end, and what to do; None for a whole one.

    A run without a manifest, as weights that were passed on may be, is judged by its step alone.

    Raises
    ------
    UnreadableFileError
        The folder is no run, or has no checkpoint.
    """
    recipe = read_run(run, SegmentationRecipe)
    step, steps = read_description(_checkpoint(run))["step"], recipe.train.steps
    known = manifest.read(Path(run))
    if manifest.is_complete(Path(run)) or (known is None and step >= steps):
        return None
    status = f"status {known['status']!r}" if known is not None else "no manifest"
    return (
        f"{run}: is not trained to its end: its weights are those of step {step} of {steps} "
        f"({status}). Wait for it, or go on with it: the same call with --resume."
    )


def weights_digest(run: str | Path) -> str:
    """A hash of the weights and of the recipe that a run predicts with."""
    checkpoint = _checkpoint(run)
    weights = checkpoint / f"{read_description(checkpoint)['predictor']}.safetensors"
    parts = [sha256_of_file(path) for path in (weights, Path(run) / "config.yaml")]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _checkpoint(run: str | Path) -> Path:
    checkpoint = last_checkpoint(run)
    if checkpoint is None:
        raise UnreadableFileError("holds no checkpoint", path=run)
    return checkpoint


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def _earlier_stages(folder: Path) -> str:
    return " and ".join(name for name in EARLIER_STAGES if (folder / name).is_dir())


def _in_earlier_stage(folder: Path) -> bool:
    """Whether it is a run's folder in which the stage that predicts has not begun."""
    return not _is_run(folder) and bool(_earlier_stages(folder))


def _is_begun(folder: Path) -> bool:
    return _is_run(folder) or _in_earlier_stage(folder)


def chosen_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; for null a GPU if there is one.

    Raises
    ------
    ConfigError
        There is no such device, or it cannot be used.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros((), device=chosen).item()
    # torch raises several kinds, by what it was built with.
    except Exception as fault:
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        reason = str(fault).splitlines()[0][:200] if str(fault) else type(fault).__name__
        raise ConfigError(
            f"the device {str(device)!r} cannot be used ({reason})",
            expected=", ".join(["cpu", *(f"cuda:{number}" for number in range(gpus))]),
            remedy="choose another --device, or leave it out",
        ) from fault
    return chosen


def open_run(
    run: str | Path,
    *,
    device: str | torch.device | None = None,
    mirror: bool | None = None,
    batch_size: int | None = None,
) -> Predictor:
    """A predictor from one run; see `open_runs`."""
    chosen = chosen_device(device)
    recipe = read_run(run, SegmentationRecipe)
    network = build_network(without_weights(recipe.network))
    load_predictor(network, run)
    dimensions = recipe.network.dimensions
    assert recipe.patch.size is not None
    depth, height, width = recipe.patch.size if dimensions == 3 else (1, *recipe.patch.size)
    sliding = Sliding(
        (depth, height, width),
        recipe.window.overlap,
        batch_size or recipe.window.batch_size or recipe.patch.batch_size or 1,
    )
    mirrors = recipe.window.mirror if mirror is None else mirror
    axes = recipe.augmentation.mirror_axes if recipe.augmentation.p_mirror > 0 else ()
    precision = torch.float32
    if recipe.train.mixed_precision == "bf16":
        precision = torch.bfloat16
    elif recipe.train.mixed_precision == "fp16" and chosen.type == "cuda":
        precision = torch.float16
    return Predictor(
        [network],
        recipe.grid.preprocessing(),
        sliding,
        dimensions,
        recipe.network.outputs,
        tuple(axis for axis in axes if axis < dimensions) if mirrors else (),
        chosen,
        precision,
        one_piece_values(recipe.window, recipe.data.labels),
        recipe.window.logit_adjustment,
    )


def one_piece_values(window: WindowConfig, labels: Sequence[str]) -> tuple[int, ...]:
    """Values of the labels, which are called ``labels`` from 1 on, that are in one piece."""
    return tuple(value for value, name in enumerate(labels, start=1) if name in window.one_piece)


def open_runs(
    runs: Sequence[str | Path],
    *,
    device: str | torch.device | None = None,
    mirror: bool | None = None,
    batch_size: int | None = None,
) -> Predictor | Ensemble:
    """A predictor from one run, or from several as an ensemble (mean of their probabilities).

    Parameters
    ----------
    runs
        Folders that training wrote. Members of an ensemble share their labels. Those whose
        preprocessing and windows are equal share those too; each of the others sees the scan its
        own way, and the probabilities meet on the scan's grid.
    device
        Where to predict; null for a GPU if there is one.
    mirror, batch_size
        Instead of the recipe's.

    Raises
    ------
    UnreadableFileError
        A folder is no run, or has no checkpoint.
    ConfigError
        The runs differ in what they predict, or some are for pictures and some for CT volumes; or
        there is no such device.
    """
    require_same_labels(runs, [read_run(run, SegmentationRecipe).data.labels for run in runs])
    return as_one(
        [open_run(run, device=device, mirror=mirror, batch_size=batch_size) for run in runs]
    )


def require_same_labels(runs: Sequence[str | Path], labels: Sequence[Sequence[str]]) -> None:
    """Raise ConfigError where a run predicts other ``labels`` than the first."""
    for run, own in zip(runs, labels, strict=True):
        if own != labels[0]:
            raise ConfigError(
                f"its labels are {', '.join(own)}",
                path=run,
                expected=f"{', '.join(labels[0])}, as those of {runs[0]}",
                remedy="make an ensemble of runs that predict the same",
            )


def as_one(predictors: Sequence[Predictor]) -> Predictor | Ensemble:
    """Predictors together: those that differ in their networks alone share a scan's windows."""
    members: list[Predictor] = []
    for one in predictors:
        for place, other in enumerate(members):
            if one.settings == other.settings:
                networks = [*other.networks, *one.networks]
                members[place] = dataclasses.replace(other, networks=networks)
                break
        else:
            members.append(one)
    return members[0] if len(members) == 1 else Ensemble(members)
