"""What each method of domain generalisation adds to a training step.

    python benchmarks/augmentation_cost.py [--dimensions 2] [--methods NAME…] [--wide] [--steps 20]
        [--rounds 3]

A step is nnU-Net's augmentation, forward, loss, backward, clipping and optimiser on one fixed batch
on the training device; nothing is read. `added` is the method's own transforms as a share of the
plain step: what an augmentation costs. `step` is the whole step with the method over the plain one:
methods that show the network several versions of each sample take several times the network's work
there, which is the method's, not the augmentation's. All take turns in one process; medians.

On a GPU the network is the benchmark's, planned by nnU-Net's rules. Without one it has a few
channels, so that a step takes a blink; with --wide it has as many as the benchmark's (32 to 320 in
3D, to 512 in 2D), on patches that a processor can learn from.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from covidseg.engine.augmentation import Augmentation, AugmentationConfig, planned_augmentation
from covidseg.engine.optim import build_optimizer
from covidseg.engine.segmentation import AugmentBatch, GridConfig, PatchConfig
from covidseg.generalization.build import build_method, changes, completed, painter
from covidseg.generalization.config import GeneralizationConfig, GeneralizationRecipe
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.planning import plan

METHODS = ("none", "gin", "gin-ipa", "slaug", "randconv", "mixstyle", "bigaug", "lesions")
WARM_UP = 3


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def plain_recipe(dimensions: int, wide: bool) -> GeneralizationRecipe:
    """The benchmark's network on a GPU, one of few or of as many channels without."""
    gpu = torch.cuda.is_available()
    spacing = (5.0, 0.742, 0.742) if gpu else (5.0, 1.5, 1.5)
    shape = (62, 512, 512) if gpu else ((16, 64, 64) if dimensions == 3 else (16, 128, 128))
    planned = plan(spacing[3 - dimensions :], shape[3 - dimensions :])
    features = None if gpu or wide else (8, 16, 32, 64, 64, 64, 64, 64)[: len(planned.strides)]
    network = NetworkConfig(
        dimensions=2 if dimensions == 2 else 3,
        classes=3,
        deep_supervision=True,
        features=features,
    ).with_plan(planned)
    return GeneralizationRecipe(
        name="cost",
        network=network,
        grid=GridConfig(low=-1000.0, high=150.0, mean=-600.0, std=250.0, spacing_mm=spacing),
        patch=PatchConfig(planned.patch_size, planned.batch_size if gpu else 2),
        augmentation=planned_augmentation(AugmentationConfig(), planned.patch_size),
    )


def with_method(recipe: GeneralizationRecipe, method: str) -> GeneralizationRecipe:
    """The recipe with a method of `METHODS`."""
    name = "none" if method == "lesions" else method
    chosen = GeneralizationConfig(name=name, synthetic_lesions=method == "lesions")
    recipe = dataclasses.replace(recipe, generalization=chosen)
    if method == "lesions":
        network = dataclasses.replace(recipe.network, classes=2)
        recipe = dataclasses.replace(recipe, network=network)
    return completed(recipe)


def batch_of(recipe: GeneralizationRecipe, device: torch.device) -> dict:
    """A batch as it comes from the reader: two lungs of even density in a body."""
    assert recipe.patch.size is not None
    size = Augmentation(recipe.augmentation, recipe.patch.size).input_size
    count = recipe.patch.batch_size or 2
    label = torch.zeros(count, *size, dtype=torch.long)
    width = size[-1]
    label[..., width // 8 : width * 3 // 8] = 1
    label[..., width * 5 // 8 : width * 7 // 8] = 2
    noise = torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(0))
    image = torch.where(label[:, None] > 0, -1.0, 2.5) + 0.1 * noise
    seeds = torch.arange(1, count + 1)
    return {"image": image.to(device), "label": label.to(device), "seed": seeds}


def seconds(function: Callable[[int], object], steps: int) -> float:
    """Seconds a call, after a warm-up."""
    began = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            synchronise()
            began = time.perf_counter()
        function(step)
    synchronise()
    return (time.perf_counter() - began) / steps


class Timed:
    """One method's step, and its own transforms alone."""

    def __init__(self, recipe: GeneralizationRecipe, device: torch.device) -> None:
        assert recipe.patch.size is not None
        torch.manual_seed(0)
        self.device = device
        network = build_network(recipe.network).to(device).train()
        self.method = build_method(recipe, network)
        self.optimizer = build_optimizer(recipe.optim, self.method.parameter_groups())
        self.batch = batch_of(recipe, device)
        self.engine = AugmentBatch(Augmentation(recipe.augmentation, recipe.patch.size))
        chosen = recipe.generalization
        self.before = [painter(recipe, chosen.lesions)] if chosen.synthetic_lesions else []
        self.after = changes(recipe)

    def with_seeds(self, step: int) -> dict:
        return {**self.batch, "seed": self.batch["seed"] + 1000 * step}

    def own(self, step: int) -> None:
        """The method's transforms alone, on what they get in a step."""
        batch = self.with_seeds(step)
        with torch.no_grad():
            for change in self.before:
                change(batch)
            if self.after:
                cut = self.cut
                for change in self.after:
                    cut = change({**cut, "seed": batch["seed"]})

    def prepare(self) -> None:
        with torch.no_grad():
            self.cut = self.engine(self.with_seeds(0))

    def whole(self, step: int) -> None:
        with torch.no_grad():
            batch = self.with_seeds(step)
            for change in (*self.before, self.engine, *self.after):
                batch = change(batch)
        half = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            loss = self.method.step(batch)["loss"]
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 12.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dimensions", type=int, choices=(2, 3), default=3)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS[1:], default=METHODS[1:], help="those to time"
    )
    parser.add_argument("--wide", action="store_true", help="the benchmark's channels on a CPU too")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    recipe = plain_recipe(arguments.dimensions, arguments.wide)
    methods = (METHODS[0], *arguments.methods)
    whole: dict[str, list[float]] = {name: [] for name in methods}
    own: dict[str, list[float]] = {name: [] for name in methods}
    # The first of a kind of step loads its kernels, which takes a GPU longer than many steps.
    seconds(Timed(with_method(recipe, "none"), device).whole, arguments.steps)
    for _ in range(arguments.rounds):
        for name in methods:
            timed = Timed(with_method(recipe, name), device)
            timed.prepare()
            own[name].append(seconds(timed.own, arguments.steps))
            whole[name].append(seconds(timed.whole, arguments.steps))
            del timed
    plain = statistics.median(whole["none"])
    result = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "features": recipe.network.features,
        "patch": recipe.patch.size,
        "batch_size": recipe.patch.batch_size,
        "plain_step_ms": 1000 * plain,
        "methods": {
            name: {
                "added": statistics.median(own[name]) / plain,
                "step": statistics.median(whole[name]) / plain,
            }
            for name in arguments.methods
        },
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "methods"}))
    print("| method | transforms, share of a plain step | whole step, times the plain one |")
    print("| :-- | --: | --: |")
    for name, values in result["methods"].items():  # type: ignore[attr-defined]
        print(f"| {name} | {100 * values['added']:.1f} % | {values['step']:.2f} |")


if __name__ == "__main__":
    main()
