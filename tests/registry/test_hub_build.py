"""What a build does with incomplete, bad, restricted and changing data."""

import contextlib
import errno
import gzip
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from covidseg.cli.main import main
from covidseg.core.errors import ConfigError, StorageError
from covidseg.imaging.nifti import read_nifti, write_nifti
from covidseg.registry import hub_rows, hub_volumes
from covidseg.registry.hub import build_hub
from covidseg.registry.hub_records import find_records, read_records
from covidseg.registry.hub_volumes import Annotated
from covidseg.registry.phantom.marker import phantom_marker
from covidseg.splits.load import load_split
from covidseg.splits.tasks import TARGETS, Annotation

_spec = importlib.util.spec_from_file_location(
    "hub_sources", Path(__file__).with_name("hub_sources.py")
)
sources = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sources)

IMAGES = "COVID-19-CT-Seg_20cases"


def build(root, out, **options):
    return build_hub(root, out, workers=1, progress=False, **options)


def card(hub):
    return yaml.safe_load((hub / "README.md").read_text().split("---")[1])


def rows(hub, configuration, part):
    return pq.read_table(hub / f"{configuration}_{part}.parquet").to_pylist()


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def covid(tmp_path):
    """COVID-19-CT-Seg alone."""
    sources.covid_ct_seg(tmp_path / "raw")
    return tmp_path / "raw"


def test_every_configuration_of_what_was_found(covid, tmp_path):
    report = build(covid, tmp_path / "hub")
    expected = [
        f"task1-{reverse}{target}-fold{fold}{clean}"
        for reverse in ("", "reverse-")
        for target in ("lung", "infection", "union")
        for fold in range(5)
        for clean in (("", "-clean") if fold in (2, 4) else ("",))
    ]
    assert sorted(report.configurations) == sorted([*expected, "covid-ct-seg"])
    assert report.configurations["task1-lung-fold2-clean"] == {"train": 2, "test": 16}
    assert [entry["config_name"] for entry in card(tmp_path / "hub")["configs"]] == list(
        report.configurations
    )
    assert report.sound


def test_missing_datasets_leave_out_what_needs_them_and_say_so(covid, tmp_path):
    report = build(covid, tmp_path / "hub")
    assert report.left_out["task2-nsclc-lung"] == "no cases found of nsclc"
    assert report.left_out["task3-msd-tumour-fold1"] == "no cases found of msd"
    assert report.left_out["covid1920-fold0"] == "no cases found of covid1920"
    # MosMed is only a further test of Task 1: that part is left out, not the configuration.
    assert report.configurations["task1-infection-fold0"] == {"train": 4, "test": 16}
    assert report.notes["task1-infection-fold0"][0].startswith("without test_mosmed: 50 mosmed")
    text = (tmp_path / "hub/README.md").read_text()
    assert "- `task3-msd-tumour-fold* (5)`: no cases found of msd" in text


def test_msd_without_lung_masks_has_no_lung_subtask(covid, tmp_path):
    sources.msd(covid)
    report = build(covid, tmp_path / "hub")
    assert report.left_out["task3-msd-lung-fold0"] == "no annotation 'lung' found for msd"
    assert report.configurations["task3-msd-tumour-fold0"] == {
        "train": 55,
        "validation": 12,
        "test": 16,
    }


def test_incomplete_splits_are_left_out_unless_asked_for(covid, tmp_path):
    (covid / IMAGES / "coronacases_008.nii.gz").unlink()
    report = build(covid, tmp_path / "hub")
    assert not any(name.startswith("task1") for name in report.configurations)
    assert report.left_out["task1-lung-fold0"] == ("1 covid-ct-seg cases missing (coronacases_008)")
    assert report.configurations["covid-ct-seg"] == {"labelled": 19}
    partial = build(covid, tmp_path / "hub", partial=True)
    assert partial.configurations["task1-lung-fold0"] == {"train": 3, "test": 16}
    assert any("train is incomplete" in note for note in partial.notes["task1-lung-fold0"])
    assert "train is incomplete" in (tmp_path / "hub/README.md").read_text()


