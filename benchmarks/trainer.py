"""Steps per second of training beside nnU-Net v2's trainer.

    python benchmarks/trainer.py [--steps 30] [--rounds 3] [--json trainer.json]

Both learn from the same four drawn scans, with the same network (ours, given to nnU-Net's trainer),
patch, batch, precision, deep supervision, clipping and number of worker processes, each with its
own cache, sampling and augmentation, from the end of a warm-up to the last step. nnU-Net cuts and
augments in its workers on the processor; here workers only cut, and the training device augments.
The two take turns in one process; the ratio is of their medians. Validation and checkpoints are
left out of both.

On a GPU the network is the one planned for COVID-19 scans (28×256×256, 44.8 M parameters) in
float16, both compiled, as nnU-Net does by itself; without one it is small, in float32, uncompiled.

Packages: ``pip install covidseg[benchmarks]``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from covidseg.engine.augmentation import AugmentationConfig
from covidseg.engine.cache import TrainingCase
from covidseg.engine.config import TrainConfig
from covidseg.engine.loop import train
from covidseg.engine.losses import build_loss
from covidseg.engine.method import Supervised
from covidseg.engine.segmentation import (
    DataConfig,
    PatchConfig,
    SegmentationRecipe,
    cached_cases,
    new_network,
    planned,
    training_stream,
)
from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.volume import Volume
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.planning import plan
from covidseg.registry.cases import HU

WARM_UP = 5
DATASET = "Dataset001_Drawn"
CONFIGURATION = "3d_fullres"


class Timed(Supervised):
    """Notes when each step ended."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.ends: list[float] = []

    def on_step_end(self, progress) -> None:
        if progress.step in (WARM_UP - 1, progress.steps - 1):
            synchronise()
        self.ends.append(time.perf_counter())


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def draw(folder: Path, gpu: bool) -> list[TrainingCase]:
    """Four scans as nnU-Net's raw dataset: noise of a chest's values, and a ball to segment."""
    shape, in_plane = ((62, 512, 512), 0.742) if gpu else ((32, 160, 160), 2.2)
    raw = folder / "raw" / DATASET
    cases = []
    for number in range(4):
        rng = np.random.default_rng(number)
        image = rng.normal(-600, 300, shape[::-1]).astype(np.int16)
        grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in image.shape)]
        label = (sum(axis**2 for axis in grid) < 0.15).astype(np.uint8)
        image[label > 0] += 500
        affine = np.diag([in_plane, in_plane, 5, 1])
        case = TrainingCase(
            f"case_{number}",
            raw / "imagesTr" / f"case_{number}_0000.nii.gz",
            raw / "labelsTr" / f"case_{number}.nii.gz",
            HU,
            {1: 1},
        )
        assert case.label is not None
        for path, data in ((case.image, image), (case.label, label)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_nifti(path, Volume(data, affine))
        cases.append(case)
    (raw / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "CT"},
                "labels": {"background": 0, "ball": 1},
                "numTraining": 4,
                "file_ending": ".nii.gz",
                "overwrite_image_reader_writer": "NibabelIO",
            }
        )
    )
    return cases


def setting(gpu: bool) -> tuple[NetworkConfig, tuple[int, ...], int]:
    """Network, patch and batch."""
    if gpu:
        made = plan((5, 0.742, 0.742), (62, 512, 512))
        network = NetworkConfig(classes=2, deep_supervision=True).with_plan(made)
        return network, made.patch_size, made.batch_size
    patch = (16, 64, 64)
    network = NetworkConfig(classes=2, deep_supervision=True, features=(8, 16, 32, 64, 64))
    return network.with_plan(plan((5, 2.2, 2.2), patch)), patch, 2


