"""Every kind of bad input ends in one finding that names the file, and hides no other."""

import json
import os
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from covidseg.core.errors import GeometryError, LayoutError, StorageError
from covidseg.imaging.dicom import write_series
from covidseg.imaging.rtstruct import write_rtstruct
from covidseg.imaging.volume import Volume
from covidseg.registry.check import check_root, write_report
from covidseg.registry.find import find_cases
from covidseg.registry.read import read_mask

GOOD, BAD = 256, 255


def check(root, **options):
    return check_root(root, workers=1, progress=False, **options)


def of_files(report, *kinds):
    """Errors and warnings about files, without those about the download as a whole."""
    return [
        finding
        for finding in report.findings
        if finding.severity != "note" and finding.file and finding.kind not in kinds
    ]


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # within the checksum at the end
    path.write_bytes(content)


def write_text(path: Path) -> None:
    path.write_text("<html>404</html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(data, affine), path)


# What is done to an image: (what, kind of the finding, words in it).
BAD_IMAGES = {
    "truncated": (lambda path, hand: truncate(path), "unreadable", "cut short|damaged|ends after"),
    "damaged": (lambda path, hand: flip_a_bit(path), "unreadable", "damaged|cut short"),
    "text": (
        lambda path, hand: write_text(path),
        "unreadable",
        "not gzip.* b'<html>",
    ),
    "empty": (lambda path, hand: empty(path), "unreadable", "is empty"),
    "4D": (
        lambda path, hand: save(path, np.zeros((*hand.SHAPE, 2), np.int16), hand.LPS),
        "geometry",
        "4 dimensions",
    ),
    "NaN": (
        lambda path, hand: hand.put(path, with_nan(hand.scan(1))),
        "not-finite",
        r"1 NaN of 4800 values, the first at voxel \(3, 4, 5\)",
    ),
    "constant": (
        lambda path, hand: hand.put(path, np.zeros(hand.SHAPE, np.int16)),
        "intensity",
        "empty image",
    ),
    "windowed": (
        lambda path, hand: hand.put(path, np.clip(hand.scan(1), 0, 255)),
        "intensity",
        "on the scale 'windowed'.*expected 'hu'",
    ),
    "offset": (
        lambda path, hand: hand.put(path, hand.scan(1) + np.int16(1024)),
        "intensity",
        "on the scale 'offset'.*expected 'hu'",
    ),
}


def with_nan(data: np.ndarray) -> np.ndarray:
    data = data.astype(np.float32)
    data[3, 4, 5] = np.nan
    return data


@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_bad_image_is_one_error_and_hides_no_other(hand, tmp_path, fault):
    spoil, kind, words = BAD_IMAGES[fault]
    bad, mask = hand.put_mosmed(tmp_path, BAD)
    hand.put_mosmed(tmp_path, GOOD)
    spoil(bad, hand)
    report = check(tmp_path)
    (finding,) = of_files(report)
    assert (finding.severity, finding.kind, finding.case_id) == ("error", kind, "study_0255")
    assert finding.file == str(bad)
    assert _matches(words, finding.found)
    assert finding.remedy
    assert not report.ok
    # The good case, and the mask of the bad one, were checked all the same.
    facts = {case["case_id"]: case for case in report.cases}
    assert facts["study_0256"]["content_hash"]
    assert facts["study_0255"]["masks"]["infection"] == {"infection": 27}
    assert mask.exists()


def _matches(words: str, text: str) -> bool:
    return re.search(words, text) is not None


BAD_MASKS = {
    "truncated": (lambda path, hand: truncate(path), "unreadable", "cut short|damaged|ends after"),
    "text": (lambda path, hand: write_text(path), "unreadable", "not gzip"),
    "another shape": (
        lambda path, hand: hand.put(path, hand.infection()[:, :, :-1]),
        "geometry",
        r"shapes \(24, 20, 9\) and \(24, 20, 10\) differ",
    ),
    "shifted origin": (
        lambda path, hand: hand.put(path, hand.infection(), hand.LPS + np.eye(4, k=3)),
        "geometry",
        "origins",
    ),
    "float 0/255": (
        lambda path, hand: hand.put(path, hand.infection() * np.float32(255)),
        "labels",
        "holds 0, 255",
    ),
    "unknown label": (
        lambda path, hand: hand.put(path, hand.infection() * np.uint8(5)),
        "labels",
        "holds 0, 5",
    ),
    "NaN": (
        lambda path, hand: hand.put(path, with_nan(hand.infection())),
        "labels",
        "NaN",
    ),
    "4D": (
        lambda path, hand: save(path, np.zeros((*hand.SHAPE, 2), np.uint8), hand.LPS),
        "geometry",
        "4 dimensions",
    ),
}


@pytest.mark.parametrize("fault", BAD_MASKS)
def test_bad_mask_is_one_error(hand, tmp_path, fault):
    spoil, kind, words = BAD_MASKS[fault]
    _, bad = hand.put_mosmed(tmp_path, BAD)
    hand.put_mosmed(tmp_path, GOOD)
    spoil(bad, hand)
    (finding,) = of_files(check(tmp_path))
    assert (finding.severity, finding.kind, finding.file) == ("error", kind, str(bad))
    assert _matches(words, finding.found)
    assert finding.remedy


def test_good_cases_have_no_findings_but_that_others_are_absent(hand, tmp_path):
    hand.put_mosmed(tmp_path, GOOD)
    report = check(tmp_path)
    assert report.ok
    assert [(finding.severity, finding.kind) for finding in report.findings] == [
        ("warning", "missing-cases"),
        ("note", "missing-cases"),
    ]
    assert "1 of 50 labelled cases are here; absent: study_0255, study_0257" in str(
        report.findings[0]
    )


def test_empty_mask_is_a_warning(hand, tmp_path):
    _, mask = hand.put_mosmed(tmp_path, GOOD)
    hand.put(mask, np.zeros(hand.SHAPE, np.uint8))
    report = check(tmp_path)
    (finding,) = of_files(report)
    assert (finding.severity, finding.kind) == ("warning", "empty-mask")
    assert report.ok


def test_file_without_permission(hand, tmp_path, monkeypatch):
    image, _ = hand.put_mosmed(tmp_path, BAD)
    hand.put_mosmed(tmp_path, GOOD)
    image.chmod(0)
    if os.access(image, os.R_OK):
        # A superuser reads everything: let the system refuse by hand.
        import builtins

        opened = builtins.open

        def refuse(path, *arguments, **options):
            if str(path) == str(image):
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *arguments, **options)

        monkeypatch.setattr(builtins, "open", refuse)
    (finding,) = of_files(check(tmp_path))
    assert finding.kind == "unreadable"
    assert "permission denied" in finding.found.lower()
    assert "chmod" in finding.remedy


