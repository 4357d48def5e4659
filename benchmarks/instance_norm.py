"""Instance normalisation by torch's kernel for groups, over torch's own: steps and forward passes.

    python benchmarks/instance_norm.py [--threads 1] [--rounds 9] [--json instance_norm.json]

On the processor, float32, for plain U-Nets of nnU-Net's family. `step` is forward and backward pass
of a fixed batch, `forward` the forward pass alone in inference mode. Three networks with the same
weights take turns: ours; with torch's InstanceNorm in the same layout; and, in 2D, with that in
channels_last, which convolutions alone would prefer. Ratios are of medians, over ours.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.instance_norm import InstanceNorm2d, InstanceNorm3d, preferred_layout

SETTINGS = {
    "2d-demo": ((16, 16, 32, 64, 128), (8, 1, 112, 112)),
    "2d": ((32, 64, 128, 256, 512), (2, 1, 192, 192)),
    "3d": ((8, 16, 32, 64), (2, 1, 16, 64, 64)),
}
TORCHS: dict[type[nn.Module], type[nn.Module]] = {
    InstanceNorm2d: nn.InstanceNorm2d,
    InstanceNorm3d: nn.InstanceNorm3d,
}


def networks(features: tuple[int, ...], dimensions: int) -> dict[str, nn.Module]:
    """The networks that take turns."""
    one, two = (1,) * dimensions, (2,) * dimensions
    config = NetworkConfig(
        dimensions=dimensions,
        features=features,
        strides=(one, *[two] * (len(features) - 1)),
        kernel_sizes=((3,) * dimensions,) * len(features),
    )
    torch.manual_seed(0)
    own = build_network(config)
    if dimensions == 2:
        own.to(memory_format=preferred_layout(own))
    torchs = copy.deepcopy(own)
    for module in torchs.modules():
        if type(module) in TORCHS:
            module.__class__ = TORCHS[type(module)]
    found = {"ours": own, "torch": torchs}
    if dimensions == 2:
        found["torch, channels_last"] = copy.deepcopy(torchs).to(memory_format=torch.channels_last)
    return found


def step(network: nn.Module, image: torch.Tensor) -> None:
    """Forward and backward pass."""
    network.train()
    network(image).square().mean().backward()


@torch.inference_mode()
def forward(network: nn.Module, image: torch.Tensor) -> None:
    """Forward pass alone."""
    network.eval()
    network(image)


def medians(
    work: Callable[[nn.Module, torch.Tensor], None],
    chosen: dict[str, nn.Module],
    image: torch.Tensor,
    rounds: int,
) -> dict[str, float]:
    """Median seconds of each network, which take turns after a first call."""
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(rounds + 1):
        for name, network in chosen.items():
            began = time.perf_counter()
            work(network, image)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "torch": torch.__version__,
        "torchs_over_ours": {},
    }
    for name, (features, shape) in SETTINGS.items():
        chosen, image = networks(features, len(shape) - 2), torch.randn(shape)
        row: dict = {"features": features, "batch": shape}
        for work in (step, forward):
            found = medians(work, chosen, image, options.rounds)
            row[work.__name__] = {
                other: found[other] / found["ours"] for other in found if other != "ours"
            }
            row[f"{work.__name__}_ms"] = 1000 * found["ours"]
        result["torchs_over_ours"][name] = row
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
