"""Time of prediction over that of the bare forward passes, and beside MONAI's and nnU-Net's.

    python benchmarks/predict.py [--dimensions 2] [--rounds 5] [--size Z Y X] [--json predict.json]

1. ``covidseg predict``'s work on one compressed NIfTI scan, from reading to writing, over the
   network's forward passes that it needs (as many windows, in as large batches, mirrored as often,
   in the same precision) on a fixed batch that is on the device already.
2. Sliding windows over the preprocessed scan beside ``monai.inferers.sliding_window_inference`` and
   beside nnU-Net v2's ``nnUNetPredictor.predict_sliding_window_return_logits``: same network, same
   windows, same mirroring, all in float32 on a CPU and under float16 on a GPU, as nnU-Net predicts.
   MONAI has no mirroring and is given ours. Windows of one value, which only ours skips, do not
   occur. The scan's size is rounded up so that all three place the same windows.

The results are compared first, with all voxels of a window weighing alike (the three centre their
Gaussians differently): with MONAI's as probabilities in float32, with nnU-Net's as logits, which it
sums in float16. All take turns in one process; ratios are of medians.

Packages: ``pip install covidseg[benchmarks]``; a peer that cannot be imported is left out by name.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.volume import Volume
from covidseg.inference.files import find_inputs, read_input, segment
from covidseg.inference.predictor import Predictor
from covidseg.inference.preprocessing import Preprocessing
from covidseg.inference.sliding import Sliding, predict_whole
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.planning import plan

# Logits of a size around one, summed in float16 over a few windows; on a GPU the network computes
# in float16 too, and by other kernels for nnU-Net's windows, which go one by one.
HALF_TOLERANCE = {"cpu": 2e-2, "cuda": 5e-2}


def setting(dimensions: int, device: torch.device, size: list[int] | None):
    """Network, window, windows at once, mirrored axes, and the scan's size (Z, Y, X).

    On a GPU the 3D network is the one planned for COVID-19 scans (28×256×256, 44.8 M parameters);
    without one the same kind of network is small enough that a scan takes seconds.
    """
    gpu = device.type == "cuda"
    if dimensions == 3:
        window = (28, 256, 256) if gpu else (16, 64, 64)
        planned = plan((5, 0.742, 0.742), (62, 512, 512) if gpu else window)
        features = None if gpu else tuple(min(12 * 2**n, 96) for n in range(len(planned.strides)))
        network = NetworkConfig(classes=3, features=features).with_plan(planned)
        batch, mirror = planned.batch_size if gpu else 2, (0, 1, 2)
        chosen = size or ([98, 512, 512] if gpu else [32, 128, 128])
    else:
        window = (1, 512, 512) if gpu else (1, 128, 128)
        network = NetworkConfig(
            family="smp", dimensions=2, encoder="resnet34" if gpu else "resnet18", classes=3
        )
        batch, mirror = 12 if gpu else 4, (0, 1)
        chosen = size or ([98, 512, 512] if gpu else [24, 192, 192])
    steps = [max(1, side // 2) for side in window]
    whole = [
        side + step * max(0, math.ceil((length - side) / step))
        for side, step, length in zip(window, steps, chosen, strict=True)
    ]
    return network, window, batch, mirror, whole


def scan(size: list[int]) -> Volume:
    """A scan in Hounsfield units without constant windows, at 1.25×0.8×0.8 times its network's."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(-900, 200, (1, 1, 8, 12, 12)).astype(np.float32))
    values = torch.nn.functional.interpolate(coarse, size=tuple(size), mode="trilinear")[0, 0]
    values += torch.from_numpy(rng.normal(0, 20, tuple(size)).astype(np.float32))
    affine = np.diag([-0.8, -0.8, 5.0, 1.0])
    return Volume(values.numpy().astype(np.int16).transpose(2, 1, 0), affine)


class Counted(torch.nn.Module):
    """Notes the batches that the network is given."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.network(x)


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def bare(predictor: Predictor, sizes: list[int]) -> Callable[[], None]:
    """The network's forward passes on batches of these sizes, and nothing else."""
    spatial = predictor.sliding.window[3 - predictor.dimensions :]
    batch = torch.randn(max(sizes), 1, *spatial, device=predictor.device)
    half = predictor.precision != torch.float32

    def work() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(predictor.device.type, predictor.precision, enabled=half),
        ):
            for size in sizes:
                predictor.networks[0](batch[:size])

    return work


def logits_forward(predictor: Predictor) -> Callable[[Tensor], Tensor]:
    """Mean of the mirrored logits, as nnU-Net takes it, through our windows."""
    import itertools

    axes = [axis + 2 for axis in predictor.mirror_axes]
    flips = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]

    def forward(windows: Tensor) -> Tensor:
        seen = windows.squeeze(2) if predictor.dimensions == 2 else windows
        found = sum(predictor.networks[0](seen.flip(f)).flip(f) for f in flips) / len(flips)
        return found.unsqueeze(2) if predictor.dimensions == 2 else found

    return torch.inference_mode()(forward)


def monai_windows(predictor: Predictor, image: Tensor, mode: str) -> Tensor:
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        return sliding_window_inference(
            image[None],
            predictor.sliding.window,
            predictor.sliding.batch_size,
            predictor.forward,
            overlap=predictor.sliding.overlap,
            mode=mode,
        )[0]