def test_two_cases_of_one_id_and_a_kaggle_copy(hand, tmp_path):
    for folder, name, data in (
        ("COVID-19-CT-Seg_20cases", "coronacases_001.nii.gz", hand.scan(1)),
        ("Lung_Mask", "coronacases_001.nii.gz", hand.lungs()),
        ("Infection_Mask", "coronacases_001.nii.gz", hand.infection()),
        ("kaggle/ct_scans", "coronacases_org_001.nii", hand.scan(1)),
    ):
        hand.put(tmp_path / folder / name, data)
    report = check(tmp_path)
    (finding,) = [finding for finding in report.findings if finding.severity == "error"]
    assert finding.kind == "duplicate-id"
    assert "coronacases_001 again" in finding.found
    assert {"Zenodo", "Kaggle"} <= set(finding.found.replace("(", " ").replace(")", " ").split())
    (layout,) = [finding for finding in report.findings if finding.kind == "layout"]
    assert "1 of 2 scans are the Kaggle mirror's" in layout.found
    (missing,) = [finding for finding in report.findings if finding.kind == "missing-mask"][-1:]
    assert "lung_and_infection mask absent for all 2 cases" in missing.found


def test_one_scan_under_two_names(hand, tmp_path):
    hand.put_mosmed(tmp_path, 255, seed=7)
    hand.put_mosmed(tmp_path, 256, seed=7)
    hand.put(tmp_path / "studies/CT-2/study_0940.nii.gz", hand.scan(7).astype(np.float32))
    findings = [f for f in check(tmp_path).findings if f.kind == "duplicate-content"]
    assert [(f.severity, f.case_id) for f in findings] == [
        ("error", "study_0256"),
        ("warning", "study_0940"),
    ]
    assert "the very voxels of mosmed study_0255" in findings[0].found
    assert "never train on it" in findings[1].remedy


