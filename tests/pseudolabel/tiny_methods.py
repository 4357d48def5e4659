"""Every method on a run small enough to be made many times, in 2D and 3D. Also run as a script."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from covidseg.engine.config import OptimConfig, TrainConfig
from covidseg.engine.loop import train
from covidseg.engine.seeds import derived_seed, seed_everything
from covidseg.engine.stream import Stream, collate
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.pseudolabel.build import new_method
from covidseg.pseudolabel.config import CopyPasteConfig, MethodConfig, UniMatchConfig
from covidseg.pseudolabel.recipe import PseudolabelRecipe

# UniMatch teaches where it is sure, which no network is after a few steps.
UNIMATCH = UniMatchConfig(threshold=0.55)
METHODS = {
    "noisy-student": MethodConfig("noisy-student"),
    "mean-teacher": MethodConfig("mean-teacher"),
    "ua-mt": MethodConfig("ua-mt"),
    "cps": MethodConfig("cps"),
    "bcp": MethodConfig("bcp", bcp=CopyPasteConfig(pretraining=0.2)),
    "unimatch": MethodConfig("unimatch", unimatch=UNIMATCH),
    "unimatch-v2": MethodConfig("unimatch", unimatch=replace(UNIMATCH, teacher_decay=0.996)),
}
NETWORKS = {
    2: NetworkConfig(dimensions=2, norm="batch", strides=((1, 1), (2, 2)), features=(4, 6)),
    3: NetworkConfig(
        dimensions=3,
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        features=(3, 4, 5),
        deep_supervision=True,
    ),
}


def recipe_of(name, dimensions):
    return PseudolabelRecipe(
        name="tiny",
        seed=7,
        network=NETWORKS[dimensions],
        optim=OptimConfig(lr=0.05, momentum=0.9),
        method=METHODS[name],
        train=TrainConfig(
            epochs=3,
            steps_per_epoch=2,
            workers=0,
            log_every=1,
            checkpoint_every=4,
            validate_every=0,
        ),
    )


class Boxes:
    """Bright boxes on noise; sample ``i`` is a function of ``i`` alone."""

    provenance = MappingProxyType({"phantom": True})

    def __init__(self, dimensions, kind):
        self.shape = (16, 16) if dimensions == 2 else (4, 12, 12)
        self.kind = kind

    def __getitem__(self, index):
        random = np.random.default_rng(derived_seed(len(self.kind), index))
        label = np.zeros(self.shape, np.int64)
        label[tuple(slice(a, a + 5) for a in random.integers(0, [n // 2 for n in self.shape]))] = 1
        image = torch.from_numpy((label + random.normal(0, 0.7, self.shape)).astype(np.float32))
        sample = {"image": image[None], "case_id": f"{self.kind}-{index % 5}"}
        if self.kind == "pseudo":
            label[random.random(self.shape) < 0.3] = 255
        if self.kind != "unlabelled":
            sample["label"] = torch.from_numpy(label)
        return sample


def strong_views(batch):
    """Two views whose random numbers come from the samples' seeds."""
    views = {}
    for number in (1, 2):
        factors = [derived_seed(seed, number) / 2**63 for seed in batch["seed"].tolist()]
        shape = [-1, *[1] * (batch["image"].ndim - 1)]
        views[f"strong_{number}"] = batch["image"] * (0.5 + torch.tensor(factors).view(shape))
    return {**batch, **views}


def streams_of(name, dimensions):
    second = "pseudo" if name == "noisy-student" else "unlabelled"
    return {
        "labelled": Stream(Boxes(dimensions, "labelled"), 4),
        second: Stream(Boxes(dimensions, second), 4, strong_views),
    }


def batch_of(name, dimensions):
    """The first step's batch, as the loop makes it."""
    batch = {}
    for place, (kind, stream) in enumerate(streams_of(name, dimensions).items()):
        part = collate([stream.dataset[i] for i in range(4)])
        part["seed"] = torch.tensor([derived_seed(3, place, i) for i in range(4)])
        batch[kind] = stream.augment(part) if stream.augment else part
    return batch


def method_of(recipe):
    def make_network(place):
        seed_everything(derived_seed(recipe.seed, place))
        return build_network(recipe.network)

    return new_method(recipe, make_network)


def run(run_dir, name, dimensions, *, resume=False, method=None):
    """Train one method; returns it."""
    torch.set_num_threads(1)
    recipe = recipe_of(name, dimensions)
    method = method or method_of(recipe)
    train(method, streams_of(name, dimensions), recipe, Path(run_dir), resume=resume)
    return method


def as_child(folder, environment):
    """Every method, one after the other, in a process of a fork server."""
    os.environ.update(environment)
    for name in METHODS:
        for dimensions in NETWORKS:
            run(Path(folder) / f"{name}-{dimensions}d", name, dimensions)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    as_child(sys.argv[1], {})
