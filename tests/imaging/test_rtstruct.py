from copy import deepcopy

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.draw import polygon2mask

from covidseg.core.errors import ConfigError, GeometryError, LabelError, UnreadableFileError
from covidseg.imaging.dicom import find_series, read_series, write_series
from covidseg.imaging.geometry import grids_agree
from covidseg.imaging.nifti import read_nifti
from covidseg.imaging.resample import reorient
from covidseg.imaging.rtstruct import (
    fill_polygons,
    rasterise,
    structure_names,
    trace_borders,
    write_rtstruct,
)
from covidseg.imaging.volume import Volume

AFFINE = np.array([[-0.98, 0, 0, 249.5], [0, -0.75, 0, 460.5], [0, 0, 3, -681.5], [0, 0, 0, 1]])
FRAME = "1.2.826.0.1.3"
UIDS = {
    "patient_id": "LUNG1-999",
    "study_uid": "1.2.826.0.1.1",
    "series_uid": "1.2.826.0.1.5",
    "sop_instance_uid": "1.2.826.0.1.5.1",
    "image_series_uid": "1.2.826.0.1.2",
    "frame_of_reference_uid": FRAME,
}
STRUCTURES = {"Lung-Left": 1, "Lung-Right": 2}


def box(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def inside(polygons, shape):
    return {tuple(p) for p in np.argwhere(fill_polygons(polygons, shape)).tolist()}


def test_centres_decide():
    assert inside([box(0.5, 0.5, 2.5, 1.5)], (5, 5)) == {(1, 1), (2, 1)}
    assert inside([box(1.1, 1.1, 1.9, 1.9)], (5, 5)) == set()


def test_shared_edges_share_no_pixel():
    left = fill_polygons([box(0, 0, 2, 4)], (6, 6))
    right = fill_polygons([box(2, 0, 4, 4)], (6, 6))
    assert not (left & right).any()
    assert (left | right).sum() == 16


def test_holes_and_keyholes():
    ring = fill_polygons([box(-0.5, -0.5, 6.5, 6.5), box(1.5, 1.5, 4.5, 4.5)], (7, 7))
    assert ring.sum() == 49 - 9
    # Outer line, a cut inwards, the inner line the other way round, the cut back outwards.
    outer = [[-0.5, -0.5], [6.5, -0.5], [6.5, 6.5], [-0.5, 6.5], [-0.5, -0.5]]
    inner = [[1.5, 1.5], [1.5, 4.5], [4.5, 4.5], [4.5, 1.5], [1.5, 1.5]]
    np.testing.assert_array_equal(fill_polygons([np.array(outer + inner)], (7, 7)), ring)


def test_beyond_the_grid_is_cut_off():
    assert fill_polygons([box(-10, -10, 100, 100)], (4, 3)).all()
    assert not fill_polygons([box(10, 10, 100, 100)], (4, 3)).any()
    assert inside([box(-10, 0.5, 1.5, 100)], (3, 3)) == {(0, 1), (1, 1), (0, 2), (1, 2)}


POINTS = hnp.arrays(
    np.float64, st.tuples(st.integers(3, 9), st.just(2)), elements=st.floats(-3, 13, width=16)
)


@given(POINTS)
def test_the_same_as_scikit_image_off_the_edges(points):
    # Shifted off the lattice, so that no centre lies on an edge, where conventions differ.
    points = points + np.array([0.0123, 0.0217]) * np.pi
    np.testing.assert_array_equal(fill_polygons([points], (10, 11)), polygon2mask((10, 11), points))


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_borders_filled_give_the_mask_back(mask):
    polygons = trace_borders(mask)
    assert bool(polygons) == mask.any()
    if polygons:
        np.testing.assert_array_equal(fill_polygons(polygons, mask.shape), mask)


def test_borders_have_corners_only():
    mask = np.zeros((6, 6), bool)
    mask[1:5, 2:4] = True
    (polygon,) = trace_borders(mask)
    assert len(polygon) <= 5
    assert polygon.min(axis=0).tolist() == [0.5, 1.5]
    assert polygon.max(axis=0).tolist() == [4.5, 3.5]


@pytest.fixture
def drawn(tmp_path):
    labels = np.zeros((12, 14, 5), np.uint8)
    labels[1:6, 2:12, 1:4], labels[2:4, 5:8, 2] = 1, 0
    labels[7:11, 2:12, 0:5] = 2
    grid = Volume(labels, AFFINE)
    write_rtstruct(tmp_path / "rt.dcm", grid, STRUCTURES, **UIDS)
    return tmp_path / "rt.dcm", grid


@settings(max_examples=30)
@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=6),
        elements=st.integers(0, 2),
    ),
    st.floats(-30, 30),
    st.sampled_from(["LPS", "RAS", "LAI"]),
)
def test_write_then_rasterise_is_exact(tmp_path_factory, labels, degrees, orientation):
    a = np.radians(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    labels[0, 0, 0], labels.flat[-1] = 1, 2
    grid = Volume(labels, turn @ AFFINE)
    path = tmp_path_factory.mktemp("rt") / "rt.dcm"
    write_rtstruct(path, grid, STRUCTURES, **UIDS)
    np.testing.assert_array_equal(rasterise(path, grid, STRUCTURES), labels)
    # In-plane flips and the slices' direction are of no account: contours lie in the patient.
    other = reorient(grid, orientation)
    np.testing.assert_array_equal(rasterise(path, other, STRUCTURES), other.data)


def test_names_and_values(drawn):
    path, grid = drawn
    assert structure_names(path) == ["Lung-Left", "Lung-Right"]
    labels = rasterise(path, grid, {"Lung-Right": 7}, frame_of_reference_uid=FRAME)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.where(grid.data == 2, 7, 0))
    with pytest.raises(ConfigError, match="256"):
        rasterise(path, grid, {"Lung-Right": 256})