def test_one_scan_with_its_axes_flipped(hand, tmp_path):
    hand.put(tmp_path / "COVID-19-20_v2/Validation/volume-covid19-A-0004_ct.nii.gz", hand.scan())
    flipped = hand.LPS.copy()
    flipped[1, 1], flipped[1, 3] = -flipped[1, 1], flipped[1, 1] * (hand.SHAPE[1] - 1)
    pool = hand.put(
        tmp_path / "CT-Images-in-COVID-19/volume-covid19-A-0600.nii.gz",
        hand.scan()[:, ::-1],
        flipped,
    )
    (finding,) = [f for f in check(tmp_path).findings if f.kind == "duplicate-content"]
    assert (finding.severity, finding.file) == ("warning", str(pool))


def test_pool_scan_that_is_an_evaluation_scan_by_name_too(hand, tmp_path):
    for name in (
        "COVID-19-20_v2/Validation/volume-covid19-A-0004_ct.nii.gz",
        "CT-Images-in-COVID-19/volume-covid19-A-0004.nii.gz",
        # The same scan in StructSeg's two tasks is as it should be.
        "Task3_Thoracic_OAR/1/data.nii.gz",
        "Task4_Lung_GTV/1/data.nii.gz",
    ):
        hand.put(tmp_path / name, hand.scan(5 if "covid19" in name else 6))
    (finding,) = [f for f in check(tmp_path).findings if f.kind == "duplicate-content"]
    assert finding.severity == "warning"
    assert "CT-Images-in-COVID-19" in finding.file
    assert "volume-covid19-A-0004 (validation)" in finding.found


def structseg(hand, root, affine):
    folder = root / "Task3_Thoracic_OAR" / "3"
    hand.put(folder / "data.nii.gz", hand.scan(), affine)
    hand.put(folder / "label.nii.gz", hand.lungs(), affine)


def test_exchanged_lungs(hand, tmp_path):
    structseg(hand, tmp_path, hand.LPS @ np.diag([-1.0, 1, 1, 1]))
    (finding,) = of_files(check(tmp_path))
    assert (finding.severity, finding.kind) == ("error", "sides")
    assert "to the patient's right" in finding.found


def test_target_volumes_in_a_folder_of_organs(hand, tmp_path):
    case = tmp_path / "Task3_Thoracic_OAR/1"
    hand.put(case / "data.nii.gz", hand.scan())
    label = hand.put(case / "label.nii.gz", hand.infection())
    hand.touch(tmp_path, "Task1_HaN_OAR/1/data.nii.gz")
    report = check(tmp_path)
    (finding,) = of_files(report)
    assert (finding.severity, finding.kind, finding.file) == ("error", "labels", str(label))
    assert finding.found.startswith("holds left_lung alone")
    assert [f.severity for f in report.findings if f.kind == "passed-over"] == ["note"]


def test_lung_of_one_side_only(hand, tmp_path):
    hand.put(tmp_path / "Task06_Lung/imagesTr/lung_001.nii.gz", hand.scan())
    hand.put(tmp_path / "Task06_Lung/labelsTr/lung_001.nii.gz", hand.infection())
    hand.put(tmp_path / "Task06_Lung/lungsTr/lung_001.nii.gz", (hand.lungs() == 1).astype(np.uint8))
    (finding,) = of_files(check(tmp_path))
    assert (finding.severity, finding.kind) == ("warning", "empty-mask")
    assert "has no voxel of right_lung" in finding.found


