"""How lung models hold on the two real CTs when these are changed as scanners and patients differ.

    python benchmarks/real_lungs_changed.py --run plain=RUN --run painted=RUN [--step 3] [--json X]

Runs and scans are those of benchmarks/real_lungs.py; of LUNG1-001 every third slice is taken, to
save time. Prints the DSC of each lung, in percent, for the scan as it is and for each change.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from real_lungs import CASES, LUNGS
from scipy import ndimage

from covidseg.generalization.build import open_generalising_run
from covidseg.imaging.nifti import read_nifti
from covidseg.imaging.resample import reorient
from covidseg.imaging.volume import Volume
from covidseg.inference.files import find_inputs, read_input
from covidseg.scoring.case import score_case

Pair = tuple[Volume, Volume]
# Scans are RAS+, (X, Y, Z); a change gets the scan and its lungs.
Change = Callable[[Volume, Volume], Pair]


def _values(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """A change of Hounsfield units alone."""

    def changed(scan: Volume, lungs: Volume) -> Pair:
        return Volume(change(scan.data.astype(np.float32)), scan.affine), lungs

    return changed


def _noise(deviation_hu: float) -> Change:
    random = np.random.default_rng(0)
    return _values(lambda hu: hu + random.normal(0, deviation_hu, hu.shape).astype(np.float32))


def _outside_circle(hu: np.ndarray) -> np.ndarray:
    x, y = (np.linspace(-1, 1, length) for length in hu.shape[:2])
    return np.where((x[:, None] ** 2 + y**2 > 1)[..., None], np.float32(-3024), hu)


def _part(of: Callable[[Volume], tuple[slice, slice, slice]]) -> Change:
    """A box of the scan; ``of`` finds it by the lungs."""

    def changed(scan: Volume, lungs: Volume) -> Pair:
        box = of(lungs)
        affine = scan.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [cut.start or 0 for cut in box]
        return Volume(scan.data[box].copy(), affine), Volume(lungs.data[box].copy(), affine)

    return changed


def _around_lungs(lungs: Volume) -> tuple[slice, slice, slice]:
    places = np.argwhere(lungs.data.any(2))
    (left, back), (right, front) = places.min(0), places.max(0) + 1
    return slice(left, right), slice(back, front), slice(None)


def _sized(factor: float) -> Change:
    """The same patient, smaller or larger in every direction."""

    def changed(scan: Volume, lungs: Volume) -> Pair:
        affine = scan.affine.copy()
        affine[:3, :3] *= factor
        return Volume(scan.data, affine), Volume(lungs.data, affine)

    return changed


def _half(upper: bool) -> Change:
    def box(lungs: Volume) -> tuple[slice, slice, slice]:
        middle = lungs.shape[2] // 2
        return slice(None), slice(None), slice(middle, None) if upper else slice(middle)

    return _part(box)


def _mirrored(scan: Volume, lungs: Volume) -> Pair:
    """Left and right exchanged, in the image and in what is called left."""
    other = np.array([0, 2, 1])[np.clip(lungs.data, 0, 2)]
    other[lungs.data > 2] = 3
    return (
        Volume(np.flip(scan.data, 0).copy(), scan.affine),
        Volume(np.flip(other, 0).astype(np.uint8), scan.affine),
    )


def _turned(scan: Volume, lungs: Volume) -> Pair:
    """Turned onto the face, with a header that does not say so."""
    return (
        Volume(np.flip(scan.data, (0, 1)).copy(), scan.affine),
        Volume(np.flip(lungs.data, (0, 1)).copy(), scan.affine),
    )


CHANGES: dict[str, Change] = {
    "as it is": lambda scan, lungs: (scan, lungs),
    "noise of 60 HU": _noise(60),
    "noise of 150 HU": _noise(150),
    "blurred by 2 pixels": _values(lambda hu: ndimage.gaussian_filter(hu, (2, 2, 0))),
    "60 HU more": _values(lambda hu: hu + 60),
    "60 HU less": _values(lambda hu: hu - 60),
    "-3024 HU outside a circle": _values(_outside_circle),
    "lower half": _half(False),
    "upper half": _half(True),
    "cropped to the lungs": _part(_around_lungs),
    "0.75 times as large": _sized(0.75),
    "1.25 times as large": _sized(1.25),
    "mirrored, as in situs inversus": _mirrored,
    "face down, the header says face up": _turned,
}


def every(step: int, volume: Volume) -> Volume:
    """Every ``step``-th slice."""
    affine = volume.affine.copy()
    affine[:3, 2] *= step
    return Volume(np.ascontiguousarray(volume.data[:, :, ::step]), affine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--real", type=Path, default=Path("../shared/real"))
    parser.add_argument("--step", type=int, default=3, help="take one slice of so many of LUNG1")
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    named = dict(run.split("=", 1) for run in arguments.run)
    predictors = {name: open_generalising_run(Path(folder)) for name, folder in named.items()}
    result: dict[str, dict[str, dict[str, list[float]]]] = {}
    print("| case | change | " + " | ".join(f"{name}: left, right" for name in named) + " |")
    print("| :-- | :-- |" + " --: |" * len(named))
    for case, paths in CASES.items():
        image, truth = (arguments.real / path for path in paths)
        volume, intensity = read_input(find_inputs([image])[0])
        step = arguments.step if case == "LUNG1-001" else 1
        scan, lungs = (every(step, reorient(one, "RAS")) for one in (volume, read_nifti(truth)))
        for name, change in CHANGES.items():
            changed, reference = change(scan, lungs)
            row = result.setdefault(case, {}).setdefault(name, {})
            for run, predictor in predictors.items():
                found = predictor.predict(changed, intensity).data
                scores = score_case(
                    found, reference.data, LUNGS, reference.spacing_mm, ignore_other_labels=True
                )
                row[run] = [100 * score.dsc for score in scores]
            cells = [", ".join(f"{dsc:.1f}" for dsc in both) for both in row.values()]
            print(f"| {case} | {name} | " + " | ".join(cells) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