def test_later_structures_win(tmp_path):
    labels = np.ones((6, 6, 1), np.uint8)
    grid = Volume(labels, AFFINE)
    write_rtstruct(tmp_path / "rt.dcm", grid, {"a": 1, "b": 1}, **UIDS)
    assert (rasterise(tmp_path / "rt.dcm", grid, {"a": 1, "b": 2}) == 2).all()
    assert (rasterise(tmp_path / "rt.dcm", grid, {"b": 2, "a": 1}) == 1).all()


def test_absent_and_empty_structures(drawn, tmp_path):
    path, grid = drawn
    with pytest.raises(LabelError, match=r"no structure 'GTV-1', only 'Lung-Left', 'Lung-Right'"):
        rasterise(path, grid, {"GTV-1": 1})
    write_rtstruct(tmp_path / "e.dcm", grid, {"GTV-1": 9}, **UIDS)
    with pytest.raises(LabelError, match="no closed contour"):
        rasterise(tmp_path / "e.dcm", grid, {"GTV-1": 1})


def test_two_structures_of_one_name(drawn):
    path, grid = drawn
    plan = pydicom.dcmread(path)
    plan.StructureSetROISequence[1].ROIName = "Lung-Left"
    plan.save_as(path)
    with pytest.raises(LabelError, match="2 structures called 'Lung-Left'"):
        rasterise(path, grid, {"Lung-Left": 1})
    # One that was begun and left empty is passed over.
    plan.ROIContourSequence[1].ContourSequence = []
    plan.save_as(path)
    drawn_value = grid.data == 1
    np.testing.assert_array_equal(rasterise(path, grid, {"Lung-Left": 1}) == 1, drawn_value)


def test_another_frame_of_reference(drawn):
    path, grid = drawn
    with pytest.raises(GeometryError, match=r"1\.2\.826\.0\.1\.3.*expected 9\.9"):
        rasterise(path, grid, STRUCTURES, frame_of_reference_uid="9.9")


def test_a_frame_of_reference_that_is_no_contradiction(drawn):
    path, grid = drawn
    # An anonymiser changed the frame of reference in one of the two; the series is still named.
    uids = {"frame_of_reference_uid": "9.9", "image_series_uid": UIDS["image_series_uid"]}
    np.testing.assert_array_equal(rasterise(path, grid, STRUCTURES, **uids), grid.data)
    uids["image_series_uid"] = "9.8"
    with pytest.raises(GeometryError, match=r"expected 9\.9"):
        rasterise(path, grid, STRUCTURES, **uids)
    # The same frame on another series (resaved) is the same patient's space.
    uids["frame_of_reference_uid"] = FRAME
    np.testing.assert_array_equal(rasterise(path, grid, STRUCTURES, **uids), grid.data)
    uids["frame_of_reference_uid"] = "9.9"
    plan = pydicom.dcmread(path)
    for item in plan.StructureSetROISequence:
        del item.ReferencedFrameOfReferenceUID
    del plan.ReferencedFrameOfReferenceSequence
    plan.save_as(path)
    np.testing.assert_array_equal(rasterise(path, grid, STRUCTURES, **uids), grid.data)


