from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covidseg.core.errors import (
    ConfigError,
    GeometryError,
    IntensityError,
    LabelError,
    UnreadableFileError,
)
from covidseg.imaging.resample import reorient
from covidseg.imaging.volume import Volume
from covidseg.registry.cases import HU, Case, Intensity, Mask
from covidseg.registry.datasets import DATASETS
from covidseg.registry.find import find_cases
from covidseg.registry.labels import centroid_mm, count_values, lungs_exchanged
from covidseg.registry.read import ct_series, read_image, read_mask, to_hu


def mosmed_case(hand, root):
    hand.put_mosmed(root, 255)
    return find_cases(root).cases[0]


def test_image_and_mask_of_a_case(hand, tmp_path):
    case = mosmed_case(hand, tmp_path)
    image, mask = read_image(case), read_mask(case, "infection")
    np.testing.assert_array_equal(image.data, hand.scan(255))
    np.testing.assert_array_equal(mask.data, hand.infection())
    assert mask.data.dtype == np.uint8
    with pytest.raises(ConfigError, match=r"no annotation 'lung'; expected one of infection"):
        read_mask(case, "lung")


def nsclc_case(hand, root, cavity, affine):
    """An NSCLC case in NIfTI with a cavity mask on axes of its own."""
    image = hand.put(root / "LUNG1-001.nii.gz", hand.scan())
    path = hand.put(root / "LUNG1-001_thor_cav_primary_reviewer.nii.gz", cavity, affine)
    assert image.exists()
    assert path.exists()
    return find_cases(root).cases[0]


@pytest.mark.parametrize("values", [(1, 2), (2, 1), (3, 7)])
@pytest.mark.parametrize("axes", ["LPS", "RAS", "PLI", "SAR"])
def test_cavity_is_brought_onto_the_image_and_its_sides_told(hand, tmp_path, values, axes):
    left, right = values
    lungs = hand.lungs()
    stored = np.select([lungs == 1, lungs == 2], [left, right]).astype(np.uint8)
    turned = reorient(Volume(stored, hand.LPS), axes)
    case = nsclc_case(hand, tmp_path, np.asfortranarray(turned.data), turned.affine)
    found = read_mask(case, "lung")
    np.testing.assert_array_equal(found.data, lungs)
    np.testing.assert_allclose(found.affine, hand.LPS)


def test_cavity_on_a_coarser_grid_is_resampled_through_space(hand, tmp_path):
    lungs = hand.lungs()
    coarse = hand.LPS @ np.diag([2.0, 2.0, 1.0, 1.0])
    coarse[:3, 3] += hand.LPS[:3, :3] @ (0.5, 0.5, 0)
    found = read_mask(nsclc_case(hand, tmp_path, lungs[::2, ::2].copy(), coarse), "lung")
    dice = 2 * np.count_nonzero((found.data == lungs) & (lungs > 0))
    assert dice / (np.count_nonzero(found.data) + np.count_nonzero(lungs)) > 0.85


def test_cavity_of_another_scan_is_refused(hand, tmp_path):
    shifted = hand.LPS.copy()
    shifted[2, 3] += 40
    with pytest.raises(GeometryError, match=r"lies outside of the image.*thor_cav|thor_cav.*lies"):
        read_mask(nsclc_case(hand, tmp_path, hand.lungs(), shifted), "lung")


def test_cavity_of_one_value_has_no_sides(hand, tmp_path):
    both = (hand.lungs() > 0).astype(np.uint8)
    with pytest.raises(LabelError, match=r"thor_cav.*holds 1 values besides 0 \(1\)"):
        read_mask(nsclc_case(hand, tmp_path, both, hand.LPS), "lung")


def structseg_case(hand, root, label, affine=None):
    folder = root / "Task3_Thoracic_OAR" / "3"
    hand.put(folder / "data.nii.gz", hand.scan(), hand.LPS if affine is None else affine)
    hand.put(folder / "label.nii.gz", label, hand.LPS if affine is None else affine)
    return find_cases(root).cases[0]


def test_structseg_sides_are_verified_by_the_affine(hand, tmp_path):
    np.testing.assert_array_equal(
        read_mask(structseg_case(hand, tmp_path / "good", hand.lungs()), "organs").data,
        hand.lungs(),
    )
    mirrored = hand.LPS @ np.diag([-1.0, 1, 1, 1])
    with pytest.raises(LabelError, match=r"\(value 1\) lies 15 mm to the patient's right"):
        read_mask(structseg_case(hand, tmp_path / "bad", hand.lungs(), mirrored), "organs")


