"""Steps per second of the whole training loop over those of the bare network step.

    python benchmarks/loop.py [--dimensions 2] [--steps 30] [--rounds 3] [--json loop.json]

The bare step is forward, loss, backward, clipping and optimiser on one fixed batch on the device.
The loop is `covidseg.engine.loop.train` with one worker that cuts patches from memory-mapped
volumes, with all its logging and checks, once without and once with nnU-Net's augmentation. The two
take turns in one process, and the ratio is of their medians. Checkpoints are timed on their own:
they come once in hundreds of steps.

On a GPU the 3D network is the one planned for COVID-19 scans (28×256×256, 44.8 M parameters) in
bfloat16; without one, networks are small enough for a few steps a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from covidseg.engine.augmentation import Augmentation, AugmentationConfig
from covidseg.engine.checkpoint import save_checkpoint
from covidseg.engine.config import Recipe, TrainConfig
from covidseg.engine.distributed import start_processes
from covidseg.engine.loop import train
from covidseg.engine.losses import build_loss
from covidseg.engine.method import Supervised
from covidseg.engine.optim import build_optimizer
from covidseg.engine.seeds import derived_seed
from covidseg.engine.stream import Stream, collate, to_device
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.planning import plan

WARM_UP = 5


class Cuts:
    """Patches cut at random places of a float16 volume that lies in a file."""

    def __init__(self, path: Path, size: tuple[int, ...]) -> None:
        self.path, self.size = path, size
        self.volume: np.ndarray | None = None

    def __getitem__(self, index: int) -> dict:
        if self.volume is None:
            self.volume = np.load(self.path, mmap_mode="r")
        rng = np.random.default_rng(derived_seed(0, index))
        size = (1, *self.size) if len(self.size) == 2 else self.size
        start = [int(rng.integers(n - s + 1)) for n, s in zip(self.volume.shape, size, strict=True)]
        cut = self.volume[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))]
        image = cut.astype(np.float32).reshape(self.size)
        return {
            "image": torch.from_numpy(image[None]),
            "label": torch.from_numpy((image > 1).astype(np.uint8)),
            "case_id": "volume",
        }


class Timed(Supervised):
    """Notes when each step ended."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.ends: list[float] = []

    def on_step_end(self, progress) -> None:
        if progress.step == WARM_UP - 1 or progress.step == progress.steps - 1:
            synchronise()
        self.ends.append(time.perf_counter())


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def setting(dimensions: int) -> tuple[NetworkConfig, tuple[int, ...], int, tuple[int, ...]]:
    """Network, patch, batch and the volume that patches are cut from."""
    if torch.cuda.is_available():
        if dimensions == 3:
            planned = plan((5, 0.742, 0.742), (62, 512, 512))
            network = NetworkConfig(classes=2, deep_supervision=True).with_plan(planned)
            return network, planned.patch_size, planned.batch_size, (62, 512, 512)
        network = NetworkConfig(family="smp", dimensions=2, encoder="resnet34")
        return network, (512, 512), 12, (62, 1024, 1024)
    if dimensions == 3:
        patch = (16, 64, 64)
        planned = plan((5, 1.5, 1.5), patch)
        network = NetworkConfig(classes=2, deep_supervision=True, features=(8, 16, 32, 64, 64))
        return network.with_plan(planned), patch, 2, (62, 256, 256)
    network = NetworkConfig(family="smp", dimensions=2, encoder="resnet18")
    return network, (128, 128), 4, (62, 288, 288)


def bare_steps_per_second(method: Supervised, recipe: Recipe, batch: dict, steps: int) -> float:
    """The network step alone."""
    device = batch["image"].device
    method.network.to(device).train()
    optimizer = build_optimizer(recipe.optim, method.parameter_groups())
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    half = recipe.train.mixed_precision == "bf16"
    began = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            synchronise()
            began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = method.step(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 12.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    synchronise()
    return steps / (time.perf_counter() - began)


def loop_steps_per_second(method: Timed, recipe: Recipe, stream: Stream, folder: Path) -> float:
    """The loop from the end of its warm-up to its last step."""
    method.ends.clear()
    train(method, stream, recipe, folder)
    return (len(method.ends) - WARM_UP) / (method.ends[-1] - method.ends[WARM_UP - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dimensions", type=int, choices=(2, 3), default=3)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    network, patch, batch_size, volume = setting(arguments.dimensions)
    gpu = torch.cuda.is_available()
    if gpu:
        torch.backends.cudnn.benchmark = True
    recipe = Recipe(
        name="loop",
        network=network,
        train=TrainConfig(
            epochs=1,
            steps_per_epoch=WARM_UP + arguments.steps,
            mixed_precision="bf16" if gpu else "no",
            workers=4 if gpu else 1,
            checkpoint_every=10**9,
        ),
    )
    augmentation = Augmentation(
        AugmentationConfig(in_plane_only=len(patch) == 3, p_mirror=0.5), patch
    )

    def augment(batch: dict) -> dict:
        image, label = augmentation(batch["image"], batch["label"], batch["seed"].tolist())
        return {**batch, "image": image, "label": label}

    rates: dict[str, list[float]] = {"bare": [], "loop": [], "loop_augmented": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rng = np.random.default_rng(0)
        np.save(folder / "volume.npy", rng.standard_normal(volume).astype(np.float16))
        plain = Stream(Cuts(folder / "volume.npy", patch), batch_size)
        augmented = Stream(
            Cuts(folder / "volume.npy", augmentation.input_size), batch_size, augment
        )
        torch.manual_seed(0)
        method = Timed(build_network(network), build_loss(recipe.loss))
        device = start_processes(recipe.train.mixed_precision).device
        fixed = to_device(collate([plain.dataset[i] for i in range(batch_size)]), device)
        for turn in range(arguments.rounds):
            rates["bare"].append(bare_steps_per_second(method, recipe, fixed, arguments.steps))
            for name, stream in (("loop", plain), ("loop_augmented", augmented)):
                run = folder / f"{name}-{turn}"
                rates[name].append(loop_steps_per_second(method, recipe, stream, run))
        began = time.perf_counter()
        optimizer = build_optimizer(recipe.optim, method.parameter_groups())
        save_checkpoint(
            folder / "checkpoint",
            1,
            {"model": method.network},
            {"optimizer": optimizer.state_dict()},
            config={},
            predictor="model",
        )
        checkpoint_seconds = time.perf_counter() - began
    median = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "device": torch.cuda.get_device_name() if gpu else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "workers": recipe.train.workers,
        "torch": torch.__version__,
        "mixed_precision": recipe.train.mixed_precision,
        "patch": patch,
        "batch_size": batch_size,
        "million_parameters": sum(p.numel() for p in method.network.parameters()) / 1e6,
        "steps_per_second": median,
        "all_turns": rates,
        "loop_over_bare": median["loop"] / median["bare"],
        "augmented_loop_over_bare": median["loop_augmented"] / median["bare"],
        "checkpoint_seconds": checkpoint_seconds,
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
