"""Raw downloads of random voxels at real case counts, for the benchmarks of building and loading.

Files are as many and named as the real ones; voxels are few unless asked for, because what is
measured is the cost a case beyond reading it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.volume import Volume
from covidseg.splits.canonical import canonical_cases, published

AFFINE = np.diag([-0.8, -0.8, 3.0, 1.0])


def draw(root: Path, shape: tuple[int, int, int]) -> int:
    """Write COVID-19-CT-Seg, MosMed, StructSeg, NSCLC (as NIfTI), MSD and COVID-19-20's training
    and validation parts; returns the number of scans."""
    rng = np.random.default_rng(0)
    lungs = np.zeros(shape, dtype=np.uint8)
    lungs[: shape[0] // 2], lungs[shape[0] // 2 :] = 2, 1
    lesion = np.zeros(shape, dtype=np.uint8)
    lesion[: shape[0] // 4, : shape[1] // 4] = 1
    both = np.where(lesion, 3, lungs).astype(np.uint8)
    organs = lungs.copy()
    organs[0, 0, :4] = [3, 4, 5, 6]
    scans = 0

    def scan(path: str) -> None:
        nonlocal scans
        scans += 1
        noise = rng.normal(-400, 300, shape).astype(np.int16)
        write_nifti(root / path, Volume(noise, AFFINE))

    def mask(path: str, data: np.ndarray) -> None:
        write_nifti(root / path, Volume(data, AFFINE))

    for case in canonical_cases("covid-ct-seg"):
        scan(f"covid/COVID-19-CT-Seg_20cases/{case}.nii.gz")
        mask(f"covid/Lung_Mask/{case}.nii.gz", lungs)
        mask(f"covid/Infection_Mask/{case}.nii.gz", lesion)
        mask(f"covid/Lung_and_Infection_Mask/{case}.nii.gz", both)
    for case in canonical_cases("mosmed"):
        scan(f"COVID19_1110/studies/CT-1/{case}.nii.gz")
        mask(f"COVID19_1110/masks/{case}_mask.nii.gz", lesion)
    for case in canonical_cases("structseg"):
        number = case.removeprefix("train_")
        for task, data in (("Task3_Thoracic_OAR", organs), ("Task4_Lung_GTV", lesion)):
            scan(f"{task}/{number}/data.nii.gz")
            mask(f"{task}/{number}/label.nii.gz", data)
    parts = published("task2", "task2-nsclc-effusion").values()
    effusions = {key.case_id for part in parts for key in part}
    for case in canonical_cases("nsclc"):
        scan(f"nsclc/images/{case}.nii.gz")
        mask(f"nsclc/Thoracic_Cavities/{case}/{case}_thor_cav_primary_reviewer.nii.gz", lungs)
        if case in effusions:
            mask(f"nsclc/Effusions/{case}/{case}_effusion_first_reviewer.nii.gz", lesion)
    for case in canonical_cases("msd"):
        scan(f"Task06_Lung/imagesTr/{case}.nii.gz")
        mask(f"Task06_Lung/labelsTr/{case}.nii.gz", lesion)
        mask(f"Task06_Lung/lungsTr/{case}.nii.gz", lungs)
    for number in range(700, 899):
        case = f"volume-covid19-A-{number:04d}"
        scan(f"COVID-19-20_v2/Train/{case}_ct.nii.gz")
        mask(f"COVID-19-20_v2/Train/{case}_seg.nii.gz", lesion)
    for case in canonical_cases("covid1920"):
        scan(f"COVID-19-20_v2/Validation/{case}_ct.nii.gz")
    return scans


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    import os
    import platform

    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(": ")[2]
                break
    except OSError:
        model = platform.processor()
    return {
        "processor": model,
        "processors": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
