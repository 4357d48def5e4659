"""A folder of phantoms: layouts and IDs, markers, resuming, and what it refuses to write over."""

from __future__ import annotations

import csv
import json
from collections import Counter

import numpy as np
import pytest

from covidseg.core.errors import ConfigError, StorageError
from covidseg.imaging.content import content_hash
from covidseg.imaging.dicom import find_series, read_series
from covidseg.imaging.intensity import window_to_hu
from covidseg.imaging.nifti import read_nifti
from covidseg.imaging.picture import read_picture
from covidseg.imaging.resample import resample_to_grid
from covidseg.imaging.rtstruct import rasterise
from covidseg.registry.phantom import generate, rosters
from covidseg.registry.phantom.generate import write_phantoms
from covidseg.registry.phantom.layouts import LAYOUTS
from covidseg.registry.phantom.marker import MARKER, phantom_marker
from covidseg.splits.canonical import canonical_cases, expected_counts


@pytest.fixture(scope="module")
def jobs():
    return {name: list(layout.jobs(0, "tiny")) for name, layout in LAYOUTS.items()}


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """A folder with a few cases of every dataset, drawn as the command draws them."""
    out = tmp_path_factory.mktemp("phantoms")
    wanted = {
        "covid-ct-seg": {"coronacases_001", "radiopaedia_4_85506_1"},
        "structseg": {"train_7"},
        "msd": {"lung_001"},
        "mosmed": {"study_0255"},
        "covid1920": {
            *list(rosters.covid1920_contaminated()),
            *(case for _, case in rosters.covid1920_contaminated().values()),
        },
        "semiseg": {"4", "5", "10", "43", "coronacases_001"},
        "nsclc": {"LUNG1-001", "LUNG1-002"},
    }
    for name, layout in LAYOUTS.items():
        folder = out / layout.folder
        for job in layout.jobs(0, "tiny"):
            if job.case in wanted[name] and job.part != "test":
                layout.write(job, folder)
        if layout.extras:
            layout.extras(folder, 0, "tiny")
    return out


def test_every_published_case_is_there(jobs):
    for name in ("covid-ct-seg", "structseg", "nsclc"):
        assert sorted(j.case for j in jobs[name]) == sorted(canonical_cases(name))
    for name in ("msd", "mosmed"):
        labelled = [job.case for job in jobs[name] if job.part == "labelled"]
        assert sorted(labelled) == sorted(canonical_cases(name))
        rest = {job.case for job in jobs[name]} - set(labelled)
        assert not rest & set(canonical_cases(name))
    validation = [job.case for job in jobs["covid1920"] if job.part == "validation"]
    assert sorted(validation) == sorted(canonical_cases("covid1920"))
    train = [job.case for job in jobs["semiseg"] if job.part == "train"]
    assert sorted(train) == sorted(canonical_cases("semiseg"))


def test_numbers_are_the_published_ones(jobs):
    counts = Counter(job.part for job in jobs["covid1920"])
    for part, number in expected_counts("covid1920").items():
        assert counts[part] == number
    assert Counter(job.part for job in jobs["semiseg"])["test"] == 48
    effusions = [j for j in jobs["nsclc"] if any("effusion_first" in f for f in j.outputs)]
    assert len(effusions) == 78
    pictures = [
        file
        for job in LAYOUTS["semiseg"].jobs(0, "full")
        if job.part == "unlabelled"
        for file in job.outputs
    ]
    assert len(pictures) == len(set(pictures)) == 1600


def test_no_two_jobs_write_one_file(jobs):
    for name, of_dataset in jobs.items():
        files = Counter(file for job in of_dataset for file in job.outputs)
        assert max(files.values()) == 1, name


def test_names_of_covid1920_never_meet_and_some_patients_were_scanned_twice():
    names = rosters.covid1920_names()
    parts = [*names.values(), canonical_cases("covid1920")]
    assert sum(map(len, parts)) == len(set().union(*parts))
    twice = Counter(map(rosters.covid1920_patient, names["train"]))
    assert sorted(twice.values())[-6:] == [2] * 6
    assert {case[-2:] for case in names["train"] if "_" in case} == {"_0", "_1"}


def test_ct_seg_masks_and_intensities(some):
    root = some / "COVID-19-CT-Seg"
    for case, code in (("coronacases_001", "LPS"), ("radiopaedia_4_85506_1", "LAS")):
        image, lung, infection, both = (
            read_nifti(root / folder / f"{case}.nii.gz")
            for folder in (
                "COVID-19-CT-Seg_20cases",
                "Lung_Mask",
                "Infection_Mask",
                "Lung_and_Infection_Mask",
            )
        )
        assert image.orientation == both.orientation == code
        assert np.array_equal(image.affine, lung.affine)
        assert set(np.unique(lung.data)) == {0, 1, 2}
        assert set(np.unique(infection.data)) == {0, 1}
        assert np.array_equal(both.data, np.where(infection.data > 0, 3, lung.data))
        assert np.all(lung.data[infection.data > 0] > 0)
        hu = image.data.astype(float)
        if case.startswith("radiopaedia"):
            assert hu.min() >= 0
            assert hu.max() == 255
            hu = window_to_hu(hu, (-1250.0, 250.0))
        assert -950 < np.median(hu[(lung.data > 0) & (infection.data == 0)]) < -700


