"""Phantoms of each dataset, written the way the real files come.

A `Job` is what is drawn at once: a case, or what shares a drawing with it. It is a function of
the seed and its own names alone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from covidseg.core.files import atomic_file
from covidseg.imaging.dicom import write_series
from covidseg.imaging.intensity import hu_to_window
from covidseg.imaging.nifti import write_nifti
from covidseg.imaging.rtstruct import write_rtstruct
from covidseg.registry.phantom import rosters, sources
from covidseg.registry.phantom.draws import generator
from covidseg.registry.phantom.scan import SIZES, Patient, Scan, Size, draw_scan
from covidseg.splits.canonical import canonical_cases

DESCRIPTION = "PHANTOM: procedural, not a patient (covidseg)"
WINDOW_HU = (-1250.0, 250.0)


@dataclass(frozen=True)
class Job:
    """One drawing of a dataset and the files it becomes, relative to the dataset's folder."""

    dataset: str
    part: str
    case: str
    seed: int
    size: str
    outputs: tuple[str, ...]

    @property
    def sampled(self) -> Size:
        return SIZES[self.size]

    @property
    def labelled(self) -> bool:
        """Whether an annotation is among its files."""
        return self.part not in ("unlabelled", "pool")


def _nifti(path: Path, scan: Scan, data: np.ndarray | None = None, code: str | None = None):
    volume = scan.volume(data, code)
    write_nifti(path, volume, description=DESCRIPTION)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _table(path: Path, header: list[str], rows: list[list[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


# COVID-19-CT-Seg ---------------------------------------------------------------------------------

_CT_SEG = ("COVID-19-CT-Seg_20cases", "Lung_Mask", "Infection_Mask", "Lung_and_Infection_Mask")


def ct_seg_jobs(seed: int, size: str) -> Iterator[Job]:
    for case in canonical_cases("covid-ct-seg"):
        files = tuple(f"{folder}/{case}.nii.gz" for folder in _CT_SEG)
        yield Job("covid-ct-seg", "labelled", case, seed, size, files)


def ct_seg_scan(seed: int, case: str, size: Size) -> Scan:
    """A COVID-19-CT-Seg phantom; also what COVID-SemiSeg's unlabelled slices are cut from."""
    source = sources.CORONACASES if case.startswith("corona") else sources.RADIOPAEDIA
    # Two series of one patient; and a scan with next to no lesion, an outlier in every table.
    patient_id = "radiopaedia_10_85902" if case.startswith("radiopaedia_10_85902") else case
    severity = 0.002 if case == "radiopaedia_29_86490_1" else None
    patient = Patient.draw(seed, source, patient_id, severity=severity)
    if case == "radiopaedia_10_85902_3":
        patient = patient.progressed(0.88)
    return draw_scan(patient, source, case, size, ("lungs", "infection"))


def ct_seg_write(job: Job, folder: Path) -> None:
    scan = ct_seg_scan(job.seed, job.case, job.sampled)
    lungs, infection = scan.masks["lungs"], scan.masks["infection"]
    both = np.where(infection > 0, np.uint8(3), lungs)
    if job.case.startswith("radiopaedia"):
        scan.image = np.rint(hu_to_window(scan.image, WINDOW_HU)).astype(np.int16)
    # The image comes last: where it stands, its masks do.
    for name, data in zip(job.outputs[1:], (lungs, infection, both), strict=True):
        _nifti(folder / name, scan, data)
    _nifti(folder / job.outputs[0], scan)


# MosMed ------------------------------------------------------------------------------------------

_MOSMED_SEVERITY = {"CT-2": (0.25, 0.45), "CT-3": (0.45, 0.7), "CT-4": (0.7, 0.95)}


def mosmed_jobs(seed: int, size: str) -> Iterator[Job]:
    for case in canonical_cases("mosmed"):
        files = (
            f"COVID19_1110/studies/CT-1/{case}.nii.gz",
            f"COVID19_1110/masks/{case}_mask.nii.gz",
        )
        yield Job("mosmed", "labelled", case, seed, size, files)
    for case in rosters.mosmed_unlabelled(size):
        image = f"COVID19_1110/studies/{rosters.mosmed_class(case)}/{case}.nii.gz"
        yield Job("mosmed", "unlabelled", case, seed, size, (image,))


def mosmed_write(job: Job, folder: Path) -> None:
    grade = rosters.mosmed_class(job.case)
    severity = None
    if grade in _MOSMED_SEVERITY:
        rng = generator(job.seed, "mosmed", job.case, "severity")
        severity = float(rng.uniform(*_MOSMED_SEVERITY[grade]))
    patient = Patient.draw(job.seed, sources.MOSMED, job.case, severity=severity)
    if grade == "CT-0":
        patient = patient.without_covid()
    scan = draw_scan(patient, sources.MOSMED, job.case, job.sampled, ("infection",))
    if job.part == "labelled":
        _nifti(folder / job.outputs[1], scan, scan.masks["infection"])
    _nifti(folder / job.outputs[0], scan)


def mosmed_extras(folder: Path, seed: int, size: str) -> None:
    """The registry table that comes with the studies."""
    studies = sorted([*canonical_cases("mosmed"), *rosters.mosmed_unlabelled(size)])
    labelled = set(canonical_cases("mosmed"))
    rows: list[list[object]] = []
    for study in studies:
        grade = rosters.mosmed_class(study)
        mask = f"/masks/{study}_mask.nii.gz" if study in labelled else ""
        rows.append([study, f"/studies/{grade}/{study}.nii.gz", mask, grade, "PHANTOM"])
    _table(
        folder / "COVID19_1110" / "dataset_registry.csv",
        ["study_id", "study_file", "mask_file", "category", "origin"],
        rows,
    )


# StructSeg ---------------------------------------------------------------------------------------


def structseg_jobs(seed: int, size: str) -> Iterator[Job]:
    for case in canonical_cases("structseg"):
        number = case.removeprefix("train_")
        files = tuple(
            f"{task}/{number}/{name}.nii.gz"
            for task in ("Task3_Thoracic_OAR", "Task4_Lung_GTV")
            for name in ("data", "label")
        )
        yield Job("structseg", "labelled", case, seed, size, files)


def structseg_write(job: Job, folder: Path) -> None:
    patient = Patient.draw(job.seed, sources.STRUCTSEG, job.case)
    scan = draw_scan(patient, sources.STRUCTSEG, job.case, job.sampled, ("organs", "tumour"))
    _nifti(folder / job.outputs[1], scan, scan.masks["organs"])
    _nifti(folder / job.outputs[3], scan, scan.masks["tumour"])
    _nifti(folder / job.outputs[2], scan)
    _nifti(folder / job.outputs[0], scan)


# NSCLC -------------------------------------------------------------------------------------------

_PLETHORA_AXES = "PLI"
_UID = "1.2.826.0.1.3680043.10.5111"


def nsclc_jobs(seed: int, size: str) -> Iterator[Job]:
    effusions = rosters.nsclc_effusions()
    for case in canonical_cases("nsclc"):
        study = f"NSCLC-Radiomics/{case}/01-01-2000-PHANTOM-{case[-3:]}"
        files = [
            f"{study}/0.000000-PHANTOM-CT",
            f"Thoracic_Cavities/{case}/{case}_thor_cav_primary_reviewer.nii.gz",
        ]
        if case in effusions:
            files += [
                f"Effusions/{case}/{case}_effusion_{reviewer}_reviewer.nii.gz"
                for reviewer in ("first", "second")
            ]
        if int(case[-3:]) % 4 == 1:
            files.append(f"{study}/3.000000-PHANTOM-RTSTRUCT/1-1.dcm")
        yield Job("nsclc", "labelled", case, seed, size, tuple(files))


def nsclc_write(job: Job, folder: Path) -> None:
    effusion = any("Effusions" in name for name in job.outputs)
    patient = Patient.draw(job.seed, sources.NSCLC, job.case, effusion=effusion)
    planned = job.outputs[-1].endswith(".dcm")
    wanted = ("lungs", "effusion", *(("tumour", "organs") if planned else ()))
    scan = draw_scan(patient, sources.NSCLC, job.case, job.sampled, wanted)
    number, lungs = int(job.case[-3:]), scan.masks["lungs"]
    # Which value is which lung varies, as nothing says it in the real ones: by centroid, then.
    cavity = lungs if number % 2 else (3 - lungs) * (lungs > 0)
    _nifti(folder / job.outputs[1], scan, cavity.astype(np.uint8), _PLETHORA_AXES)
    if effusion:
        first = scan.masks["effusion"]
        second = np.maximum(first, np.roll(first, 1, axis=1)) * (lungs > 0)
        for name, data in zip(job.outputs[2:4], (first, second), strict=True):
            _nifti(folder / name, scan, data.astype(np.uint8), _PLETHORA_AXES)
    uid = f"{_UID}.{job.seed % 10**9}.{number}"
    if planned:
        plan = np.where(scan.masks["organs"] == 6, np.uint8(4), lungs)
        plan[scan.masks["tumour"] > 0] = 3
        write_rtstruct(
            folder / job.outputs[-1],
            scan.volume(plan),
            {"Lung-Left": 1, "Lung-Right": 2, "GTV-1": 3, "Spinal-Cord": 4},
            patient_id=job.case,
            study_uid=f"{uid}.1",
            series_uid=f"{uid}.3",
            sop_instance_uid=f"{uid}.3.1",
            image_series_uid=f"{uid}.2",
            frame_of_reference_uid=f"{uid}.4",
        )
    write_series(
        folder / job.outputs[0],
        scan.volume(),
        patient_id=job.case,
        study_uid=f"{uid}.1",
        series_uid=f"{uid}.2",
        frame_of_reference_uid=f"{uid}.4",
        description=DESCRIPTION,
        manufacturer="PHANTOM",
        convolution_kernel="PHANTOM",
    )


# MSD Task06 Lung ---------------------------------------------------------------------------------


def msd_jobs(seed: int, size: str) -> Iterator[Job]:
    for case in canonical_cases("msd"):
        files = tuple(
            f"Task06_Lung/{folder}/{case}.nii.gz" for folder in ("imagesTr", "labelsTr", "lungsTr")
        )
        yield Job("msd", "labelled", case, seed, size, files)
    for case in rosters.msd_unlabelled():
        yield Job("msd", "unlabelled", case, seed, size, (f"Task06_Lung/imagesTs/{case}.nii.gz",))


def msd_write(job: Job, folder: Path) -> None:
    patient = Patient.draw(job.seed, sources.MSD, job.case)
    scan = draw_scan(patient, sources.MSD, job.case, job.sampled, ("tumour", "lungs"))
    if job.part == "labelled":
        _nifti(folder / job.outputs[1], scan, scan.masks["tumour"])
        _nifti(folder / job.outputs[2], scan, scan.masks["lungs"])
    _nifti(folder / job.outputs[0], scan)


def msd_extras(folder: Path, seed: int, size: str) -> None:
    """``dataset.json``, and the resource forks (``._*``) that the real archive carries."""
    labelled, unlabelled = canonical_cases("msd"), rosters.msd_unlabelled()
    content = {
        "name": "Lung (PHANTOM)",
        "description": DESCRIPTION,
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "cancer"},
        "numTraining": len(labelled),
        "numTest": len(unlabelled),
        "training": [
            {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
            for case in labelled
        ],
        "test": [f"./imagesTs/{case}.nii.gz" for case in unlabelled],
    }
    root = folder / "Task06_Lung"
    write_text(root / "dataset.json", json.dumps(content, indent=1) + "\n")
    for name in (f"imagesTr/._{labelled[0]}.nii.gz", f"labelsTr/._{labelled[0]}.nii.gz"):
        with atomic_file(root / name) as temporary:
            temporary.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")


# COVID-19-20 -------------------------------------------------------------------------------------

_POOL = "CT-Images-in-COVID-19"
_TEST = "COVID-19-20_TestSet"


def covid1920_jobs(seed: int, size: str) -> Iterator[Job]:
    names = rosters.covid1920_names()
    for part, cases in (("Train", names["train"]), ("Validation", canonical_cases("covid1920"))):
        for case in cases:
            files = tuple(f"COVID-19-20_v2/{part}/{case}_{kind}.nii.gz" for kind in ("ct", "seg"))
            yield Job("covid1920", part.lower(), case, seed, size, files)
    for part in ("test_seen", "test_unseen"):
        for case in names[part]:
            files = (f"{_TEST}/{case}.nii.gz", f"{_TEST}/{case}_seg.nii.gz")
            yield Job("covid1920", part, case, seed, size, files)
    pool = names["pool"][: rosters.COVID1920_POOL[size]]
    for case in (*pool, *rosters.covid1920_contaminated()):
        yield Job("covid1920", "pool", case, seed, size, (f"{_POOL}/{case}.nii.gz",))


def covid1920_write(job: Job, folder: Path) -> None:
    source = sources.COVID1920_UNSEEN if job.part == "test_unseen" else sources.COVID1920_SEEN
    kind, twin = rosters.covid1920_contaminated().get(job.case, ("", ""))
    scanned = twin if kind == "pixels" else job.case
    patient = Patient.draw(job.seed, source, rosters.covid1920_patient(scanned))
    if "_" in scanned.rsplit("-", 1)[1]:
        patient = patient.progressed(1.0 if scanned.endswith("_0") else 0.85)
    scan = draw_scan(patient, source, scanned, job.sampled, ("infection",))
    if len(job.outputs) > 1:
        _nifti(folder / job.outputs[1], scan, scan.masks["infection"])
    _nifti(folder / job.outputs[0], scan)


def covid1920_extras(folder: Path, seed: int, size: str) -> None:
    """Which test scan is of which source, and what a deny-list must find in the pool."""
    names = rosters.covid1920_names()
    rows: list[list[object]] = [
        [case, part.removeprefix("test_")]
        for part in ("test_seen", "test_unseen")
        for case in names[part]
    ]
    _table(folder / _TEST / "test_sources.csv", ["case_id", "source"], rows)
    refused: list[list[object]] = [
        [case, *why] for case, why in rosters.covid1920_contaminated().items()
    ]
    _table(
        folder / _POOL / "phantom_contamination.csv",
        ["case_id", "same", "evaluation_case"],
        refused,
    )


# COVID-SemiSeg -----------------------------------------------------------------------------------

# Pixels in plane of the scans that slices are cut from: a slice costs little.
_SLICE_PIXELS = {"tiny": 96, "small": 192, "full": 512}
# As in the real set: one slice twice at two sizes, and neighbouring slices of one chest.
_SAME_SLICE = {"43": "10"}
_SAME_PATIENT = {"5": "4", "17": "4", "46": "4"}


def semiseg_jobs(seed: int, size: str) -> Iterator[Job]:
    test = [str(k) for k in range(rosters.SEMISEG_TEST)]
    for part, root, single, cases in (
        ("train", "Dataset/TrainingSet", "LungInfection-Train/Doctor-label",
         canonical_cases("semiseg")),
        ("test", "Dataset/TestingSet", "LungInfection-Test", test),
    ):  # fmt: skip
        several = f"MultiClassInfection-{part.capitalize()}"
        for case in cases:
            files = tuple(
                f"{root}/{folder}/{kind}/{case}.{end}"
                for folder in (single, several)
                for kind, end in (("Imgs", "jpg"), ("GT", "png"))
            )
            yield Job("semiseg", part, case, seed, size, files)
    for case in canonical_cases("covid-ct-seg"):
        kind, rest = case.split("_", 1)
        name = (
            f"Data-1_coronacases_org_{rest}"
            if kind == "coronacases"
            else f"Data-1_radiopaedia_org_covid-19-pneumonia-{rest}-dcm"
        )
        files = tuple(
            f"Dataset/TrainingSet/LungInfection-Train/Pseudo-label/Imgs/{name}_{k}.jpg"
            for k in range(1, rosters.SEMISEG_SLICES[size] + 1)
        )
        yield Job("semiseg", "unlabelled", case, seed, size, files)


def semiseg_write(job: Job, folder: Path) -> None:
    pixels = _SLICE_PIXELS[job.size]
    if job.part == "unlabelled":
        count = len(job.outputs)
        size = Size("slices", pixels, max(16, round(1.6 * count)))
        scan = ct_seg_scan(job.seed, job.case, size)
        lungs = np.flatnonzero((scan.masks["lungs"] > 0).mean((0, 1)) > 0.02)
        heights = lungs[np.linspace(0, len(lungs) - 1, count).round().astype(int)]
        for name, z in zip(job.outputs, heights, strict=True):
            crop = _crop(scan.masks["lungs"][:, :, z])
            grey = _grey(scan.image[:, :, z][crop])
            # As in the real set, one source's slices lie with the back first.
            _picture(folder / name, grey[:, ::-1] if "coronacases" in name else grey)
        return
    drawn = _SAME_SLICE.get(job.case, job.case) if job.part == "train" else job.case
    patient_id = _SAME_PATIENT.get(drawn, drawn) if job.part == "train" else drawn
    patient = Patient.draw(job.seed, sources.SEMISEG, f"{job.part}-{patient_id}")
    height = _worst_height(patient, job.part, patient_id) + 0.045 * _neighbour(job.part, drawn)
    size = Size("slice", pixels, 60)
    scan = draw_scan(
        patient, sources.SEMISEG, f"{job.part}-{patient_id}", size,
        ("lungs", "infection", "infection_kind"), window_z=(height, 3),
    )  # fmt: skip
    crop = _crop(scan.masks["lungs"][:, :, 1])
    image = _grey(scan.image[:, :, 1][crop])
    infection = scan.masks["infection"][:, :, 1][crop] * np.uint8(255)
    kinds = scan.masks["infection_kind"][:, :, 1][crop]
    smaller = 0.8 if job.case in _SAME_SLICE and job.part == "train" else 1.0
    for name, data in zip(job.outputs, (image, infection, image, kinds), strict=True):
        _picture(folder / name, data, smaller)


def _worst_height(patient: Patient, part: str, patient_id: str) -> float:
    """Height of a slice through a lesion, as a share of the scan."""
    assert patient.opacities is not None
    low, high = patient.lung_range()
    rng = generator(patient.seed, "semiseg", part, patient_id, "slice")
    z = patient.opacities.centres[int(rng.integers(len(patient.opacities.centres))), 2]
    return float(np.clip((z + 18 - low) / (high - low + 36), 0.15, 0.75))


def _neighbour(part: str, case: str) -> int:
    """Which slice of its patient's a slice is, counting from the one that names the patient."""
    if part != "train" or case not in _SAME_PATIENT:
        return 0
    return 1 + list(_SAME_PATIENT).index(case)


def _crop(lungs: np.ndarray) -> tuple[slice, slice]:
    cuts = []
    for axis in (0, 1):
        used = np.flatnonzero(lungs.any(1 - axis))
        if not len(used):
            used = np.array([0, lungs.shape[axis] - 1])
        pad = 2 + len(used) // 25
        cuts.append(slice(max(int(used[0]) - pad, 0), int(used[-1]) + pad + 1))
    return cuts[0], cuts[1]


def _grey(hu: np.ndarray) -> np.ndarray:
    return np.rint(hu_to_window(hu, WINDOW_HU)).astype(np.uint8)


def _picture(path: Path, data: np.ndarray, scale: float = 1.0) -> None:
    """Write a slice (x right, y anterior) transposed, as the real pictures lie."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    # Upright, rows run from front to back and columns from the patient's right to the left.
    picture = Image.fromarray(np.ascontiguousarray(data[::-1, ::-1]))
    if scale != 1.0:
        size = (round(picture.width * scale), round(picture.height * scale))
        smooth = path.suffix == ".jpg"
        picture = picture.resize(
            size, Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        )
    with atomic_file(path) as temporary:
        if path.suffix == ".jpg":
            picture.save(temporary, quality=93, comment=DESCRIPTION)
        else:
            note = PngInfo()
            note.add_text("Comment", DESCRIPTION)
            picture.save(temporary, pnginfo=note)


# -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How one dataset is laid out below its folder."""

    folder: str
    jobs: Callable[[int, str], Iterator[Job]]
    write: Callable[[Job, Path], None]
    extras: Callable[[Path, int, str], None] | None = None


LAYOUTS: dict[str, Layout] = {
    "covid-ct-seg": Layout("COVID-19-CT-Seg", ct_seg_jobs, ct_seg_write),
    "structseg": Layout("StructSeg2019", structseg_jobs, structseg_write),
    "msd": Layout("MSD", msd_jobs, msd_write, msd_extras),
    "mosmed": Layout("MosMedData", mosmed_jobs, mosmed_write, mosmed_extras),
    "covid1920": Layout("COVID-19-20", covid1920_jobs, covid1920_write, covid1920_extras),
    "semiseg": Layout("COVID-SemiSeg", semiseg_jobs, semiseg_write),
    "nsclc": Layout("NSCLC", nsclc_jobs, nsclc_write),
}
