"""Values, times and memory of the scorer beside those of the packages people use.

    python benchmarks/scoring.py [--masks FOLDER] [--all] [--json scoring.json]

FOLDER holds NIfTI masks of lungs (1 left, 2 right); without it lungs are drawn as ellipsoids at
the size and spacing of a chest CT. Predictions are the masks shifted, dilated, eroded, or in
fragments. The default takes a few minutes: one mask, and a drawn chest of 512×512×300 voxels at
1 mm. ``--all`` compares with surface-distance alone, on every mask of FOLDER with every change:
about half an hour for twenty.

Every measurement is a process of its own with one thread. Memory is the highest resident size
during the first call, less the resident size before it (inputs loaded, package imported and used
once on a small mask). Time is the processor's (on a quiet machine, the clock's; both are in the
JSON), the best of as many calls as fit in two seconds, at least one. Peers take one label at a
time, so theirs is the sum over the labels.

Packages: ``pip install covidseg[benchmarks]``; one that cannot be imported is left out by name.
MetricsReloaded is on GitHub alone (csudre/MetricsReloaded); the script finds it once installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCES = (1.0, 3.0)
SECONDS = 2.0


# The peers: NSD of one label at one tolerance.


def surface_distance(prediction, reference, spacing, tolerance) -> float:
    import surface_distance as package

    distances = package.compute_surface_distances(reference, prediction, spacing)
    return float(package.compute_surface_dice_at_tolerance(distances, tolerance))


def monai(prediction, reference, spacing, tolerance, subvoxels=False) -> float:
    import torch
    from monai.metrics import compute_surface_dice

    ours, theirs = (torch.from_numpy(mask)[None, None] for mask in (prediction, reference))
    value = compute_surface_dice(
        ours,
        theirs,
        [tolerance],
        include_background=True,
        spacing=list(spacing),
        use_subvoxels=subvoxels,
    )
    return float(value)


def monai_subvoxels(prediction, reference, spacing, tolerance) -> float:
    return monai(prediction, reference, spacing, tolerance, subvoxels=True)


def metrics_reloaded(prediction, reference, spacing, tolerance) -> float:
    from MetricsReloaded.metrics.pairwise_measures import BinaryPairwiseMeasures

    measures = BinaryPairwiseMeasures(
        prediction.astype(np.uint8),
        reference.astype(np.uint8),
        connectivity_type=1,
        pixdim=list(spacing),
        dict_args={"nsd": tolerance},
    )
    return float(measures.normalised_surface_distance())


PEERS: dict[str, tuple[str, Callable[..., float]]] = {
    "surface-distance": ("surface_distance", surface_distance),
    "MONAI": ("monai", monai),
    "MONAI, subvoxels": ("monai", monai_subvoxels),
    "MetricsReloaded": ("MetricsReloaded", metrics_reloaded),
}
OURS = "covidseg"


def measure(tool: str, labels: list[int], tolerance: float, maps: Any) -> dict[str, float]:
    """NSD of every label by one tool."""
    prediction, reference, spacing = maps
    if tool == OURS:
        from covidseg.scoring.case import score_case

        scores = score_case(prediction, reference, labels, spacing, tolerance)
        return {label.label: label.nsd[tolerance] for label in scores}
    function = PEERS[tool][1]
    return {
        str(label): function(prediction == label, reference == label, spacing, tolerance)
        for label in labels
    }


# The cases.


def ellipsoids(shape: tuple[int, int, int], spacing: tuple[float, ...]) -> np.ndarray:
    """Two lungs at the size of a patient's, in Fortran order as NIfTI files are read."""
    labels = np.zeros(shape, np.uint8, order="F")
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    middle = [size * step / 2 for size, step in zip(shape, spacing, strict=True)]
    for value, side in ((1, 1), (2, -1)):
        centre = (middle[0] + side * 75, middle[1], middle[2])
        radii = (58, 85, min(125, middle[2] * 0.85))
        squares = [
            ((axis * step - at) / radius) ** 2
            for axis, step, at, radius in zip(axes, spacing, centre, radii, strict=True)
        ]
        labels[squares[0] + squares[1] + squares[2] < 1] = value
    return labels