def test_a_bad_case_is_listed_and_the_rest_is_built(covid, tmp_path):
    path = covid / IMAGES / "coronacases_008.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    mask = covid / "Infection_Mask/coronacases_001.nii.gz"
    sources.put(mask, sources.labels() * 7)
    report = build(covid, tmp_path / "hub")
    assert len(report.faults) == 2
    assert any(str(path) in fault for fault in report.faults)
    assert any(str(mask) in fault and "7" in fault for fault in report.faults)
    assert not report.sound
    assert report.configurations["covid-ct-seg"] == {"labelled": 19}
    row = next(
        r
        for r in rows(tmp_path / "hub", "covid-ct-seg", "labelled")
        if r["case_id"] == "coronacases_001"
    )
    assert row["infection_file_name"] is None
    assert row["lung_file_name"].endswith("lung/coronacases_001.nii.gz")
    # Repaired, the case is read again and everything is there.
    sources.put(path, sources.scan("coronacases_008"))
    sources.put(mask, sources.labels())
    again = build(covid, tmp_path / "hub")
    assert again.sound
    assert again.unchanged == 18
    assert "task1-lung-fold0" in again.configurations


def test_a_second_build_does_nothing_and_removed_cases_go(covid, tmp_path):
    hub = tmp_path / "hub"
    build(covid, hub)
    times = {f: (hub / f).stat().st_mtime_ns for f in files(hub)}
    assert build(covid, hub).unchanged == 20
    assert {f: (hub / f).stat().st_mtime_ns for f in files(hub)} == times
    (covid / IMAGES / "coronacases_008.nii.gz").unlink()
    build(covid, hub)
    assert not [f for f in files(hub / "volumes") if "coronacases_008" in f]
    assert not list(hub.glob("task1-*.parquet"))


def test_what_may_be_the_last_copy_stays(covid, tmp_path):
    hub = tmp_path / "hub"
    sources.mosmed(covid)
    build(covid, hub, placing="copy")
    path = covid / IMAGES / "coronacases_008.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    shutil.move(covid / "COVID19_1110", tmp_path / "not mounted")
    before = files(hub / "volumes")
    report = build(covid, hub, placing="copy")
    assert report.kept == ["mosmed"]
    assert files(hub / "volumes") == before
    assert "coronacases_008" not in {
        row["case_id"] for row in rows(hub, "covid-ct-seg", "labelled")
    }
    # What is found again is not read again.
    shutil.move(tmp_path / "not mounted", covid / "COVID19_1110")
    assert not (again := build(covid, hub, placing="copy")).kept
    assert again.cases - again.unchanged == 1
    # What is to be published holds nothing that is not named.
    shutil.rmtree(covid / "COVID19_1110")
    build(covid, hub, publish=True)
    left = files(hub / "volumes")
    assert left
    assert not [f for f in left if "mosmed" in f or "coronacases_008" in f]


def volumes(hub):
    """Every NIfTI file of NSCLC, as role/name."""
    return files(hub / "volumes/nsclc/labelled")


@pytest.fixture
def nsclc(tmp_path):
    """Two cases whose volumes are converted, so that those of a build are the last copy of it."""
    sources.nsclc_dicom(tmp_path / "raw")
    build(tmp_path / "raw", tmp_path / "hub", partial=True)
    return tmp_path / "raw"


BOTH = [f"{role}/LUNG1-00{n}.nii.gz" for role in ("image", "lung") for n in (1, 2)]