def nnunet(predictor: Predictor, gaussian: bool) -> Any:
    """nnU-Net's predictor around our network."""
    # It asks for its folders on import.
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, tempfile.gettempdir())
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    theirs = nnUNetPredictor(
        tile_step_size=1 - predictor.sliding.overlap,
        use_gaussian=gaussian,
        use_mirroring=bool(predictor.mirror_axes),
        perform_everything_on_device=predictor.device.type == "cuda",
        device=predictor.device,
        allow_tqdm=False,
    )
    theirs.network = predictor.networks[0]
    theirs.allowed_mirroring_axes = predictor.mirror_axes or None
    theirs.label_manager = SimpleNamespace(num_segmentation_heads=predictor.classes)
    window = predictor.sliding.window[3 - predictor.dimensions :]
    theirs.configuration_manager = SimpleNamespace(patch_size=window)
    return theirs


def compare(predictor: Predictor, image: Tensor, peers: list[str]) -> dict[str, float]:
    """Largest differences of the peers' results from ours, all voxels weighing alike."""
    plain = Sliding(predictor.sliding.window, predictor.sliding.overlap, 1, gaussian=False)
    differences = {}
    if "monai" in peers:
        # In float16 a GPU's kernels, and with them the rounding, depend on how batches are cut.
        exact = dataclasses.replace(predictor, precision=torch.float32)
        with torch.backends.cudnn.flags(allow_tf32=False):
            ours = predict_whole(image, exact.forward, plain, pad_value=0)
            found = monai_windows(exact, image, "constant")
        torch.testing.assert_close(ours, found, rtol=1e-3, atol=1e-3)
        differences["monai"] = float((ours - found).abs().max())
    if "nnunetv2" in peers:
        ours = predict_whole(image, logits_forward(predictor), plain, pad_value=0)
        found = nnunet(predictor, False).predict_sliding_window_return_logits(image.cpu())
        found = found.float().to(ours.device)
        spread, tolerance = float(ours.std()), HALF_TOLERANCE[ours.device.type]
        torch.testing.assert_close(ours, found, rtol=tolerance, atol=tolerance * max(spread, 1))
        differences["nnunetv2"] = float((ours - found).abs().max())
    return differences


def version(package: str) -> str | None:
    return metadata.version(package) if util.find_spec(package) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dimensions", type=int, choices=(2, 3), default=3)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--size", type=int, nargs=3, metavar=("Z", "Y", "X"), help="of the scan")
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    config, window, batch, mirror, size = setting(arguments.dimensions, device, arguments.size)
    torch.manual_seed(0)
    network = build_network(config)
    predictor = Predictor(
        [network],
        # 5 mm planes are kept, the plane is resampled from 0.8 mm.
        Preprocessing(-1000, 250, -500, 400, spacing_mm=(5.0, 0.742, 0.742)),
        Sliding(window, 0.5, batch),
        arguments.dimensions,
        config.classes,
        mirror,
        device,
        torch.float16 if gpu else torch.float32,
    )
    peers = [name for name in ("monai", "nnunetv2") if version(name)]
    times: dict[str, list[float]] = {}

    def note(name: str, work: Callable[[], Any]) -> None:
        times.setdefault(name, []).append(seconds(work, device))

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # The scan's plane is smaller than the network's by the ratio of their spacings.
        plane = [math.floor(side * 0.742 / 0.8 + 1e-6) for side in size[1:]]
        write_nifti(folder / "scan.nii.gz", scan([size[0], *plane]))
        [one] = find_inputs([folder / "scan.nii.gz"])
        counted = Counted(network)
        counting = Predictor(**{**vars(predictor), "networks": [counted]})
        segment(counting, one, folder / "out")
        passes = bare(predictor, counted.sizes)
        prepared = predictor.preprocessing.image(*read_input(one))
        image = torch.from_numpy(prepared.image)[None].to(device)
        padded = [max(0, side - length) for side, length in zip(size, image.shape[1:], strict=True)]
        image = torch.nn.functional.pad(image, (0, padded[2], 0, padded[1], 0, padded[0]))
        differences = compare(predictor, image, peers)
        works: dict[str, Callable[[], Any]] = {
            "bare": passes,
            "predict": lambda: segment(predictor, one, folder / "out"),
            "windows": lambda: predict_whole(
                image, predictor.forward, predictor.sliding, pad_value=predictor.preprocessing.air
            ),
        }
        if "monai" in peers:
            works["monai"] = lambda: monai_windows(predictor, image, "gaussian")
        if "nnunetv2" in peers:
            theirs = nnunet(predictor, True)
            works["nnunetv2"] = lambda: theirs.predict_sliding_window_return_logits(image.cpu())
        for turn in range(arguments.rounds + 1):
            for name, work in works.items():
                if turn == 0:
                    work()  # warm-up: autotuning, first allocations
                else:
                    note(name, work)
    median = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "device": torch.cuda.get_device_name() if gpu else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peers": {name: version(name) or "not installed" for name in ("monai", "nnunetv2")},
        "precision": str(predictor.precision),
        "network_grid": list(image.shape[1:]),
        "window": list(window),
        "windows_at_once": batch,
        "mirrored_axes": list(mirror),
        "forward_passes": len(counted.sizes),
        "million_parameters": sum(p.numel() for p in network.parameters()) / 1e6,
        "largest_difference": differences,
        "seconds": median,
        "all_turns": times,
        "predict_over_bare": median["predict"] / median["bare"],
        "peers_over_windows": {name: median[name] / median["windows"] for name in peers},
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