def changed(labels: np.ndarray, how: str) -> np.ndarray:
    """A prediction: the masks with errors of one kind."""
    from scipy import ndimage

    if how == "shifted":
        return np.asfortranarray(np.roll(labels, (3, 2, 1), (0, 1, 2)))
    if how == "fragmented":
        random = np.random.default_rng(0)
        coarse = random.random([-(-size // 8) for size in labels.shape]) < 0.8
        kept = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)
        return np.asfortranarray(labels * kept[tuple(slice(size) for size in labels.shape)])
    change = {"dilated": ndimage.grey_dilation, "eroded": ndimage.grey_erosion}[how]
    return np.asfortranarray(change(labels, size=(5, 5, 1)))


def lesions(labels: np.ndarray) -> np.ndarray:
    """Lesion-like fragments: blobs of smooth noise within the lungs, about a tenth of them."""
    from scipy import ndimage

    random = np.random.default_rng(0)
    noise = random.standard_normal([-(-size // 8) for size in labels.shape])
    zoom = [size / small for size, small in zip(labels.shape, noise.shape, strict=True)]
    field = ndimage.zoom(noise, zoom, order=1)
    return np.asfortranarray(((field > 0.8) & (labels > 0)).astype(np.uint8))


def read_masks(folder: Path) -> list[tuple[str, np.ndarray, tuple[float, ...]]]:
    import nibabel as nib

    masks = []
    for path in sorted(folder.glob("*.nii*")):
        image = nib.load(path)
        spacing = tuple(float(size) for size in image.header.get_zooms())
        masks.append((path.name, np.asfortranarray(np.asanyarray(image.dataobj)), spacing))
    if not masks:
        sys.exit(f"{folder} holds no NIfTI masks")
    return masks


def default_cases(masks: list) -> list[tuple[str, np.ndarray, np.ndarray, Any, list[int], float]]:
    name, lungs, spacing = masks[len(masks) // 2]
    where = f"{name}, {'×'.join(map(str, lungs.shape))}"
    infected = lesions(lungs)
    large = ellipsoids((512, 512, 300), (1.0, 1.0, 1.0))
    moved = changed(lungs, "shifted")
    left = np.asfortranarray(moved * (moved == 1)), np.asfortranarray(lungs * (lungs == 1))
    return [
        (f"lesions at 3 mm ({where})", changed(infected, "shifted"), infected, spacing, [1], 3.0),
        (f"left lung at 3 mm ({where})", *left, spacing, [1], 3.0),
        (f"both lungs at 3 mm ({where})", moved, lungs, spacing, [1, 2], 3.0),
        (f"both lungs at 1 mm ({where})", moved, lungs, spacing, [1, 2], 1.0),
        (
            "one mask of two lungs at 3 mm (drawn, 512×512×300 at 1 mm)",
            (changed(large, "shifted") > 0).astype(np.uint8, order="F"),
            (large > 0).astype(np.uint8, order="F"),
            (1.0, 1.0, 1.0),
            [1],
            3.0,
        ),
    ]  # fmt: skip


def every_case(masks: list) -> Any:
    for name, lungs, spacing in masks:
        for target, labels in (("lungs", lungs), ("lesions", lesions(lungs))):
            values = [1, 2] if target == "lungs" else [1]
            for how in ("shifted", "dilated", "eroded", "fragmented"):
                for tolerance in TOLERANCES:
                    title = f"{name} {target} {how} {tolerance:g} mm"
                    yield title, changed(labels, how), labels, spacing, values, tolerance


# The measurements.


def resident_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return float("nan")


def child(tool: str, path: str) -> None:
    """Measure one tool on one case; print JSON."""
    warnings.simplefilter("ignore")
    restore_old_scipy_names()
    with np.load(path) as stored:
        # .npz does not keep the memory order of a NIfTI file.
        maps = [np.asfortranarray(stored[name]) for name in ("prediction", "reference")]
        spacing = tuple(stored["spacing"].tolist())
        labels, tolerance = stored["labels"].tolist(), float(stored["tolerance"])
    small = np.zeros((8, 8, 8), np.uint8)
    small[2:5, 2:5, 2:5] = 1
    measure(tool, [1], tolerance, (np.roll(small, 1, 0), small, (1.0, 1.0, 1.0)))
    before = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size so far
    clock: list[float] = []
    processor: list[float] = []
    values: dict[str, float] = {}
    peak = float("nan")
    while not clock or sum(clock) + clock[-1] < SECONDS:
        start = time.perf_counter(), time.process_time()
        values = measure(tool, labels, tolerance, (*maps, spacing))
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
        if len(clock) == 1:
            peak = resident_mb("VmHWM") - before
    result = {
        "seconds": min(processor),
        "clock_seconds": min(clock),
        "memory_mb": max(peak, 0.1),
        "values": values,
    }
    print(json.dumps(result))


def restore_old_scipy_names() -> None:
    """surface-distance 0.1 uses namespaces that newer scipy has dropped."""
    from scipy import ndimage

    for name in ("filters", "morphology"):
        if not hasattr(ndimage, name):
            functions = types.SimpleNamespace(
                correlate=ndimage.correlate,
                distance_transform_edt=ndimage.distance_transform_edt,
            )
            setattr(ndimage, name, functions)


def run(tool: str, case: tuple) -> dict[str, Any]:
    _, prediction, reference, spacing, labels, tolerance = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        np.savez(
            path,
            prediction=prediction,
            reference=reference,
            spacing=spacing,
            labels=labels,
            tolerance=tolerance,
        )
        done = subprocess.run(
            [sys.executable, __file__, "--child", tool, str(path)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        return {"failed": f"exit {done.returncode}: {last}"}
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    versions = {}
    for package in ("numpy", "scipy", "surface-distance", "monai", "MetricsReloaded", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": model or platform.processor(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        **versions,
    }


def compare(case: tuple, tools: list[str]) -> dict[str, Any]:
    results = {tool: run(tool, case) for tool in [OURS, *tools]}
    ours = results[OURS]
    print(f"\n{case[0]}")
    print(f"  {'':<18}{'seconds':>9}{'ratio':>8}{'MB':>8}{'ratio':>8}  NSD")
    for tool, result in results.items():
        if "failed" in result:
            print(f"  {tool:<18} {result['failed']}")
            continue
        values = ", ".join(f"{value:.9f}" for value in result["values"].values())
        print(
            f"  {tool:<18}{result['seconds']:>9.4f}{result['seconds'] / ours['seconds']:>8.1f}"
            f"{result['memory_mb']:>8.0f}{result['memory_mb'] / ours['memory_mb']:>8.1f}  {values}",
            flush=True,
        )
    return {"case": case[0], "results": results}


def worst(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Smallest ratios and largest difference against surface-distance."""
    pairs = [
        (row["results"][OURS], row["results"]["surface-distance"])
        for row in rows
        if "values" in row["results"].get("surface-distance", {})
    ]
    times = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs]
    memory = [theirs["memory_mb"] / ours["memory_mb"] for ours, theirs in pairs]
    apart = [
        abs(ours["values"][label] - value)
        for ours, theirs in pairs
        for label, value in theirs["values"].items()
    ]
    return {
        "cases": len(pairs),
        "time_ratio_smallest": min(times),
        "time_ratio_median": float(np.median(times)),
        "memory_ratio_smallest": min(memory),
        "memory_ratio_median": float(np.median(memory)),
        "difference_largest": max(apart),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, help="folder of NIfTI masks: 1 left, 2 right lung")
    parser.add_argument("--all", action="store_true", help="every mask and change, one peer")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    spacing = (0.74, 0.74, 5.0)
    masks = (
        read_masks(arguments.masks)
        if arguments.masks
        else [("drawn lungs", ellipsoids((512, 512, 66), spacing), spacing)]
    )
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    tools = [tool for tool, (module, _) in PEERS.items() if util.find_spec(module)]
    for tool in PEERS.keys() - set(tools):
        print(f"{tool}: not installed, left out")
    if arguments.all:
        rows = [compare(case, ["surface-distance"]) for case in every_case(masks)]
    else:
        rows = [compare(case, tools) for case in default_cases(masks)]
    summary = worst(rows) if "surface-distance" in tools else {}
    print("\nagainst surface-distance:", json.dumps(summary))
    if arguments.json:
        report = {"machine": about, "summary": summary, "cases": rows}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