@pytest.mark.parametrize("shift_mm", [1.5, 300])
def test_contours_off_the_slices(drawn, shift_mm):
    path, grid = drawn
    moved = grid.affine.copy()
    moved[2, 3] += shift_mm
    with pytest.raises(GeometryError, match="lies on none of the image's 5 slices"):
        rasterise(path, Volume(grid.data, moved), STRUCTURES)


@pytest.mark.parametrize(
    "again",
    [
        lambda points: points,
        lambda points: np.roll(points, 2, axis=0),
        lambda points: np.roll(points[::-1], 1, axis=0),
        lambda points: points + 0.004,
        lambda points: np.concatenate([points, points[:1]]),
    ],
    ids=["as it is", "from another point on", "the other way round", "rounded", "closed"],
)
def test_a_contour_written_twice_counts_once(drawn, again):
    path, grid = drawn
    plan = pydicom.dcmread(path)
    contours = plan.ROIContourSequence[1].ContourSequence
    copy = deepcopy(contours[0])
    points = np.array(copy.ContourData, float).reshape(-1, 3)
    copy.ContourData = [f"{value:.6f}" for value in again(points).ravel()]
    contours.append(copy)
    plan.save_as(path)
    np.testing.assert_array_equal(rasterise(path, grid, STRUCTURES), grid.data)


def test_points_and_open_contours_are_no_area(drawn):
    path, grid = drawn
    plan = pydicom.dcmread(path)
    for contour in plan.ROIContourSequence[1].ContourSequence:
        contour.ContourGeometricType = "POINT"
    plan.save_as(path)
    with pytest.raises(LabelError, match="'Lung-Right' has no closed contour"):
        rasterise(path, grid, STRUCTURES)


def test_other_files(drawn, tmp_path):
    path, grid = drawn
    (tmp_path / "x.dcm").write_bytes(b"text" * 100)
    with pytest.raises(UnreadableFileError, match=r"x\.dcm.*not DICOM"):
        rasterise(tmp_path / "x.dcm", grid, STRUCTURES)
    with pytest.raises(UnreadableFileError, match="no such file"):
        structure_names(tmp_path / "y.dcm")
    ct = write_series(
        tmp_path / "ct",
        Volume(np.zeros((3, 3, 3), np.int16), AFFINE),
        patient_id="p",
        study_uid="1.2",
        series_uid="1.3",
        frame_of_reference_uid=FRAME,
    )
    with pytest.raises(UnreadableFileError, match="modality CT; expected RTSTRUCT"):
        structure_names(ct[0])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises((UnreadableFileError, LabelError), match=r"rt\.dcm"):
        rasterise(path, grid, STRUCTURES)


@pytest.mark.real
def test_the_real_nsclc_case(real_data):
    root = real_data / "NSCLC-Radiomics" / "LUNG1-001"
    series = {one.modality: one for one in find_series(root)}
    scan = read_series(series["CT"])
    path = series["RTSTRUCT"].files[0]
    assert structure_names(path) == ["GTV-1", "Spinal-Cord", "Lung-Left", "Lung-Right"]
    labels = rasterise(
        path,
        scan,
        {"Lung-Left": 1, "Lung-Right": 2, "GTV-1": 3},
        frame_of_reference_uid=series["CT"].frame_of_reference_uid,
    )
    reference = read_nifti(real_data / "rasterised" / "LUNG1-001_lungs_gtv.nii.gz")
    assert grids_agree(scan.shape, scan.affine, reference.shape, reference.affine) is None
    for value in (1, 2, 3):
        ours, theirs = labels == value, reference.data == value
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.999
    # The left lung lies on the patient's left: greater x in LPS, smaller in RAS.
    centre = [
        scan.affine[0, 0] * np.nonzero((labels == value).any(axis=(1, 2)))[0].mean()
        for value in (1, 2)
    ]
    assert centre[0] < centre[1]
    # Lungs are air: a transposed or flipped mask would not be.
    assert np.median(scan.data[labels == 1]) < -700
