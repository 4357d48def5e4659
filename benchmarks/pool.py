"""Labelling a pool: bare forward passes over the whole time, and two processes over one.

    python benchmarks/pool.py [--scans 8] [--rounds 3] [--processes 2] [--json pool.json]

1. One process labels a pool of compressed NIfTI scans by one teacher (reading, preprocessing,
   windows, mirroring, probabilities back on the scan's grid, judging, writing), over the network's
   forward passes that this needs: as many windows, in as large batches, on a fixed batch that is on
   the device already. Both take turns; the ratio is of medians.
2. The same pool by one process and by several, each with one thread (on GPUs: each on its own),
   which share nothing but the folder. Starting the processes is not counted.

Network and windows are those of `benchmarks/predict.py`; without a GPU the scans are smaller.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from covidseg.engine.cache import TrainingCase
from covidseg.imaging.nifti import write_nifti
from covidseg.inference.predictor import Predictor
from covidseg.inference.preprocessing import Preprocessing
from covidseg.inference.sliding import Sliding
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.planning import plan
from covidseg.pseudolabel.pool import PoolScan
from covidseg.pseudolabel.prediction import Teachers, free_claims, predict_pool
from covidseg.pseudolabel.rounds_config import FilterConfig
from covidseg.registry.cases import HU
from covidseg.splits.records import CaseRecord

SPACING_MM = (5.0, 1.0, 1.0)
CONFIG = FilterConfig(keep_empty=True)


def teachers(device: torch.device) -> Teachers:
    """One 3D teacher with first weights: that of a GPU is the one planned for COVID-19 scans."""
    gpu = device.type == "cuda"
    window = (28, 256, 256) if gpu else (16, 64, 64)
    planned = plan((5, 0.742, 0.742), (62, 512, 512) if gpu else window)
    features = None if gpu else tuple(min(12 * 2**n, 96) for n in range(len(planned.strides)))
    torch.manual_seed(0)
    network = build_network(NetworkConfig(classes=2, features=features).with_plan(planned))
    sliding = Sliding((window[0], window[1], window[2]), 0.5, planned.batch_size if gpu else 2)
    scale = Preprocessing(-1250, 250, -500, 433, SPACING_MM)
    precision = torch.float16 if gpu else torch.float32
    member = Predictor([network], scale, sliding, 3, 2, (0, 1, 2), device, precision)
    return Teachers((), (member,), ("infection",), "benchmark")


def pool(folder: Path, count: int, size: Sequence[int]) -> list[PoolScan]:
    """Scans of noise on a smooth ground, in Hounsfield units, at 1.25 times the teacher's grid."""
    import numpy as np

    from covidseg.imaging.volume import Volume

    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = torch.from_numpy(rng.uniform(-900, 200, (1, 1, 8, 12, 12)).astype(np.float32))
        values = torch.nn.functional.interpolate(coarse, size=tuple(size), mode="trilinear")[0, 0]
        values += torch.from_numpy(rng.normal(0, 20, tuple(size)).astype(np.float32))
        data = values.numpy().astype(np.int16).transpose(2, 1, 0)
        path = folder / f"scan{number}.nii.gz"
        write_nifti(path, Volume(data, np.diag([-0.8, -0.8, 5.0, 1.0])))
        case = TrainingCase(path.name[:-7], path, None, HU, {}, "", f"scan{number}")
        found.append(PoolScan(case, CaseRecord("", case.case_id), str(folder)))
    return found


class Counted(torch.nn.Module):
    """Notes the shapes of the batches that the network is given."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.shapes: list[torch.Size] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(x.shape)
        return self.network(x)


def label(opened: Teachers, scans: Sequence[PoolScan], folder: Path, rank: int = 0) -> float:
    """Seconds that this process labels."""
    began = time.perf_counter()
    predict_pool(opened, scans, folder, CONFIG, rank=rank)
    _wait(opened.members[0].device)
    return time.perf_counter() - began


def bare(opened: Teachers, shapes: Sequence[torch.Size]) -> float:
    """Seconds of the forward passes alone."""
    member = opened.members[0]
    batches = {shape: torch.randn(shape, device=member.device) for shape in set(shapes)}
    began = time.perf_counter()
    with torch.inference_mode():
        for shape in shapes:
            with torch.autocast(
                member.device.type, member.precision, enabled=member.precision != torch.float32
            ):
                member.networks[0](batches[shape])
    _wait(member.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def share(rank: int, count: int, size: Sequence[int], place: str, ready, out) -> None:
    """One of several processes: label a share once all are ready, and tell when it was done."""
    torch.set_num_threads(1)
    gpus = torch.cuda.device_count()
    opened = teachers(torch.device(f"cuda:{rank % gpus}") if gpus else torch.device("cpu"))
    folder = Path(place)
    scans = pool_of(folder / "scans", count)
    label(opened, scans[:1], folder / f"warm{rank}")
    ready.wait()
    began = time.perf_counter()
    done = predict_pool(opened, scans, folder / "out", CONFIG, rank=1)
    out.put((done, time.perf_counter() - began))


def pool_of(folder: Path, count: int) -> list[PoolScan]:
    """The scans that :func:`pool` wrote."""
    paths = [folder / f"scan{number}.nii.gz" for number in range(count)]
    return [
        PoolScan(
            TrainingCase(path.name[:-7], path, None, HU, {}, "", path.name),
            CaseRecord("", path.name[:-7]),
            str(folder),
        )
        for path in paths
    ]


def several(processes: int, count: int, size: Sequence[int], folder: Path) -> float:
    """Seconds from all being ready until the last is done."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    free_claims(folder / "out")
    context = multiprocessing.get_context("spawn")
    ready, out = context.Barrier(processes), context.Queue()
    arguments = (count, size, str(folder), ready, out)
    children = [context.Process(target=share, args=(n, *arguments)) for n in range(processes)]
    for child in children:
        child.start()
    found = [out.get() for _ in children]
    for child in children:
        child.join()
    assert sum(done for done, _ in found) == count, "a scan was labelled twice or not at all"
    return max(seconds for _, seconds in found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=3, metavar=("Z", "Y", "X"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = options.size or ([98, 512, 512] if device.type == "cuda" else [24, 96, 96])
    opened = teachers(device)
    counted = Counted(opened.members[0].networks[0])
    whole, alone, one, more = [], [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "scans").mkdir()
        scans = pool(folder / "scans", options.scans, size)
        opened.members[0].networks[0] = counted  # type: ignore[index]
        label(opened, scans, folder / "counted")
        opened.members[0].networks[0] = counted.network  # type: ignore[index]
        for number in range(options.rounds):
            whole.append(label(opened, scans, folder / f"round{number}"))
            alone.append(bare(opened, counted.shapes))
        for _ in range(options.rounds):
            one.append(several(1, options.scans, size, folder))
            more.append(several(options.processes, options.scans, size, folder))
    result = {
        "scans": options.scans,
        "size_zyx": list(size),
        "seconds": statistics.median(whole),
        "seconds_forward": statistics.median(alone),
        "forward_over_total": statistics.median(alone) / statistics.median(whole),
        "processes": options.processes,
        "seconds_one": statistics.median(one),
        "seconds_several": statistics.median(more),
        "speed_up": statistics.median(one) / statistics.median(more),
        "machine": {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
