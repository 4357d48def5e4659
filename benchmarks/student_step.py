"""Cost of a student's step over a supervised step with the same number of patches, per method.

    python benchmarks/student_step.py [--steps 20] [--dimensions 2] [--json student_step.json]

A step is the method's losses, backward pass, clipping, optimiser and what follows it (the teacher's
weights among it) on one fixed batch on the device, of as many unlabelled as labelled patches. The
supervised step sees as many labelled patches as the student sees patches with gradients: labelled
and unlabelled; for UniMatch labelled, weak and two strong views; for CPS it is taken twice, for two
networks. Passes of the teacher's network are taken out of the student's time (for UniMatch without
an average those of the student in evaluation mode) and reported beside it. What a method does to
their input and output (noise, softmax, entropy, boxes) counts.

Both take turns step by step in one process, and the ratio is of their medians.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from loop import setting, synchronise
from torch import nn

from covidseg.engine.config import OptimConfig
from covidseg.engine.method import Method, Progress
from covidseg.engine.optim import build_optimizer
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.instance_norm import preferred_layout
from covidseg.pseudolabel.build import new_method
from covidseg.pseudolabel.config import MethodConfig, UniMatchConfig
from covidseg.pseudolabel.recipe import PseudolabelRecipe

METHODS = {
    "noisy-student": MethodConfig("noisy-student"),
    "mean-teacher": MethodConfig("mean-teacher"),
    "ua-mt": MethodConfig("ua-mt"),
    "cps": MethodConfig("cps"),
    "bcp": MethodConfig("bcp"),
    "unimatch": MethodConfig("unimatch"),
    "unimatch-v2": MethodConfig("unimatch", unimatch=UniMatchConfig(teacher_decay=0.996)),
}
LATE = Progress(step=900, steps=1000, steps_per_epoch=100)


class Timed:
    """A method's whole step on one batch, timed, and the teacher's part of it."""

    def __init__(self, method: Method, batch: dict[str, Any], device: torch.device, half: bool):
        self.method, self.batch, self.device, self.half = method, batch, device, half
        for name, network in method.modules().items():
            network.to(device).train(name != "teacher")
        self.optimizer = build_optimizer(OptimConfig(), method.parameter_groups())
        self.parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        self.taught = 0.0
        for network in self._teachers():
            network.forward = self._noting(network.forward)

    def _teachers(self) -> list[nn.Module]:
        networks = self.method.modules()
        if "teacher" in networks:
            return [networks["teacher"]]
        # The student that teaches itself does so in evaluation mode.
        return [networks["student"]] if "student" in networks else []

    def _noting(self, forward: Callable) -> Callable:
        def noted(image: torch.Tensor) -> Any:
            with self._watch():
                return forward(image)

        return noted

    @contextmanager
    def _watch(self):
        if torch.is_grad_enabled():
            yield
            return
        synchronise()
        began = time.perf_counter()
        yield
        synchronise()
        self.taught += time.perf_counter() - began

    def step(self) -> tuple[float, float]:
        """Seconds of a step and of the teacher's passes in it."""
        self.taught = 0.0
        synchronise()
        began = time.perf_counter()
        self.method.on_step_start(LATE)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = self.method.step(self.batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 12.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.on_step_end(LATE)
        synchronise()
        return time.perf_counter() - began, self.taught


def batch_of(count: int, patch: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """``count`` patches with everything that any method asks of a stream."""
    image = torch.randn(count, 1, *patch, device=device)
    return {
        "image": image,
        "label": (image[:, 0] > 1).long(),
        "seed": torch.arange(count),
        "strong_1": image + 0.1,
        "strong_2": image - 0.1,
    }


def measure(name: str, recipe: PseudolabelRecipe, arguments, device: torch.device, half: bool):
    """Medians of the method's and the supervised step, in seconds."""
    assert recipe.patch.size is not None
    assert recipe.patch.batch_size is not None
    count, patch = recipe.patch.batch_size, recipe.patch.size

    def make(config: MethodConfig) -> Method:
        torch.manual_seed(0)
        planned = dataclasses.replace(recipe, method=config)
        return new_method(planned, lambda place: network_of(recipe.network))

    labelled, other = batch_of(count, patch, device), batch_of(count, patch, device)
    second = "pseudo" if name == "noisy-student" else "unlabelled"
    student = Timed(make(METHODS[name]), {"labelled": labelled, second: other}, device, half)
    patches = (4 if name.startswith("unimatch") else 2) * count
    whole = {"labelled": batch_of(patches, patch, device)}
    supervised = Timed(make(MethodConfig("supervised")), whole, device, half)
    seconds: dict[str, list[float]] = {"student": [], "teacher": [], "supervised": []}
    for turn in range(arguments.warm_up + arguments.steps):
        with_teacher, teacher = student.step()
        alone = sum(supervised.step()[0] for _ in range(2 if name == "cps" else 1))
        if turn >= arguments.warm_up:
            seconds["student"].append(with_teacher - teacher)
            seconds["teacher"].append(teacher)
            seconds["supervised"].append(alone)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "patches": patches,
        "seconds": median,
        "student_over_supervised": median["student"] / median["supervised"],
        "with_teacher_over_supervised": (median["student"] + median["teacher"])
        / median["supervised"],
    }


def network_of(config: NetworkConfig) -> nn.Module:
    network = build_network(config)
    return (
        network.to(memory_format=preferred_layout(network)) if config.dimensions == 2 else network
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 3], choices=(2, 3))
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    if gpu:
        torch.backends.cudnn.benchmark = True
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if gpu else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "mixed_precision": "bf16" if gpu else "no",
        "steps": arguments.steps,
    }
    for dimensions in arguments.dimensions:
        network, patch, batch_size, _ = setting(dimensions)
        recipe = PseudolabelRecipe(name="student-step", network=network)
        sizes = dataclasses.replace(recipe.patch, size=patch, batch_size=batch_size)
        recipe = dataclasses.replace(recipe, patch=sizes)
        rows = {name: measure(name, recipe, arguments, device, gpu) for name in METHODS}
        result[f"{dimensions}d"] = {
            "patch": patch,
            "batch_size": f"{batch_size} labelled and {batch_size} unlabelled",
            "network": network.family,
            "methods": rows,
        }
        for name, row in rows.items():
            print(f"{dimensions}D {name:14} {row['student_over_supervised']:.3f}", flush=True)
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
