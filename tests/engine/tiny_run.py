"""A training run small enough to be started, killed and resumed many times. Also run as a script.

Faults are asked for by environment variables: KILL_AT_STEP (the process kills itself with SIGKILL
before that step), KILL_AT_WRITE (half-way through the n-th file of a checkpoint), KILL_AT_REMOVAL
(when the new checkpoint stands and the old one is about to go), KILL_RANK (which process does so).
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from covidseg.engine.config import OptimConfig, Recipe, TrainConfig
from covidseg.engine.loop import train
from covidseg.engine.losses import build_loss
from covidseg.engine.method import Supervised
from covidseg.engine.seeds import derived_seed, seed_everything
from covidseg.engine.stream import Stream

RECIPE = Recipe(
    name="tiny",
    seed=7,
    optim=OptimConfig(lr=0.05, momentum=0.9),
    train=TrainConfig(
        epochs=3,
        steps_per_epoch=4,
        ema=0.9,
        workers=0,
        log_every=1,
        checkpoint_every=3,
        validate_every=0,
    ),
)


class Squares:
    """Bright squares on noise; sample ``i`` is a function of ``i`` alone."""

    provenance = MappingProxyType(
        {"data_sha256": "d" * 64, "split_sha256": "5" * 64, "phantom": True}
    )

    def __getitem__(self, index):
        random = np.random.default_rng(derived_seed(1, index))
        label = np.zeros((16, 16), np.uint8)
        y, x = random.integers(0, 11, 2)
        label[y : y + 5, x : x + 5] = 1
        image = label + random.normal(0, 0.7, label.shape)
        return {
            "image": torch.from_numpy(image[None].astype(np.float32)),
            "label": torch.from_numpy(label),
            "case_id": f"case-{index % 5}",
        }


class Finite(Squares):
    """The first of them as an ordinary data set."""

    def __init__(self, length=4):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index >= self.length:
            raise IndexError(index)
        return super().__getitem__(index)


def noise(batch):
    """Augmentation whose random numbers come from the samples' seeds."""
    for image, seed in zip(batch["image"], batch["seed"].tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        image += 0.1 * torch.randn(image.shape, generator=generator)
    return batch


def tiny_network(dropout=0.2, classes=2):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout2d(dropout),
        nn.Conv2d(6, classes, 3, padding=1),
    )


class Tiny(Supervised):
    """Draws from every global generator, as a careless method may."""

    def step(self, batch):
        losses = super().step(batch)
        return losses | {"drawn": torch.tensor(np.random.random() + torch.rand(()).item())}  # noqa: NPY002

    def on_step_start(self, progress):
        if os.environ.get("KILL_AT_STEP") == str(progress.step) and _is_the_one():
            os.kill(os.getpid(), signal.SIGKILL)


def _is_the_one():
    return os.environ.get("RANK", "0") == os.environ.get("KILL_RANK", "0")


def kill_in_write(number):
    """Make the ``number``-th file of a checkpoint the last thing this process writes half of."""
    from covidseg.engine import checkpoint

    count = 0

    def write(path, content):
        nonlocal count
        count += 1
        half = content[: len(content) // 2] if count == number else content
        path.write_bytes(half)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint._write = write


def kill_in_removal():
    """Kill this process when it would remove the checkpoint before the new one."""
    from covidseg.engine import checkpoint

    def removal(path, **_):
        if Path(path).name.startswith("step-"):
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.shutil.rmtree = removal


def run(run_dir, *, recipe=RECIPE, resume=False, batch_size=4, dropout=0.2, **others):
    """Train the tiny network; returns the method and the result."""
    seed_everything(recipe.seed)
    method = others.pop("method", None) or Tiny(tiny_network(dropout), build_loss(recipe.loss))
    data = others.pop("data", None) or Stream(Squares(), batch_size, augment=noise)
    return method, train(method, data, recipe, Path(run_dir), resume=resume, **others)


def main():
    """``python tiny_run.py RUN_DIR [--resume] [--plain] [--workers]``."""
    words = sys.argv[1:]
    torch.set_num_threads(1)
    if "KILL_AT_REMOVAL" in os.environ:
        kill_in_removal()
    if "KILL_AT_WRITE" in os.environ:
        kill_in_write(int(os.environ["KILL_AT_WRITE"]))
    recipe = RECIPE
    if "--workers" in words:
        recipe = replace(recipe, train=replace(recipe.train, workers=1))
    plain = "--plain" in words
    seed_everything(recipe.seed)
    method = Supervised(tiny_network(0.0), build_loss(recipe.loss)) if plain else None
    run(words[0], recipe=recipe, resume="--resume" in words, method=method)


def as_child(words, environment):
    """``main`` in a fresh process of a fork server, where the imports are done already."""
    os.environ.update(environment)
    sys.argv = ["tiny_run.py", *words]
    main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    from covidseg.core.errors import CovidsegError

    try:
        main()
    except CovidsegError as error:
        sys.exit(f"error: {error}")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
