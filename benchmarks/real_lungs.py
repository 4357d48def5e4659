"""Lung models on the two real CTs with lung masks that are kept beside the repository.

    python benchmarks/real_lungs.py --run plain=RUN --run gin=RUN [--real ../shared/real] [--json X]

Each run is a folder that trainers/domain_generalization.py wrote, trained on phantoms alone for
what this measures: whether a method that closes a gap between phantoms holds on patients.
Prints DSC and NSD (1 mm) of each lung. LUNG1-001's reference has the tumour cut out of the lung.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from covidseg.generalization.build import open_generalising_run
from covidseg.imaging.nifti import read_nifti
from covidseg.imaging.resample import reorient
from covidseg.inference.files import find_inputs, read_input
from covidseg.scoring.case import score_case

LUNGS = {1: "left_lung", 2: "right_lung"}
CASES = {
    "LUNG1-001": ("NSCLC-Radiomics/LUNG1-001", "rasterised/LUNG1-001_lungs_gtv.nii.gz"),
    "ct64": ("chest-imaging-platform/ct64.nii.gz", "chest-imaging-platform/ct64_lungs.nii.gz"),
}


def scored(run: Path, image: Path, reference: Path) -> dict[str, dict[str, float]]:
    """DSC and NSD of each lung, in percent."""
    [found] = find_inputs([image])
    volume, intensity = read_input(found)
    prediction = reorient(open_generalising_run(run).predict(volume, intensity), "RAS")
    truth = reorient(read_nifti(reference), "RAS")
    scores = score_case(
        prediction.data, truth.data, LUNGS, truth.spacing_mm, ignore_other_labels=True
    )
    return {one.label: {"dsc": 100 * one.dsc, "nsd": 100 * one.nsd[1.0]} for one in scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--real", type=Path, default=Path("../shared/real"))
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    result: dict[str, dict] = {}
    for named in arguments.run:
        name, _, folder = named.partition("=")
        result[name] = {
            case: scored(Path(folder), *(arguments.real / path for path in paths))
            for case, paths in CASES.items()
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print("| case | lung | " + " | ".join(f"{name} DSC / NSD" for name in result) + " |")
    print("| :-- | :-- |" + " --: |" * len(result))
    for case in CASES:
        for lung in LUNGS.values():
            cells = [
                f"{of[case][lung]['dsc']:.1f} / {of[case][lung]['nsd']:.1f}"
                for of in result.values()
            ]
            print(f"| {case} | {lung} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
