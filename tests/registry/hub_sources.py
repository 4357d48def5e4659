"""Small raw downloads for the tests of the dataset repository: random voxels, canonical IDs."""

import os
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from covidseg.imaging.dicom import write_series
from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.volume import Volume
from covidseg.splits.canonical import canonical_cases, published

LPS = np.diag([-1.5, -1.5, 4.0, 1.0])
SHAPE = (10, 8, 6)


def scan(name: str) -> np.ndarray:
    """Voxels that depend on the name alone."""
    return (
        np.random.default_rng(zlib.crc32(name.encode()))
        .integers(-1000, 400, SHAPE)
        .astype(np.int16)
    )


def labels(highest: int = 1) -> np.ndarray:
    data = np.zeros(SHAPE, dtype=np.uint8)
    data[2:4, 2:6, 1:4] = 2  # the patient's right: x runs to the left
    data[6:8, 2:6, 1:4] = 1
    if highest == 1:
        return (data > 0).astype(np.uint8)
    if highest > 2:
        data[6, 3, 2:] = highest
    return data


def put(path: Path, data: np.ndarray, affine: np.ndarray = LPS) -> Path:
    write_nifti(path, Volume(data, affine))
    return path


def covid_ct_seg(root: Path) -> None:
    for case in canonical_cases("covid-ct-seg"):
        image = scan(case) if case.startswith("corona") else (scan(case) % 256).astype(np.uint8)
        put(root / f"COVID-19-CT-Seg_20cases/{case}.nii.gz", image)
        put(root / f"Lung_Mask/{case}.nii.gz", labels(2))
        put(root / f"Infection_Mask/{case}.nii.gz", labels())
        put(root / f"Lung_and_Infection_Mask/{case}.nii.gz", labels(3))


def mosmed(root: Path) -> None:
    for case in canonical_cases("mosmed"):
        put(root / f"COVID19_1110/studies/CT-1/{case}.nii.gz", scan(case))
        put(root / f"COVID19_1110/masks/{case}_mask.nii.gz", labels())


def structseg(root: Path) -> None:
    for case in canonical_cases("structseg"):
        number = case.removeprefix("train_")
        for task, highest in (("Task3_Thoracic_OAR", 6), ("Task4_Lung_GTV", 1)):
            put(root / task / number / "data.nii.gz", scan(case))
            put(root / task / number / "label.nii.gz", labels(highest))


def msd(root: Path) -> None:
    for case in canonical_cases("msd"):
        put(root / f"Task06_Lung/imagesTr/{case}.nii.gz", scan(case))
        put(root / f"Task06_Lung/labelsTr/{case}.nii.gz", labels())


def nsclc_dicom(root: Path, count: int = 2) -> None:
    """A few cases as TCIA has them, with masks whose axes are not the scan's."""
    for number, case in enumerate(canonical_cases("nsclc")[:count], 1):
        write_series(
            root / "NSCLC-Radiomics" / case / "study" / "series",
            Volume(scan(case), LPS),
            patient_id=case,
            study_uid=f"1.2.3.{number}",
            series_uid=f"1.2.3.{number}.1",
            frame_of_reference_uid=f"1.2.3.{number}.2",
        )
        flipped = LPS.copy()
        flipped[0, 0], flipped[0, 3] = 1.5, -1.5 * (SHAPE[0] - 1)
        put(
            root / f"Thoracic_Cavities/{case}/{case}_thor_cav_primary_reviewer.nii.gz",
            labels(2)[::-1],
            flipped,
        )


def semiseg(root: Path) -> None:
    training = root / "Dataset/TrainingSet/LungInfection-Train"
    for case in [c.case_id for c in published("semiseg", "semiseg")["train"]]:
        _picture(training / f"Doctor-label/Imgs/{case}.jpg", scan(case)[..., 0] % 256)
        _picture(training / f"Doctor-label/GT/{case}.png", labels()[..., 2] * 255)
    name = "Data-1_coronacases_org_001_1"
    _picture(training / f"Pseudo-label/Imgs/{name}.jpg", scan(name)[..., 0] % 256)


def _picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def covid1920(root: Path) -> None:
    top = root / "COVID-19-20_v2"
    for number in range(199):
        case = f"volume-covid19-A-{number + 700:04d}"
        put(top / f"Train/{case}_ct.nii.gz", scan(case))
        put(top / f"Train/{case}_seg.nii.gz", labels())
    for case in canonical_cases("covid1920"):
        put(top / f"Validation/{case}_ct.nii.gz", scan(case))


_PRELUDE = """
import sys

class NoCovidseg:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "covidseg":
            raise ImportError("covidseg is not installed here")

sys.meta_path.insert(0, NoCovidseg())
import numpy as np
from datasets import load_dataset, disable_progress_bars
disable_progress_bars()
"""


def elsewhere(code: str, folder: Path, cache: Path, *arguments: str) -> str:
    """What ``code`` prints in a fresh Python that has no covidseg, in ``folder``."""
    environment = {
        **os.environ,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-c", _PRELUDE + textwrap.dedent(code), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout
