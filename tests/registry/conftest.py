from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.volume import Volume

SPACING_MM = (1.5, 1.5, 5.0)
LPS = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
SHAPE = (24, 20, 10)


def scan(seed: int = 0) -> np.ndarray:
    """A CT of sorts: air around a body with two lungs, HU, int16."""
    rng = np.random.default_rng(seed)
    data = rng.normal(40, 15, SHAPE)
    data[:2], data[-2:] = -1000, -1000
    data[lungs() > 0] = rng.normal(-850, 20, np.count_nonzero(lungs()))
    return data.astype(np.int16)


def lungs() -> np.ndarray:
    """1 left, 2 right; x runs to the patient's left in LPS, so the left lung has the larger x."""
    data = np.zeros(SHAPE, dtype=np.uint8)
    data[4:10, 5:15, 2:8] = 2
    data[14:20, 5:15, 2:8] = 1
    return data


def infection() -> np.ndarray:
    data = np.zeros(SHAPE, dtype=np.uint8)
    data[15:18, 6:9, 3:6] = 1
    return data


def put(path: Path, data: np.ndarray, affine: np.ndarray = LPS, dtype=None) -> Path:
    """Write a NIfTI file, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, Volume(data, affine), dtype=dtype)
    return path


def touch(root: Path, *names: str) -> Path:
    """Make empty files: enough where names decide."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def put_mosmed(root: Path, number: int, seed: int | None = None) -> tuple[Path, Path]:
    """One labelled MosMed case: image and mask."""
    name = f"study_{number:04d}"
    image = put(root / f"studies/CT-1/{name}.nii.gz", scan(number if seed is None else seed))
    return image, put(root / f"masks/{name}_mask.nii.gz", infection())


@pytest.fixture(scope="session")
def hand() -> SimpleNamespace:
    """What hand-made files are made with (the import mode lets tests share no modules)."""
    return SimpleNamespace(
        LPS=LPS,
        SHAPE=SHAPE,
        scan=scan,
        lungs=lungs,
        infection=infection,
        put=put,
        touch=touch,
        put_mosmed=put_mosmed,
    )


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A tiny phantom of every part of every dataset, and the tables that come with them."""
    from covidseg.registry.phantom.layouts import LAYOUTS
    from covidseg.registry.phantom.marker import MARKER

    root = tmp_path_factory.mktemp("phantoms")
    for name, layout in LAYOUTS.items():
        jobs = list(layout.jobs(0, "tiny"))
        first = {job.part: job for job in reversed(jobs)}
        # The last of COVID-19-CT-Seg is of its other source.
        for job in (*first.values(), *([jobs[-1]] if name == "covid-ct-seg" else [])):
            layout.write(job, root / layout.folder)
        if layout.extras:
            layout.extras(root / layout.folder, 0, "tiny")
    (root / MARKER).write_text('{"phantom": true}')
    return root