def nsclc(hand, root, name="LUNG1-001", number=1, data=None):
    write_series(
        root / "NSCLC-Radiomics" / name / "study" / "0.000000-CT",
        Volume(hand.scan(number) if data is None else data, hand.LPS),
        patient_id=name,
        study_uid=f"1.2.{number}",
        series_uid=f"1.2.{number}.1",
        frame_of_reference_uid=f"1.2.{number}.9",
    )
    return root / "NSCLC-Radiomics" / name / "study"


def cavity(hand, root, affine, name="LUNG1-001"):
    return hand.put(
        root / "Thoracic_Cavities" / name / f"{name}_thor_cav_primary_reviewer.nii.gz",
        hand.lungs(),
        affine,
    )


def test_dicom_facts_go_into_the_report(hand, tmp_path):
    nsclc(hand, tmp_path)
    cavity(hand, tmp_path, hand.LPS)
    report = check(tmp_path)
    assert not of_files(report)
    (facts,) = report.cases
    assert facts["series_uid"] == "1.2.1.1"
    assert facts["masks"]["lung"] == {
        "left_lung": int((hand.lungs() == 1).sum()),
        "right_lung": int((hand.lungs() == 2).sum()),
    }
    assert report.files["nsclc"] == 11


def test_missing_slice(hand, tmp_path):
    folder = nsclc(hand, tmp_path) / "0.000000-CT"
    sorted(folder.iterdir())[4].unlink()
    cavity(hand, tmp_path, hand.LPS)
    (finding,) = of_files(check(tmp_path))
    assert (finding.severity, finding.kind) == ("error", "geometry")
    assert str(folder) in finding.file


def test_two_series_in_one_folder(hand, tmp_path):
    study = nsclc(hand, tmp_path)
    other = nsclc(hand, tmp_path / "elsewhere", number=2) / "0.000000-CT"
    for file in other.iterdir():
        file.rename(study / "0.000000-CT" / f"b-{file.name}")
    cavity(hand, tmp_path, hand.LPS)
    (finding,) = of_files(check(tmp_path))
    assert finding.kind == "layout"
    assert "holds 2 CT series: 1.2.1.1" in finding.found


def retag(folder, **tags):
    for file in folder.glob("*.dcm"):
        data = pydicom.dcmread(file)
        for name, value in tags.items():
            setattr(data, name, value)
        data.save_as(file)


@pytest.mark.parametrize("stated", ["LUNG1-002", "lung1-003"])
def test_series_of_another_patient(hand, tmp_path, stated):
    folder = nsclc(hand, tmp_path) / "0.000000-CT"
    cavity(hand, tmp_path, hand.LPS)
    retag(folder, PatientID=stated)
    (finding,) = of_files(check(tmp_path))
    assert (finding.severity, finding.kind, finding.file) == ("error", "layout", str(folder))
    assert f"is of {stated.upper()} by its PatientID" in finding.found


@pytest.mark.parametrize("stated", ["LUNG1-001", "lung1-001 ", "ANON-0042", "", "LUNG1-0020"])
def test_an_id_that_is_no_name_contradicts_nothing(hand, tmp_path, stated):
    folder = nsclc(hand, tmp_path) / "0.000000-CT"
    cavity(hand, tmp_path, hand.LPS)
    retag(folder, PatientID=stated)
    assert not of_files(check(tmp_path))


def test_second_scan_of_a_patient_of_the_pool_is_no_other_patients(hand, tmp_path):
    for number, study in enumerate(("a", "b")):
        write_series(
            tmp_path / "CT-Images-in-COVID-19/volume-covid19-A-0200" / study / "series",
            Volume(hand.scan(number), hand.LPS),
            patient_id="volume-covid19-A-0200",
            study_uid=f"1.2.{number}",
            series_uid=f"1.2.{number}.1",
            frame_of_reference_uid=f"1.2.{number}.9",
        )
    report = check(tmp_path)
    assert not of_files(report)
    assert [case["case_id"][-6:] for case in report.cases] == ["A-0200", "0200_1"]
    retag(tmp_path / "CT-Images-in-COVID-19/volume-covid19-A-0200/b/series", PatientID="x")
    retag(
        tmp_path / "CT-Images-in-COVID-19/volume-covid19-A-0200/a/series",
        PatientID="volume-covid19-A-0201",
    )
    (finding,) = of_files(check(tmp_path))
    assert "is of volume-covid19-A-0201 by its PatientID" in finding.found