def test_structseg_tasks_share_the_scan(some):
    root = some / "StructSeg2019"
    organs = read_nifti(root / "Task3_Thoracic_OAR/7/label.nii.gz")
    target = read_nifti(root / "Task4_Lung_GTV/7/label.nii.gz")
    one, other = (
        read_nifti(root / task / "7/data.nii.gz")
        for task in ("Task3_Thoracic_OAR", "Task4_Lung_GTV")
    )
    assert content_hash(one) == content_hash(other)
    assert set(np.unique(organs.data)) == set(range(7))
    assert set(np.unique(target.data)) == {0, 1}
    assert not ((organs.data == 1) | (organs.data == 2))[target.data == 1].any()


def test_nsclc_masks_meet_the_dicom_through_physical_space_alone(some):
    root = some / "NSCLC"
    for case, swapped in (("LUNG1-001", False), ("LUNG1-002", True)):
        ct = next(s for s in find_series(root / "NSCLC-Radiomics" / case) if s.modality == "CT")
        assert ct.patient_id == case
        assert "PHANTOM" in ct.description
        image = read_series(ct)
        mask = read_nifti(
            root / "Thoracic_Cavities" / case / f"{case}_thor_cav_primary_reviewer.nii.gz"
        )
        assert image.orientation != mask.orientation
        assert set(np.unique(mask.data)) == {0, 1, 2}
        cavity = resample_to_grid(mask, image.shape, image.affine, order=0, fill=0)
        assert np.median(image.data[cavity.data > 0]) < -500
        x = {v: np.argwhere(cavity.data == v).mean(0) @ image.affine[0, :3] for v in (1, 2)}
        assert (x[1] > x[2]) == swapped
        for reviewer in ("first", "second"):
            fluid = read_nifti(
                root / "Effusions" / case / f"{case}_effusion_{reviewer}_reviewer.nii.gz"
            )
            assert np.all(mask.data[fluid.data > 0] > 0)
            assert fluid.data.any()


def test_nsclc_structures_agree_with_the_cavities(some):
    root = some / "NSCLC"
    plan = next(root.glob("NSCLC-Radiomics/LUNG1-001/*/*RTSTRUCT/1-1.dcm"))
    ct = next(s for s in find_series(root / "NSCLC-Radiomics/LUNG1-001") if s.modality == "CT")
    image = read_series(ct)
    drawn = rasterise(plan, image, {"Lung-Left": 1, "Lung-Right": 2, "GTV-1": 3})
    mask = read_nifti(
        root / "Thoracic_Cavities/LUNG1-001/LUNG1-001_thor_cav_primary_reviewer.nii.gz"
    )
    cavity = resample_to_grid(mask, image.shape, image.affine, order=0, fill=0).data
    for value in (1, 2):
        both = ((drawn == value) & (cavity == value)).sum()
        assert both > 0.9 * (drawn == value).sum()
    assert (drawn == 3).any()


def test_msd_comes_as_its_archive_does(some):
    root = some / "MSD" / "Task06_Lung"
    declared = json.loads((root / "dataset.json").read_text())
    assert declared["numTraining"] == 63
    assert "PHANTOM" in declared["description"]
    assert (root / "imagesTr/._lung_001.nii.gz").exists()
    tumour, lungs = (read_nifti(root / f / "lung_001.nii.gz") for f in ("labelsTr", "lungsTr"))
    assert set(np.unique(tumour.data)) == {0, 1}
    assert set(np.unique(lungs.data)) == {0, 1, 2}


def test_the_pool_holds_what_a_deny_list_must_find(some):
    root = some / "COVID-19-20"
    images = {
        path.name.split(".")[0].removesuffix("_ct"): read_nifti(path)
        for path in root.rglob("*.nii.gz")
        if not path.name.endswith("_seg.nii.gz")
    }
    for case, (kind, twin) in rosters.covid1920_contaminated().items():
        same = content_hash(images[case]) == content_hash(images[twin])
        assert same == (kind == "pixels")
        if kind == "patient":
            assert rosters.covid1920_patient(case) == rosters.covid1920_patient(twin)
    with open(root / "COVID-19-20_TestSet/test_sources.csv", newline="") as file:
        rows = Counter(row["source"] for row in csv.DictReader(file))
    assert rows == {"seen": 23, "unseen": 23}