def test_grey_mosmed_mask_is_cut_above_a_half(hand, tmp_path):
    case = mosmed_case(hand, tmp_path)
    grey = hand.infection() * np.float32(0.7)
    grey[0, 0, 0] = 0.4
    hand.put(case.masks["infection"].path, grey)
    np.testing.assert_array_equal(read_mask(case, "infection").data, hand.infection())


@pytest.mark.parametrize(
    ("values", "dtype", "finding"),
    [
        ((0, 255), np.float32, r"holds 0, 255; expected values from 0 to 1.*divide it by 255"),
        ((0, -1), np.float32, "holds -1, 0"),
        ((0, np.nan), np.float32, "holds NaN"),
    ],
)
def test_mosmed_mask_of_other_values_is_refused(hand, tmp_path, values, dtype, finding):
    case = mosmed_case(hand, tmp_path)
    hand.put(case.masks["infection"].path, np.where(hand.infection(), values[1], 0).astype(dtype))
    with pytest.raises(LabelError, match=finding) as caught:
        read_mask(case, "infection")
    assert caught.value.path == case.masks["infection"].path


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (np.float32(255), r"holds the values 255.*saved as a picture"),
        (np.uint8(3), r"holds the values 3.*expected 0 \(background\), 1 \(infection\)"),
        (np.float32(0.5), r"holds the values 0\.5"),
    ],
)
def test_mask_with_labels_its_dataset_does_not_have(hand, tmp_path, data, finding):
    root = tmp_path / "COVID-19-20_v2" / "Train"
    hand.put(root / "volume-covid19-A-0003_ct.nii.gz", hand.scan())
    hand.put(root / "volume-covid19-A-0003_seg.nii.gz", hand.infection() * data)
    with pytest.raises(LabelError, match=finding):
        read_mask(find_cases(tmp_path).cases[0], "infection")


def test_image_in_the_place_of_a_mask(hand, tmp_path):
    root = tmp_path / "COVID-19-20_v2" / "Train"
    hand.put(root / "volume-covid19-A-0003_ct.nii.gz", hand.scan())
    hand.put(root / "volume-covid19-A-0003_seg.nii.gz", hand.scan())
    with pytest.raises(LabelError, match="looks like an image, not a mask"):
        read_mask(find_cases(tmp_path).cases[0], "infection")


def test_mask_on_a_shifted_grid_is_refused_and_noise_is_not(hand, tmp_path):
    case = mosmed_case(hand, tmp_path)
    path = case.masks["infection"].path
    hand.put(path, hand.infection(), hand.LPS + 1e-6 * np.eye(4) * [1, 1, 1, 0])
    read_mask(case, "infection")
    shifted = hand.LPS.copy()
    shifted[0, 3] += 1
    hand.put(path, hand.infection(), shifted)
    with pytest.raises(GeometryError, match="origins") as caught:
        read_mask(case, "infection")
    assert caught.value.path == path
    assert str(case.image) in str(caught.value)