def test_structures_of_another_scan(hand, tmp_path):
    study = nsclc(hand, tmp_path)
    cavity(hand, tmp_path, hand.LPS)
    path = study / "3.000000-RT/1-1.dcm"
    path.parent.mkdir()

    def draw(**changed):
        uids = {
            "patient_id": "LUNG1-001",
            "study_uid": "1.2.1",
            "series_uid": "1.2.1.3",
            "sop_instance_uid": "1.2.1.4",
            "image_series_uid": "1.2.1.1",
            "frame_of_reference_uid": "1.2.1.9",
        }
        structures = {"Lung-Left": 1, "Lung-Right": 2}
        write_rtstruct(path, Volume(hand.lungs(), hand.LPS), structures, **uids | changed)
        return of_files(check(tmp_path))

    assert not draw()
    (finding,) = draw(frame_of_reference_uid="1.2.2.9", image_series_uid="1.2.2.1")
    assert (finding.severity, finding.kind, finding.file) == ("error", "geometry", str(path))
    assert "drawn in the frame of reference 1.2.2.9" in finding.found
    with pytest.raises(GeometryError, match="frame of reference"):
        read_mask(find_cases(tmp_path).cases[0], "structures")
    (finding,) = draw(patient_id="LUNG1-002")
    assert (finding.severity, finding.kind, finding.file) == ("error", "layout", str(path))


def test_damaged_dicom_file(hand, tmp_path):
    folder = nsclc(hand, tmp_path) / "0.000000-CT"
    file = sorted(folder.iterdir())[2]
    file.write_bytes(file.read_bytes()[:-300])
    cavity(hand, tmp_path, hand.LPS)
    (finding,) = of_files(check(tmp_path))
    assert finding.kind == "unreadable"
    assert finding.file == str(file)


def test_dicom_that_nobody_can_tell_is_an_error(hand, tmp_path):
    nsclc(hand, tmp_path)
    cavity(hand, tmp_path, hand.LPS)
    (tmp_path / "1.3.6").mkdir()
    for n in range(16):
        (tmp_path / f"1.3.6/1-{n:03d}.dcm").touch()
    report = check(tmp_path)
    (finding,) = [one for one in report.findings if one.severity == "error"]
    assert (finding.kind, finding.file) == ("unreadable", str(tmp_path / "1.3.6"))
    assert "holds no DICOM file that can be read" in finding.found
    assert not report.ok


def test_cavity_off_the_grid_is_a_warning_and_of_another_scan_an_error(hand, tmp_path):
    nsclc(hand, tmp_path)
    slightly, far = hand.LPS.copy(), hand.LPS.copy()
    slightly[0, 3] += 0.4
    far[2, 3] += 40
    path = cavity(hand, tmp_path, slightly)
    (finding,) = of_files(check(tmp_path))
    assert (finding.severity, finding.kind) == ("warning", "geometry")
    cavity(hand, tmp_path, far)
    (finding,) = of_files(check(tmp_path))
    assert (finding.severity, finding.kind, finding.file) == ("error", "geometry", str(path))
    assert "lies outside of the image" in finding.found


def test_what_this_project_wrote_is_passed_over_and_said(hand, tmp_path):
    hand.put_mosmed(tmp_path / "raw", 255)
    hand.touch(tmp_path, "hub/.covidseg/report.json", "out/a.nii.gz", "lost/a.nii.gz")
    (tmp_path / "out/predictions.json").write_text('{"a.nii.gz": "made of"}')
    (tmp_path / "lost/predictions.json").write_text("")
    told = {
        (Path(one.file).name, one.severity, one.kind)
        for one in check(tmp_path).findings
        if not one.dataset
    }
    assert told == {
        ("hub", "note", "repository"),
        ("out", "note", "predictions"),
        ("lost", "warning", "predictions"),
    }