def test_volumes_stay_where_a_folder_cannot_be_listed(nsclc, tmp_path, monkeypatch):
    hub, listed = tmp_path / "hub", os.scandir
    assert volumes(hub) == BOTH

    def scandir(path="."):
        if str(path).endswith("NSCLC-Radiomics/LUNG1-002"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = build(nsclc, hub, partial=True)
    assert volumes(hub) == BOTH
    assert report.kept == ["nsclc of 1 case"]
    assert not report.sound
    monkeypatch.undo()
    shutil.rmtree(nsclc / "NSCLC-Radiomics/LUNG1-002")
    assert build(nsclc, hub, partial=True).kept == []
    assert volumes(hub) == BOTH[::2]


def test_volumes_stay_where_dicom_cannot_be_told(nsclc, tmp_path):
    series = nsclc / "NSCLC-Radiomics/LUNG1-002/study/series"
    # As a client lays it out by UID; none of it arrived whole.
    shutil.move(series, nsclc / "1.2.3")
    for path in (nsclc / "1.2.3").iterdir():
        path.write_bytes(b"")
    report = build(nsclc, tmp_path / "hub", partial=True)
    assert ["1.2.3: DICOM that cannot be read" in fault for fault in report.faults] == [True]
    assert volumes(tmp_path / "hub") == BOTH


def test_annotations_stay_that_a_case_has_lost(nsclc, tmp_path):
    shutil.move(nsclc / "Thoracic_Cavities", tmp_path / "not mounted")
    report = build(nsclc, tmp_path / "hub", partial=True)
    assert report.kept == ["nsclc lung of 2 cases"]
    assert volumes(tmp_path / "hub") == BOTH
    assert rows(tmp_path / "hub", "nsclc", "labelled")[0].get("lung_file_name") is None
    # A case that is gone goes, with its annotations.
    shutil.rmtree(nsclc / "NSCLC-Radiomics/LUNG1-002")
    build(nsclc, tmp_path / "hub", partial=True)
    assert volumes(tmp_path / "hub") == BOTH[::2]
    # Published, nothing stays that no row names.
    build(nsclc, tmp_path / "hub", partial=True, publish=True)
    assert volumes(tmp_path / "hub") == BOTH[:1]


def test_volumes_stay_of_a_case_that_is_there_twice(nsclc, tmp_path):
    patient = "NSCLC-Radiomics/LUNG1-002"
    shutil.copytree(nsclc / patient, nsclc / "second copy" / patient)
    report = build(nsclc, tmp_path / "hub", partial=True)
    assert ["LUNG1-002 is there 2 times" in fault for fault in report.faults] == [True]
    assert volumes(tmp_path / "hub") == BOTH


def test_a_published_repository_names_no_place_of_this_machine(covid, tmp_path):
    hub = tmp_path / "hub"
    image, mask = (covid / f / "coronacases_008.nii.gz" for f in (IMAGES, "Lung_Mask"))
    gone = covid / IMAGES / "coronacases_007.nii.gz"
    for path in (image, gone, mask.with_name("coronacases_006.nii.gz")):
        path.write_bytes(path.read_bytes()[:100])
    # Nor may an earlier build that was not for publishing have left one.
    build(covid, hub)
    left = hub / ".covidseg/cases/covid-ct-seg/labelled/coronacases_007.json"
    left.write_text(json.dumps({"fault": f"{gone}: damaged"}))
    gone.unlink()
    build(covid, hub, publish=True)
    text = (hub / ".covidseg/report.json").read_text()
    assert "coronacases_008.nii.gz" in text
    for file in files(hub):
        assert os.fsencode(tmp_path) not in (hub / file).read_bytes(), file
    # What is sound is still not read again.
    assert build(covid, hub, publish=True).unchanged == 17


def test_values_that_are_no_numbers_are_a_fault(covid, tmp_path):
    path = covid / IMAGES / "coronacases_008.nii.gz"
    volume = read_nifti(path)
    data = volume.data.astype(np.float32)
    data[1, 2, 3] = np.nan
    path.unlink()
    write_nifti(path, volume.with_data(data))
    report = build(covid, tmp_path / "hub")
    assert ["1 NaN" in fault for fault in report.faults] == [True]
    assert "task1-lung-fold0" in report.left_out


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("hub[1]", r"\[ \] in its path"),
        ("hub::1", ":: in its path"),
        ("h\udcfcb", "no UTF-8"),  # Latin-1
    ],
)
def test_a_folder_that_load_dataset_cannot_load_from_is_refused(name, finding, covid, tmp_path):
    with pytest.raises(ConfigError, match=finding):
        build(covid, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_two_builds_of_the_same_data_are_byte_for_byte_the_same(covid, tmp_path):
    """Published, where the place of the folder is not part of the card."""
    build(covid, tmp_path / "one", publish=True)
    build(covid, tmp_path / "two", publish=True)
    for name in ("README.md", "task1-union-fold3_test.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_volumes_are_hard_links_of_their_sources(covid, tmp_path):
    build(covid, tmp_path / "hub")
    for role, folder in (("image", IMAGES), ("lung", "Lung_Mask")):
        laid = tmp_path / f"hub/volumes/covid-ct-seg/labelled/{role}/coronacases_001.nii.gz"
        assert os.path.samefile(laid, covid / folder / "coronacases_001.nii.gz")
        assert not laid.is_symlink()


def test_a_mask_with_a_slope_is_written_not_linked(covid, tmp_path):
    source = covid / "Infection_Mask/coronacases_001.nii.gz"
    image = nib.load(source)
    labels = np.asarray(image.dataobj)
    # As SPM stores it: 100 times 0.01 is not quite 1, which a reader's cast makes 0.
    scaled = nib.Nifti1Image(labels.astype(np.int16) * 100, image.affine)
    scaled.header.set_data_dtype(np.int16)
    raw = bytearray(scaled.to_bytes())
    raw[112:116] = np.float32(0.01).tobytes()
    source.write_bytes(gzip.compress(bytes(raw)))
    assert not np.asarray(nib.load(source).dataobj).astype(np.uint8).any()
    report = build(covid, tmp_path / "hub")
    assert report.sound
    laid = tmp_path / "hub/volumes/covid-ct-seg/labelled/infection/coronacases_001.nii.gz"
    decoded = np.asarray(nib.load(laid).dataobj).astype(np.uint8)
    np.testing.assert_array_equal(decoded, labels)


def test_copies_are_files_of_their_own(covid, tmp_path):
    build(covid, tmp_path / "hub")
    report = build(covid, tmp_path / "hub", placing="copy")
    laid = tmp_path / "hub/volumes/covid-ct-seg/labelled/image/coronacases_001.nii.gz"
    source = covid / IMAGES / "coronacases_001.nii.gz"
    assert not os.path.samefile(laid, source)
    assert laid.read_bytes() == source.read_bytes()
    assert report.unchanged == 0


def test_a_series_of_another_patient_is_a_fault_and_not_taken(tmp_path):
    sources.nsclc_dicom(tmp_path / "raw")
    one, other = sorted((tmp_path / "raw/NSCLC-Radiomics").iterdir())
    shutil.rmtree(one)
    shutil.copytree(other, one)
    report = build(tmp_path / "raw", tmp_path / "hub")
    (fault,) = report.faults
    assert f"is of {other.name} by its PatientID" in fault
    assert report.configurations["nsclc"] == {"labelled": 1}


def test_publish_holds_no_volume_that_may_not_be_passed_on(covid, tmp_path):
    hub = tmp_path / "hub"
    sources.mosmed(covid)
    sources.structseg(covid)
    build(covid, hub)
    assert any("mosmed" in f for f in files(hub / "volumes"))
    report = build(covid, hub, publish=True)
    # Neither new ones nor those of the earlier build, nor a link to them.
    assert {f.split("/")[0] for f in files(hub / "volumes")} == {"covid-ct-seg"}
    assert not [p for p in hub.rglob("*") if p.is_symlink()]
    assert sorted(report.withheld) == ["mosmed", "structseg"]
    for row in rows(hub, "task1-infection-fold0", "test_mosmed"):
        assert row["image_file_name"] is None
        assert row["label_file_name"] is None
        assert row["shape"] == list(sources.SHAPE)
    assert all(row["image_file_name"] for row in rows(hub, "task1-infection-fold0", "train"))
    assert "metadata only" in (hub / "README.md").read_text()


def test_the_tumours_and_organs_of_other_sources_are_mapped_in_the_open(covid, tmp_path):
    sources.msd(covid)
    sources.structseg(covid)
    hub = tmp_path / "hub"
    build(covid, hub)
    tumour = rows(hub, "task2-msd-tumour", "train")[0]
    assert tumour["label_names"] == [{"value": 1, "name": "tumour"}]
    assert tumour["target_names"] == [{"value": 1, "name": "lesion"}]
    assert tumour["label_to_target"] == [{"value": 1, "target": 1}]
    covid_row = rows(hub, "task2-msd-tumour", "test_covid")[0]
    assert covid_row["label_names"] == [{"value": 1, "name": "infection"}]
    assert covid_row["target_names"] == tumour["target_names"]
    organs = rows(hub, "task2-structseg-lung", "train")[0]
    assert {e["name"]: e["value"] for e in organs["label_names"]}["heart"] == 3
    assert organs["label_to_target"] == [
        {"value": value, "target": value if value < 3 else 0} for value in range(1, 7)
    ]
    assert "structseg/organs/organs/" in organs["label_file_name"]
    target = rows(hub, "task2-structseg-target", "train")[0]
    assert "structseg/target_volume/target_volume/" in target["label_file_name"]


def test_the_same_pixels_in_training_and_test_are_refused(covid, tmp_path):
    learnt, measured = (load_split("task1-lung-fold0").parts[part][0] for part in ("train", "test"))
    sources.put(covid / IMAGES / f"{measured.case_id}.nii.gz", sources.scan(learnt.case_id))
    report = build(covid, tmp_path / "hub")
    assert "the same pixels" in report.leaks["task1-lung-fold0"]
    assert "task1-lung-fold0" not in report.configurations
    assert report.configurations["task1-lung-fold0-clean"] == {"train": 3, "test": 16}
    assert not report.sound


def test_one_case_in_two_files_is_listed_and_neither_is_taken(covid, tmp_path):
    sources.put(covid / "again" / IMAGES / "coronacases_001.nii.gz", sources.scan("a"))
    report = build(covid, tmp_path / "hub")
    assert any("coronacases_001 is there 2 times" in fault for fault in report.faults)
    assert report.configurations["covid-ct-seg"] == {"labelled": 19}


def test_covid1920_needs_all_its_training_scans_for_its_folds(tmp_path):
    root, hub = tmp_path / "raw", tmp_path / "hub"
    sources.covid1920(root)
    report = build(root, hub)
    assert report.configurations["covid1920-fold0"] == {"train": 159, "validation": 40}
    assert report.configurations["covid1920"] == {"train": 199, "validation": 50}
    assert all(row["label_file_name"] is None for row in rows(hub, "covid1920", "validation"))
    (root / "COVID-19-20_v2/Train/volume-covid19-A-0700_ct.nii.gz").unlink()
    report = build(root, hub)
    assert "198 training scans found instead of 199" in report.left_out["covid1920-fold0"]
    assert report.configurations["covid1920"] == {"train": 198, "validation": 50}


def test_scans_of_version_1_are_a_fault_and_of_no_version_a_warning(tmp_path, capsys):
    for folder in ("COVID-19-20_v1", "COVID-19-20"):
        train = tmp_path / folder / "raw" / folder / "Train"
        sources.put(train / "volume-covid19-A-0003_ct.nii.gz", sources.scan(folder))
        sources.put(train / "volume-covid19-A-0003_seg.nii.gz", sources.labels())
    hub = tmp_path / "hub"
    report = build(tmp_path / "COVID-19-20_v1/raw", hub)
    assert not report.sound
    (fault,) = report.faults
    assert "1 scans lie in a folder of version 1, whose labels had errors" in fault
    assert "version 1, whose labels had errors" in (hub / "README.md").read_text()
    with contextlib.suppress(SystemExit):
        main(["build", str(tmp_path / "COVID-19-20/raw"), "--out", str(hub), "-j", "1"])
    assert "Worth a look:\n  covid1920: 1 scans lie in folders that do not say" in (
        capsys.readouterr().out
    )
    report = json.loads((hub / ".covidseg/report.json").read_text())
    assert report["faults"] == []
    assert any("do not say which version" in note for note in report["notes"]["covid1920"])
    assert "do not say which version" in (hub / "README.md").read_text()


def test_a_folder_within_phantoms_is_of_phantoms(covid, tmp_path):
    (tmp_path / "PHANTOM.json").write_text('{"phantom": true}')
    assert build(covid, tmp_path / "hub").phantom
    assert all(row["phantom"] for row in rows(tmp_path / "hub", "covid-ct-seg", "labelled"))


def test_of_two_builders_one_is_refused(covid, tmp_path):
    hub = tmp_path / "hub"
    build(covid, hub)
    with (
        FileLock(hub / ".covidseg" / ".lock"),
        pytest.raises(ConfigError, match="by another process"),
    ):
        build(covid, hub)
    assert build(covid, hub).sound


def test_phantoms_say_so_everywhere(covid, tmp_path):
    (covid / "PHANTOM.json").write_text('{"phantom": true}')
    report = build(covid, tmp_path / "hub")
    assert report.phantom
    assert all(row["phantom"] for row in rows(tmp_path / "hub", "covid-ct-seg", "labelled"))
    text = (tmp_path / "hub/README.md").read_text()
    assert "(phantoms)" in text
    assert "no patient data" in text
    assert "phantom" in card(tmp_path / "hub")["tags"]
    volumes = tmp_path / "hub" / "volumes" / "covid-ct-seg"
    assert phantom_marker(volumes / "labelled" / "image") is not None
    # Built again, it stays; of scans, it goes.
    build(covid, tmp_path / "hub")
    assert phantom_marker(volumes) is not None
    (covid / "PHANTOM.json").unlink()
    build(covid, tmp_path / "hub")
    assert phantom_marker(volumes) is None
    assert (volumes / "labelled" / "image").is_dir()


def test_the_card_names_licences_sources_and_what_to_cite(covid, tmp_path):
    build(covid, tmp_path / "hub")
    text = (tmp_path / "hub/README.md").read_text()
    assert "CC BY-NC-SA 4.0" in text
    assert "https://doi.org/" in text
    assert 'load_dataset("path/to/this/folder"' in text
    entry = card(tmp_path / "hub")["configs"][0]
    assert entry["drop_labels"] is True
    assert re.search(r"\(content [0-9a-f]{16}\)$", entry["description"])


def test_a_full_disk_ends_the_build_with_nothing_half_written(covid, tmp_path, monkeypatch):
    hub = tmp_path / "hub"
    copied = []

    def copyfile(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        if len(copied) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        Path(target).write_bytes(Path(source).read_bytes())
        copied.append(target)

    monkeypatch.setattr(hub_volumes.shutil, "copyfile", copyfile)
    with pytest.raises(StorageError, match="No space left"):
        build(covid, hub, placing="copy")
    laid = files(hub / "volumes")
    assert len(laid) == 5
    assert not [f for f in laid if ".part" in f]
    assert not (hub / "README.md").exists()
    monkeypatch.undo()
    assert build(covid, hub, placing="copy").sound


def test_interrupted_it_leaves_whole_files_and_goes_on(tmp_path):
    root, hub = tmp_path / "raw", tmp_path / "hub"
    sources.covid_ct_seg(root)
    sources.nsclc_dicom(root, count=40)
    code = "from covidseg.cli.main import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", code, "build", str(root), "--out", str(hub), "-j", "1"],
        stderr=subprocess.PIPE,
        text=True,
    )

    def noted():
        return [p for p in hub.rglob(".covidseg/cases/**/*.json") if p.name[0] != "."]

    deadline = time.monotonic() + 120
    while len(noted()) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert "Traceback" not in said
    done = len(noted())
    assert 10 <= done < 60
    for path in (hub / "volumes").rglob("*.nii.gz"):
        assert not path.name.startswith(".part")
        assert np.asarray(nib.load(path).dataobj).shape == sources.SHAPE
    assert build(root, hub).unchanged == done


def test_the_command(covid, tmp_path, capsys):
    def status(*arguments):
        try:
            main(["build", *map(str, arguments)])
        except SystemExit as stop:
            return stop.code or 0
        return 0

    hub = tmp_path / "hub"
    (covid / "Task4_Lung_GTV.zip").touch()
    (covid / "Lung_Mask.zip").touch()  # beside what was extracted of it
    assert status(covid, "--out", hub, "-j", 1) == 0
    out = capsys.readouterr().out
    assert f"{covid}/Task4_Lung_GTV.zip is an archive: only what is extracted" in out
    assert "Lung_Mask.zip" not in out
    assert "43 configurations of 20 cases (20 read, 0 unchanged)" in out
    assert "no cases found of nsclc: task2-nsclc-lung, task2-nsclc-effusion" in out
    assert f'load_dataset("{hub}", "task1-infection-fold0", split="train")' in out
    (covid / IMAGES / "coronacases_001.nii.gz").write_bytes(b"not an image")
    assert status(covid, "--out", hub, "-j", 1) == 1
    assert "coronacases_001.nii.gz" in capsys.readouterr().out
    assert status(tmp_path / "nowhere", "--out", hub) == 2
    assert "does not exist" in capsys.readouterr().err


def test_the_report_is_there_for_machines(covid, tmp_path):
    build(covid, tmp_path / "hub")
    report = json.loads((tmp_path / "hub/.covidseg/report.json").read_text())
    assert report["configurations"]["task1-lung-fold0"] == {"train": 4, "test": 16}
    assert report["split_sha256"]["task1-lung-fold0"] == load_split("task1-lung-fold0").sha256
    assert report["left_out"]["task2-nsclc-lung"] == "no cases found of nsclc"


def test_records_for_the_audit(covid):
    sources.nsclc_dicom(covid, count=1)
    by_name = {record.key: record for record in find_records(covid)}
    records, faults = read_records(covid, workers=1, progress=False)
    assert faults == []
    read = {record.key: record for record in records}
    assert read.keys() == by_name.keys()
    assert read["nsclc", "LUNG1-001"].series_uid == "1.2.3.1.1"
    assert all(len(record.content_hash) == 32 for record in records)
    assert all(record.content_hash is None for record in by_name.values())


@given(
    labels=st.dictionaries(st.integers(1, 9), st.sampled_from(["left_lung", "heart", "tumour"])),
    meaning=st.dictionaries(
        st.sampled_from(["left_lung", "heart", "tumour"]), st.sampled_from(["left_lung", "lesion"])
    ),
    target=st.sampled_from(sorted(TARGETS)),
)
def test_label_to_target_is_the_annotations_meaning(labels, meaning, target):
    """Every value has one target, 0 exactly where its label means nothing for the task."""
    targets = TARGETS[target]
    row = hub_rows.label_columns(Annotation("nsclc", "organs", meaning), Annotated(labels), targets)
    mapped = {entry["value"]: entry["target"] for entry in row["label_to_target"]}
    assert mapped.keys() == labels.keys()
    for value, label in labels.items():
        assert targets.get(mapped[value]) == (
            meaning.get(label) if meaning.get(label) in targets.values() else None
        )
    table = pq.read_table(io.BytesIO(hub_rows.to_parquet([row], hub_rows.schema()))).to_pylist()
    assert table[0]["label_to_target"] == row["label_to_target"]
