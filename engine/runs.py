"""From a run's folder back to something that predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch

from covidseg.core.errors import ConfigError, UnreadableFileError
from covidseg.engine.checkpoint import load_predictor
from covidseg.engine.recipes import load_recipe
from covidseg.engine.segmentation import SegmentationRecipe
from covidseg.inference.predictor import Predictor
from covidseg.inference.sliding import Sliding
from covidseg.networks.build import build_network

SomeRecipe = TypeVar("SomeRecipe", bound=SegmentationRecipe)


def read_run(
    run: str | Path,
    schema: type[SomeRecipe] = SegmentationRecipe,  # type: ignore[assignment]
) -> SomeRecipe:
    """The planned recipe that a run was trained with."""
    config = Path(run) / "config.yaml"
    if not config.is_file():
        raise UnreadableFileError(
            "is no run's folder",
            path=run,
            expected="config.yaml and checkpoints/ in it",
            remedy="give the folder that training wrote to",
        )
    return load_recipe(config, schema=schema)


def open_runs(
    runs: Sequence[str | Path],
    *,
    device: str | torch.device | None = None,
    mirror: bool | None = None,
    batch_size: int | None = None,
) -> Predictor:
    """A predictor from one run, or from several as an ensemble (mean of their probabilities).

    Parameters
    ----------
    runs
        Folders that training wrote. Members of an ensemble share grid, patch and labels.
    device
        Where to predict; null for a GPU if there is one.
    mirror, batch_size
        Instead of the recipe's.

    Raises
    ------
    UnreadableFileError
        A folder is no run, or has no checkpoint.
    ConfigError
        The runs differ in what they predict or in their grid.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    recipes: list[SegmentationRecipe] = [read_run(run) for run in runs]
    first = recipes[0]
    networks = []
    for run, recipe in zip(runs, recipes, strict=True):
        for what, own, other in (
            ("labels", recipe.data.labels, first.data.labels),
            ("dimensions", recipe.network.dimensions, first.network.dimensions),
            ("patch", recipe.patch.size, first.patch.size),
            ("grid", recipe.grid, first.grid),
        ):
            if own != other:
                raise ConfigError(
                    f"its {what} is not that of {runs[0]}",
                    path=run,
                    expected=str(other),
                    remedy="make an ensemble of runs of one recipe with its grid fixed, or "
                    "predict with each run and combine the results",
                )
        network = build_network(recipe.network)
        load_predictor(network, run)
        networks.append(network)
    dimensions = first.network.dimensions
    assert first.patch.size is not None
    window = first.patch.size if dimensions == 3 else (1, *first.patch.size)
    depth, height, width = window
    mirrors = first.window.mirror if mirror is None else mirror
    sliding = Sliding(
        (depth, height, width),
        first.window.overlap,
        batch_size or first.window.batch_size or first.patch.batch_size or 1,
    )
    axes = first.augmentation.mirror_axes if first.augmentation.p_mirror > 0 else ()
    precision = torch.float32
    if first.train.mixed_precision == "bf16":
        precision = torch.bfloat16
    elif first.train.mixed_precision == "fp16" and device.type == "cuda":
        precision = torch.float16
    return Predictor(
        networks,
        first.grid.preprocessing(),
        sliding,
        dimensions,
        first.network.classes,
        tuple(axis for axis in axes if axis < dimensions) if mirrors else (),
        device,
        precision,
    )