def test_surplus_cases_are_noted(hand, tmp_path):
    nsclc(hand, tmp_path, name="LUNG1-003")  # not among the published 402
    report = check(tmp_path)
    (finding,) = [finding for finding in report.findings if finding.kind == "surplus-cases"]
    assert finding.severity == "note"
    assert "LUNG1-003" in finding.found


@pytest.mark.parametrize(("folder", "severity"), [("_v1", "error"), ("", "warning"), ("_v2", None)])
def test_version_of_covid1920(hand, tmp_path, folder, severity):
    root = tmp_path / f"COVID-19-20{folder}" / "Train"
    hand.put(root / "volume-covid19-A-0003_ct.nii.gz", hand.scan())
    hand.put(root / "volume-covid19-A-0003_seg.nii.gz", hand.infection())
    found = [finding.severity for finding in check(tmp_path).findings if finding.kind == "version"]
    assert found == ([severity] if severity else [])


def test_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(LayoutError, match=r"(?s)holds none of the datasets.*Task06_Lung"):
        check(tmp_path)


def test_unforeseen_fault_of_one_case_hides_no_other(hand, tmp_path, monkeypatch):
    from covidseg.registry import check as module

    hand.put_mosmed(tmp_path, BAD)
    hand.put_mosmed(tmp_path, GOOD)
    real = module.check_case

    def fail(case):
        if case.case_id == "study_0255":
            raise ZeroDivisionError("oh")
        return real(case)

    monkeypatch.setattr(module, "check_case", fail)
    report = check(tmp_path)
    (finding,) = of_files(report)
    assert (finding.kind, finding.case_id) == ("unforeseen", "study_0255")
    assert "ZeroDivisionError: oh" in finding.found
    assert len(report.cases) == 2


def test_report_is_plain_json_and_whole(hand, tmp_path):
    image, _ = hand.put_mosmed(tmp_path / "data", BAD)
    truncate(image)
    report = check(tmp_path / "data")
    write_report(report, tmp_path / "out" / "report.json")
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["ok"] is False
    assert content["phantom"] is False
    assert content["datasets"]["mosmed"]["cases"] == {"labelled": 1}
    assert content["datasets"]["mosmed"]["errors"] == 1
    assert content["datasets"]["mosmed"]["files"] == 2
    assert content["findings"][0]["file"] == str(image)
    # Neither is a name that is no UTF-8 a reason to lose what was found.
    shutil.move(tmp_path / "data", tmp_path / os.fsdecode(b"caf\xe9"))
    write_report(check(tmp_path), tmp_path / "out" / "report.json")
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert os.fsencode(content["findings"][0]["file"]).startswith(bytes(tmp_path / "caf"))
    (tmp_path / "file").touch()
    with pytest.raises((StorageError, NotADirectoryError)):
        write_report(report, tmp_path / "file" / "report.json")


def test_phantoms_have_no_errors_and_say_what_they_are(phantoms):
    report = check_root(phantoms, workers=2, progress=False)
    assert [str(finding) for finding in report.findings if finding.severity == "error"] == []
    assert {finding.kind for finding in report.findings if finding.severity == "warning"} <= {
        "missing-cases",
        "duplicate-content",
    }
    assert report.as_dict()["phantom"] is True


@pytest.mark.real
def test_real_data_have_no_errors(real_data):
    report = check_root(real_data, workers=2, progress=False)
    assert report.ok
    assert report.found.counts("nsclc") == {"labelled": 1}
    assert report.found.counts("semiseg") == {"train": 50, "unlabelled": 1600}
    assert {entry.folder.name for entry in report.found.ignored} == {
        "chest-imaging-platform",
        "lung_masks",
        "rasterised",
    }
    facts = next(case for case in report.cases if case["dataset"] == "nsclc")
    assert facts["orientation"] == "LPS"
    assert facts["masks"]["structures"]["gross_target_volume"] > 0