def test_slices_are_pictures_as_the_real_ones(some):
    root = some / "COVID-SemiSeg" / "Dataset" / "TrainingSet"
    single, several = root / "LungInfection-Train/Doctor-label", root / "MultiClassInfection-Train"
    infection = read_picture(single / "GT/10.png")
    kinds = read_picture(several / "GT/10.png")
    image = read_picture(single / "Imgs/10.jpg")
    assert set(np.unique(infection)) == {0, 255}
    assert set(np.unique(kinds)) <= {0, 1, 2}
    assert np.array_equal(infection > 0, kinds > 0)
    assert image.shape == infection.shape
    again = read_picture(single / "Imgs/43.jpg")
    assert again.shape[0] == pytest.approx(0.8 * image.shape[0], abs=1)
    neighbours = [read_picture(single / f"Imgs/{case}.jpg") for case in ("4", "5")]
    assert content_hash(neighbours[0][..., None]) != content_hash(neighbours[1][..., None])
    names = {path.name for path in (root / "LungInfection-Train/Pseudo-label/Imgs").iterdir()}
    assert names == {f"Data-1_coronacases_org_001_{k}.jpg" for k in (1, 2)}


def test_headers_say_phantom(some):
    import nibabel as nib

    for path in some.rglob("*.nii.gz"):
        if not path.name.startswith("._"):
            assert nib.load(path).header["descrip"].item().startswith(b"PHANTOM"), path


@pytest.fixture
def two_cases(monkeypatch):
    """Only two cases of COVID-19-CT-Seg, for tests of the run itself."""
    cases = ("coronacases_001", "coronacases_002")
    monkeypatch.setattr("covidseg.registry.phantom.layouts.canonical_cases", lambda name: cases)
    return cases


def run(out, **options):
    settings = {"datasets": ["covid-ct-seg"], "workers": 1, "progress": False, **options}
    return write_phantoms(out, "tiny", **settings)


def test_a_second_run_keeps_what_is_whole_and_redraws_what_is_missing(two_cases, tmp_path):
    assert run(tmp_path).drawn == 2
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    assert len(files) == 8
    again = run(tmp_path)
    assert (again.drawn, again.kept) == (0, 2)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    lost = tmp_path / "COVID-19-CT-Seg/Lung_Mask/coronacases_002.nii.gz"
    before = lost.read_bytes()
    lost.unlink()
    assert run(tmp_path).drawn == 1
    assert lost.read_bytes() == before


def test_scans_without_annotation_are_left_out_and_drawn_later(tmp_path):
    labelled = [job for job in LAYOUTS["semiseg"].jobs(0, "tiny") if job.labelled]
    assert {job.part for job in labelled} == {"train", "test"}
    assert run(tmp_path, datasets=["semiseg"], unlabelled=False).drawn == len(labelled) == 98
    pool = tmp_path / "COVID-SemiSeg/Dataset/TrainingSet/LungInfection-Train/Pseudo-label/Imgs"
    assert not pool.exists()
    later = run(tmp_path, datasets=["semiseg"])
    assert (later.drawn, later.kept) == (20, 98)
    assert len(list(pool.iterdir())) == 40


def test_an_interrupted_run_leaves_whole_files_alone(two_cases, tmp_path, monkeypatch):
    drawn = []

    def stop(out, job):
        if drawn:
            raise KeyboardInterrupt
        drawn.append(job)
        original(out, job)

    original = generate._draw
    monkeypatch.setattr(generate, "_draw", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert not list(tmp_path.rglob(".part-*"))
    monkeypatch.setattr(generate, "_draw", original)
    resumed = run(tmp_path)
    assert (resumed.drawn, resumed.kept) == (1, 1)


def test_markers_stand_at_the_root_and_in_each_dataset(two_cases, tmp_path):
    run(tmp_path, seed=4)
    marker = phantom_marker(tmp_path / "COVID-19-CT-Seg" / "Lung_Mask")
    assert marker is not None
    assert (marker["seed"], marker["size"], marker["dataset"]) == (4, "tiny", "covid-ct-seg")
    assert json.loads((tmp_path / MARKER).read_text())["phantom"] is True


def test_other_data_are_never_written_among(two_cases, tmp_path):
    run(tmp_path, seed=0)
    with pytest.raises(ConfigError, match="holds phantoms of size tiny, seed 0"):
        run(tmp_path, seed=1)
    real = tmp_path / "real"
    (real / "COVID-19-CT-Seg").mkdir(parents=True)
    (real / "COVID-19-CT-Seg" / "scan.nii.gz").write_bytes(b"x")
    with pytest.raises(StorageError, match="not phantoms"):
        run(real)
    assert not (real / MARKER).exists()


def test_unknown_names_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="dataset 'covid' is not known"):
        run(tmp_path / "a", datasets=["covid"])
    with pytest.raises(ConfigError, match="size 'huge' is not known"):
        write_phantoms(tmp_path / "a", "huge")
    assert not (tmp_path / "a").exists()


def test_one_bad_case_does_not_hide_the_others(two_cases, tmp_path, monkeypatch):
    original = generate._draw

    def fail_first(out, job):
        if job.case.endswith("001"):
            raise ConfigError("cannot be drawn")
        original(out, job)

    monkeypatch.setattr(generate, "_draw", fail_first)
    written = run(tmp_path)
    assert written.drawn == 1
    assert list(written.faults) == ["covid-ct-seg/coronacases_001"]