def test_pictures_are_one_slice_volumes(tmp_path):
    from PIL import Image

    root = tmp_path / "Dataset/TrainingSet/LungInfection-Train/Doctor-label"
    (root / "Imgs").mkdir(parents=True)
    (root / "GT").mkdir()
    mask = np.zeros((6, 4), np.uint8)
    mask[1, 2] = 255
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(6, 4)).save(root / "Imgs/0.png")
    Image.fromarray(mask).save(root / "GT/0.png")
    case = find_cases(tmp_path).cases[0]
    assert read_image(case).shape == (6, 4, 1)
    np.testing.assert_array_equal(read_mask(case, "infection").data[:, :, 0], mask // 255)
    with pytest.raises(IntensityError, match="no known relation to Hounsfield"):
        to_hu(read_image(case), case.intensity)
    Image.fromarray(mask.repeat(2, axis=1)).save(root / "GT/0.png")
    for grid in (None, read_image(case)):
        with pytest.raises(GeometryError, match=r"GT.0\.png: shapes \(6, 8, 1\).*Imgs.0\.png"):
            read_mask(case, "infection", grid=grid)


def test_to_hu():
    windowed = Volume(np.array([[[0, 127.5, 255]]]), np.eye(4))
    np.testing.assert_allclose(
        to_hu(windowed, Intensity("windowed", (-1250, 250))).data, [[[-1250, -500, 250]]]
    )
    assert to_hu(windowed, HU) is windowed


def test_absent_file_names_itself(hand, tmp_path):
    case = mosmed_case(hand, tmp_path)
    case.image.unlink()
    with pytest.raises(UnreadableFileError, match=r"study_0255\.nii\.gz: cannot be read"):
        read_image(case)


def test_structures_that_were_never_drawn_are_skipped(hand, tmp_path):
    from covidseg.imaging.rtstruct import write_rtstruct

    image = Volume(hand.scan(), hand.LPS)
    path = tmp_path / "1-1.dcm"
    write_rtstruct(
        path,
        image.with_data(np.where(hand.lungs() == 1, 1, 0).astype(np.uint8)),
        {"Lung-Left": 1, "Lung-Right": 2, "Patient": 9},
        patient_id="LUNG1-001",
        study_uid="1.2",
        series_uid="1.2.3",
        sop_instance_uid="1.2.3.4",
        image_series_uid="1.2.4",
        frame_of_reference_uid="1.2.5",
    )
    mask = DATASETS["nsclc"].annotations["structures"].mask(path)
    case = Case("nsclc", "LUNG1-001", "LUNG1-001", "nsclc", path, masks={"structures": mask})
    found = read_mask(case, "structures", grid=image)
    np.testing.assert_array_equal(found.data, hand.lungs() == 1)
    case.masks["structures"] = replace(mask, structures={"Heart": 5})
    with pytest.raises(LabelError, match="none of the structures looked for, only 'Lung-Left'"):
        read_mask(case, "structures", grid=image)


def test_structures_of_one_name_are_refused_not_skipped(hand, tmp_path):
    import pydicom

    from covidseg.imaging.rtstruct import write_rtstruct

    image = Volume(hand.scan(), hand.LPS)
    path = tmp_path / "1-1.dcm"
    write_rtstruct(
        path,
        image.with_data(hand.lungs()),
        {"Lung-Left": 1, "Lung-Right": 2},
        patient_id="LUNG1-001",
        study_uid="1.2",
        series_uid="1.2.3",
        sop_instance_uid="1.2.3.4",
        image_series_uid="1.2.4",
        frame_of_reference_uid="1.2.5",
    )
    plan = pydicom.dcmread(path)
    plan.StructureSetROISequence[1].ROIName = "Lung-Left"
    plan.save_as(path)
    mask = DATASETS["nsclc"].annotations["structures"].mask(path)
    case = Case("nsclc", "LUNG1-001", "LUNG1-001", "nsclc", path, masks={"structures": mask})
    with pytest.raises(LabelError, match="2 structures called 'Lung-Left'"):
        read_mask(case, "structures", grid=image)


def test_a_localiser_in_the_scans_own_folder_is_left_out(hand, tmp_path):
    import pydicom

    from covidseg.imaging.dicom import write_series

    files = {}
    for uid in ("1.2.3.1", "1.2.3.2"):
        files[uid] = write_series(
            tmp_path / uid,
            Volume(hand.scan(), hand.LPS),
            patient_id="LUNG1-001",
            study_uid="1.2.3",
            series_uid=uid,
            frame_of_reference_uid="1.2.3.9",
        )
    scout = pydicom.dcmread(files["1.2.3.2"][0])
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.save_as(tmp_path / "1.2.3.1" / "scout.dcm")
    folder = (tmp_path / "1.2.3.1").rename(tmp_path / "LUNG1-001")
    case = next(case for case in find_cases(folder).cases if case.image == folder)
    np.testing.assert_array_equal(read_image(case).data, hand.scan())
    series = ct_series(case)
    assert series is not None
    assert series.uid == "1.2.3.1"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@settings(max_examples=25)
@given(st.data())
def test_counting_values_agrees_with_unique(dtype, data):
    values = data.draw(st.lists(st.integers(0, 300 if dtype != np.uint8 else 20), min_size=1))
    array = np.asfortranarray(np.resize(np.array(values, dtype=dtype), (5, 4, 3)))
    expected = dict(zip(*np.unique(array, return_counts=True), strict=True))
    assert count_values(array) == expected


@pytest.mark.parametrize("array", [[-3, 5, 5], [0.5, 0.5, 2], [1e9, 0, 0], [70000, -70000, 1]])
def test_counting_odd_values(array):
    data = np.array(array).reshape(3, 1, 1)
    assert count_values(data) == dict(zip(*np.unique(data, return_counts=True), strict=True))


def test_centroids_and_sides(hand):
    mask = Volume(hand.lungs(), hand.LPS)
    # x of the left lung: indices 14 to 19, centre 16.5, at -1.5 mm a step.
    np.testing.assert_allclose(centroid_mm(mask, 1), [-1.5 * 16.5, -1.5 * 9.5, 5 * 4.5])
    assert centroid_mm(mask, 9, stride=4) is None
    labels = {1: "left_lung", 2: "right_lung"}
    assert lungs_exchanged(mask, labels) is None
    assert "to the patient's right" in lungs_exchanged(mask, {2: "left_lung", 1: "right_lung"})
    assert lungs_exchanged(mask, {1: "infection"}) is None


@pytest.mark.real
def test_real_nsclc_case(real_data):
    case = find_cases(real_data, ["nsclc"]).cases[0]
    assert (case.case_id, case.image_format) == ("LUNG1-001", "dicom")
    image = read_image(case)
    assert image.shape == (512, 512, 134)
    np.testing.assert_allclose(image.spacing_mm, (0.9765625, 0.9765625, 3.0))
    assert image.orientation == "LPS"
    # Air outside the patient, and lung within the radiologists' own contours.
    assert image.data.min() == -1024
    structures = read_mask(case, "structures", grid=image)
    for value in (1, 2):
        assert -900 < np.median(image.data[structures.data == value]) < -700

    from covidseg.imaging.nifti import read_nifti
    from covidseg.registry.read import bring_onto

    path = real_data / "rasterised" / "LUNG1-001_lungs_gtv.nii.gz"
    reference = bring_onto(read_nifti(path), image, Mask(path, {}))
    for value in (1, 2, 3):
        ours, theirs = structures.data == value, reference.data == value
        dice = 2 * np.count_nonzero(ours & theirs) / (ours.sum() + theirs.sum())
        assert dice > 0.99


def test_slices_of_the_pool_that_lie_with_the_back_first(tmp_path):
    from PIL import Image

    folder = tmp_path / "Dataset/TrainingSet/LungInfection-Train/Pseudo-label/Imgs"
    folder.mkdir(parents=True)
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    names = ("Data-1_coronacases_org_001_1", "Data-1_radiopaedia_org_covid-19-pneumonia-7-dcm_1")
    for name in names:
        Image.fromarray(stored).save(folder / f"{name}.png")
    cases = {case.case_id: case for case in find_cases(tmp_path, ["semiseg"]).cases}
    back_first, upright = (read_image(cases[name]) for name in names)
    assert (back_first.orientation, upright.orientation) == ("LAS", "LPS")
    np.testing.assert_array_equal(back_first.data, upright.data)


@pytest.mark.real
def test_real_pool_lies_one_way(real_data):
    from covidseg.inference.preprocessing import Preprocessing

    small = Preprocessing(0, 255, 0, 1, plane_size=(32, 32))
    sums = {"coronacases": 0.0, "radiopaedia": 0.0}
    for case in find_cases(real_data, ["semiseg"]).of("semiseg", "unlabelled")[::20]:
        source = next(name for name in sums if name in case.case_id)
        sums[source] += small.image(read_image(case), case.intensity).image[0]
    one, other = (np.asarray(total) for total in sums.values())
    alike, upside_down = (
        np.corrcoef(one.ravel(), turned.ravel())[0, 1] for turned in (other, other[::-1])
    )
    assert alike > upside_down + 0.1


@pytest.mark.real
def test_real_covid_semiseg(real_data):
    found = find_cases(real_data, ["semiseg"])
    assert found.counts("semiseg") == {"train": 50, "unlabelled": 1600}
    both = [
        (
            read_mask(case, "infection").data.sum(),
            np.count_nonzero(read_mask(case, "lesion_types").data),
        )
        for case in found.of("semiseg", "train")
    ]
    # The multi-class part divides the very same infection into its types.
    assert all(one == other > 0 for one, other in both)