class Theirs:
    """nnU-Net's trainer on its own preprocessing of the drawn scans, around our network."""

    def __init__(self, network: NetworkConfig, patch: tuple[int, ...], batch: int) -> None:
        from nnunetv2.experiment_planning.plan_and_preprocess_api import (
            extract_fingerprints,
            plan_experiments,
            preprocess,
        )

        extract_fingerprints([1], num_processes=2, show_progress_bar=False)
        threads = torch.get_num_threads()
        plan_experiments([1])
        torch.set_num_threads(threads)  # planning sets it to the number of workers
        preprocess([1], configurations=(CONFIGURATION,), num_processes=[2])
        folder = Path(os.environ["nnUNet_preprocessed"]) / DATASET  # noqa: SIM112
        self.plans = json.loads((folder / "nnUNetPlans.json").read_text())
        chosen = self.plans["configurations"][CONFIGURATION]
        chosen["patch_size"], chosen["batch_size"] = list(patch), batch
        chosen["architecture"]["arch_kwargs"]["strides"] = [list(s) for s in network.strides or ()]
        self.dataset = json.loads((folder / "dataset.json").read_text())
        self.network = network

    def steps_per_second(self, steps: int, device: torch.device) -> float:
        """Of a fresh training."""
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        class OnOurNetwork(nnUNetTrainer):
            @staticmethod
            def build_network_architecture(
                plans_manager, configuration_manager, num_input_channels, num_output_channels,
                enable_deep_supervision=True,
            ):  # fmt: skip
                return build_network(self.network)

        plans = {**self.plans, "continue_training": False}
        trainer: Any = OnOurNetwork(plans, CONFIGURATION, "all", self.dataset, device)  # type: ignore[arg-type]
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        began = 0.0
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                synchronise()
                began = time.perf_counter()
            trainer.train_step(next(trainer.dataloader_train))
        synchronise()
        rate = steps / (time.perf_counter() - began)
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            if hasattr(loader, "_finish"):
                loader._finish()
        return rate


def our_steps_per_second(recipe: SegmentationRecipe, cases, folder: Path) -> float:
    """Of a fresh training."""
    method = Timed(new_network(recipe), build_loss(recipe.loss))
    train(method, training_stream(recipe, cases, {"phantom": True}), recipe, folder)
    return (len(method.ends) - WARM_UP) / (method.ends[-1] - method.ends[WARM_UP - 1])


def peak_gibibytes() -> float | None:
    """The most memory that was in use on the GPU since the last call."""
    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    cores = len(os.sched_getaffinity(0))
    workers = max(1, min(12, cores - 1))
    network, patch, batch = setting(gpu)
    rates: dict[str, list[float]] = {"covidseg": [], "nnunetv2": []}
    peaks: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # nnU-Net reads these on import.
        for name in ("raw", "preprocessed", "results"):
            (folder / name).mkdir()
            os.environ[f"nnUNet_{name}"] = str(folder / name)
        os.environ["nnUNet_n_proc_DA"] = str(workers)  # noqa: SIM112
        cases = draw(folder, gpu)
        recipe = SegmentationRecipe(
            name="trainer",
            network=network,
            data=DataConfig(cache=str(folder / "cache")),
            patch=PatchConfig(size=patch, batch_size=batch, foreground_share=0.33),
            augmentation=AugmentationConfig(mirror_axes=(0, 1, 2)),
            train=TrainConfig(
                epochs=1,
                steps_per_epoch=WARM_UP + arguments.steps,
                mixed_precision="fp16" if gpu else "no",
                compile=gpu,
                workers=workers,
                checkpoint_every=10**9,
            ),
        )
        recipe = planned(recipe, cases, {1: "ball"}, progress=False)
        assert recipe.network == dataclasses.replace(network, classes=2)
        cached = cached_cases(recipe, cases, progress=False)
        theirs = Theirs(network, patch, batch)
        device = torch.device("cuda" if gpu else "cpu")
        peak_gibibytes()

        def result() -> dict[str, Any]:
            median = {name: statistics.median(values) for name, values in rates.items()}
            return {
                "device": torch.cuda.get_device_name() if gpu else platform.machine(),
                "cores": cores,
                "threads": torch.get_num_threads(),
                "workers": workers,
                "torch": torch.__version__,
                "nnunetv2": metadata.version("nnunetv2"),
                "mixed_precision": recipe.train.mixed_precision,
                "compiled": gpu,
                "patch": patch,
                "batch_size": batch,
                "steps_per_second": median,
                "all_turns": rates,
                "ours_over_nnunetv2": median["covidseg"] / median["nnunetv2"],
                "peak_gibibytes": peaks,
            }

        for turn in range(arguments.rounds):
            run = folder / f"run-{turn}"
            rates["covidseg"].append(our_steps_per_second(recipe, cached, run))
            peaks["covidseg"] = peak_gibibytes()
            print(f"turn {turn + 1}: ours {rates['covidseg'][-1]:.2f} steps/s", flush=True)
            rates["nnunetv2"].append(theirs.steps_per_second(arguments.steps, device))
            peaks["nnunetv2"] = peak_gibibytes()
            # After each turn, since a turn takes minutes where networks are compiled.
            if arguments.json:
                arguments.json.write_text(json.dumps(result(), indent=2) + "\n")
    print(json.dumps(result(), indent=2))


if __name__ == "__main__":
    main()
