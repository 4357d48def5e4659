import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from covidseg.core.errors import ConfigError, GeometryError
from covidseg.imaging.geometry import grids_agree
from covidseg.imaging.resample import (
    nearest_neighbour_axis,
    reorient,
    resample_spacing,
    resample_to_grid,
)
from covidseg.imaging.volume import Volume

AFFINE = np.array([[-0.7, 0, 0, 171.5], [0, -0.8, 0, 189.1], [0, 0, 2, -883], [0, 0, 0, 1]])
RNG = np.random.default_rng(0)
SMOOTH = ndimage.gaussian_filter(RNG.normal(0, 500, (20, 18, 16)), 2).astype(np.float32)


def rotated(degrees):
    a = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    return turn @ AFFINE


def at(volume, points_mm, order):
    """An independent reference: scipy's map_coordinates at positions in mm."""
    index = np.linalg.inv(volume.affine) @ np.vstack([points_mm, np.ones(points_mm.shape[1])])
    data = volume.data.astype(np.float64)
    return ndimage.map_coordinates(
        data, index[:3], order=order, mode="mirror" if order == 3 else "nearest"
    )


def positions(shape, affine):
    index = np.indices(shape).reshape(3, -1)
    return (affine @ np.vstack([index, np.ones(index.shape[1])]))[:3]


ORIENTATION = st.sampled_from(["RAS", "LPS", "SAR", "PIR", "ILA", "RSP"])


@given(
    hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)),
    ORIENTATION,
    st.sampled_from([AFFINE, rotated(20)]),
)
def test_reorient_keeps_every_voxel_in_its_place_and_is_undone(data, orientation, affine):
    volume = Volume(data, affine)
    turned = reorient(volume, orientation)
    assert turned.orientation == orientation
    there = {
        tuple(p.round(4)): v
        for p, v in zip(positions(data.shape, affine).T, data.ravel(), strict=True)
    }
    after = positions(turned.shape, turned.affine).T
    here = {tuple(p.round(4)): v for p, v in zip(after, turned.data.ravel(), strict=True)}
    assert here == there
    back = reorient(turned, volume.orientation)
    np.testing.assert_array_equal(back.data, data)
    np.testing.assert_allclose(back.affine, affine, atol=1e-9)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_same_grid_gives_the_same_values(order):
    volume = Volume(SMOOTH, AFFINE)
    noisy = AFFINE + np.vstack([np.full((3, 4), 1e-7), np.zeros((1, 4))])
    for affine in (AFFINE, noisy):
        np.testing.assert_array_equal(
            resample_to_grid(volume, SMOOTH.shape, affine, order=order).data, SMOOTH
        )


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("orientation", ["RAS", "SAR", "PIR"])
def test_other_axis_order_is_reorienting(order, orientation):
    volume = Volume(SMOOTH, AFFINE)
    turned = reorient(volume, orientation)
    np.testing.assert_array_equal(
        resample_to_grid(volume, turned.shape, turned.affine, order=order).data, turned.data
    )


@settings(max_examples=40)
@given(
    st.sampled_from([1, 3]),
    st.sampled_from([0.0, 7.0, -30.0]),
    hnp.arrays(np.float64, 3, elements=st.floats(0.3, 2.5)),
    ORIENTATION,
    st.sampled_from(["C", "F"]),
)
def test_inside_it_equals_map_coordinates(order, degrees, scale, orientation, layout):
    """Aligned and oblique grids, any axis order, against scipy at the same points in mm."""
    volume = Volume(np.array(SMOOTH, order=layout), AFFINE)
    source = reorient(volume, orientation)
    centre = AFFINE @ [9, 8, 7, 1]
    shape = (5, 6, 7)
    affine = rotated(degrees) @ np.diag([*scale, 1])
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ (2, 2.5, 3)
    result = resample_to_grid(source, shape, affine, order=order, fill=-9999)
    points = positions(shape, affine)
    expected = at(source, points, order).reshape(shape)
    index = (np.linalg.inv(source.affine) @ np.vstack([points, np.ones(points.shape[1])]))[:3]
    size = np.array(source.shape)[:, None]
    inner = ((index > 0) & (index < size - 1)).all(axis=0).reshape(shape)
    outer = ((index < -0.51) | (index > size - 0.49)).any(axis=0).reshape(shape)
    np.testing.assert_allclose(result.data[inner], expected[inner], atol=0.02, rtol=1e-4)
    assert (result.data[outer] == -9999).all()
    assert result.data.dtype == np.float32


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("degrees", [0, 0.06, 20])
def test_between_the_outermost_centres_and_the_edge_are_the_edges_values(order, degrees):
    """Also where grids are oblique, so that a turn of next to nothing changes next to nothing."""
    volume = Volume(
        np.arange(8, dtype=np.float32)[:, None, None] * 100 + np.zeros((8, 8, 8)), np.eye(4)
    )
    affine = rotated(degrees) @ np.linalg.inv(AFFINE)
    affine[:3, 3] = (-0.4, 2, 2)
    shape = (6, 5, 4)
    result = resample_to_grid(volume, shape, affine, order=order, fill=-1).data
    points = positions(shape, affine)
    clipped = np.clip(points, 0, 7)
    expected = at(volume, clipped, order).reshape(shape)
    outside = ((points < -0.5) | (points > 7.5)).any(axis=0).reshape(shape)
    assert ((points < 0).any(axis=0).reshape(shape) & ~outside).any()
    np.testing.assert_allclose(result, np.where(outside, -1, expected), atol=0.01)


@pytest.mark.parametrize("degrees", [0, 15])
def test_labels_by_nearest_keep_dtype_and_values(degrees):
    labels = (SMOOTH > 20).astype(np.uint8) * 3
    result = resample_to_grid(
        Volume(labels, AFFINE), (30, 30, 30), rotated(degrees), order=0, fill=7
    )
    assert result.data.dtype == np.uint8
    assert set(np.unique(result.data)) <= {0, 3, 7}
    assert (result.data == 7).any()


def test_a_grid_elsewhere_is_all_fill():
    far = AFFINE.copy()
    far[0, 3] += 1000
    for affine in (far, rotated(30) + np.array([[0, 0, 0, 1000.0]] + 3 * [[0, 0, 0, 0]])):
        result = resample_to_grid(Volume(SMOOTH, AFFINE), (4, 4, 4), affine, order=1, fill=-1024)
        assert (result.data == -1024).all()


def test_half_a_voxel_beyond_the_outermost_centres_is_inside():
    volume = Volume(np.array([10, 20], np.int16).reshape(2, 1, 1), np.eye(4))
    quarter = np.diag([0.25, 1, 1, 1.0])
    quarter[0, 3] = -0.75
    result = resample_to_grid(volume, (12, 1, 1), quarter, order=1, fill=-1)
    # Positions -0.75, -0.5, -0.25, 0, ..., 1.5, 1.75, 2
    expected = [-1, 10, 10, 10, 12.5, 15, 17.5, 20, 20, 20, -1, -1]
    np.testing.assert_allclose(result.data.ravel(), expected)


def test_impossible_requests():
    volume = Volume(SMOOTH, AFFINE)
    with pytest.raises(ConfigError, match="order 2"):
        resample_to_grid(volume, (2, 2, 2), AFFINE, order=2)
    with pytest.raises(ConfigError, match="order 2"):
        resample_to_grid(volume, (2, 2, 2), rotated(10), order=2)
    with pytest.raises(GeometryError, match="shape"):
        resample_to_grid(volume, (2, 0, 2), AFFINE, order=1)
    with pytest.raises(ConfigError, match="spacing"):
        resample_spacing(volume, (1, 0, 1))


@pytest.mark.parametrize("spacing_mm", [(1000, 1000, 1000), (2**60, 4, 4.5), (1e30, 1e30, 1e30)])
def test_a_grid_that_no_chest_has_is_refused_before_memory_is_asked_for(spacing_mm):
    volume = Volume(np.zeros((16, 16, 16), np.int16), np.diag([*spacing_mm, 1.0]))
    with pytest.raises(GeometryError, match=r"too many.*Check the scan's spacing") as refused:
        resample_spacing(volume, (1, 1, 1))
    assert f"16 x 16 x 16 voxels of {spacing_mm[0]:.6g} x" in str(refused.value)


def test_the_largest_grid_is_allowed(monkeypatch):
    volume = Volume(np.zeros((1, 2, 3), np.int16), np.diag([2.0, 2.0, 1.0, 1.0]))
    monkeypatch.setattr("covidseg.imaging.resample._MOST_VOXELS", 2 * 4 * 3)
    assert resample_spacing(volume, (1, 1, 1)).shape == (2, 4, 3)
    with pytest.raises(GeometryError, match=r"are 2 x 4 x 4 at 1 x 1 x 0\.75 mm"):
        resample_spacing(volume, (1, 1, 0.75))


@settings(max_examples=30)
@given(hnp.arrays(np.float64, 3, elements=st.floats(0.5, 2.4)), st.sampled_from([1, 3]))
@example(np.array([0.8, 0.8, 0.8]), 1)  # 17.5 voxels, which rounding may take either way
def test_spacing_is_exact_and_voxels_stay_in_place(spacing, order):
    volume = Volume(SMOOTH, AFFINE)
    result = resample_spacing(volume, spacing, order=order)
    np.testing.assert_allclose(result.spacing_mm, spacing)
    wanted = np.maximum(1, np.array(SMOOTH.shape) * (0.7, 0.8, 2) / spacing)
    assert (np.abs(result.shape - wanted) <= 0.5 + 1e-9).all()
    assert result.data.dtype == np.float32
    # The outer corner of the first voxel is where it was.
    np.testing.assert_allclose(
        result.affine @ [-0.5, -0.5, -0.5, 1], AFFINE @ [-0.5, -0.5, -0.5, 1]
    )
    if max(spacing) / min(spacing) <= 3:
        points = positions(result.shape, result.affine)
        index = (np.linalg.inv(AFFINE) @ np.vstack([points, np.ones(points.shape[1])]))[:3]
        inner = ((index > 0) & (index < np.array(SMOOTH.shape)[:, None] - 1)).all(axis=0)
        expected = at(volume, points, order)
        np.testing.assert_allclose(
            result.data.ravel()[inner], expected[inner], atol=0.02, rtol=1e-4
        )


def test_coarse_axis_is_nearest():
    affine = np.diag([1, 1, 5, 1.0])
    result = resample_spacing(Volume(SMOOTH, affine), (2, 2, 2.5), order=3)
    assert result.shape == (10, 9, 32)
    # Every slice is one of the old ones, resampled in plane: pairs are equal.
    np.testing.assert_array_equal(result.data[..., ::2], result.data[..., 1::2])
    finer_in_plane = resample_spacing(Volume(SMOOTH, np.diag([1, 1, 3, 1.0])), (2, 2, 1.5), order=3)
    assert not np.array_equal(finer_in_plane.data[..., ::2], finer_in_plane.data[..., 1::2])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((1, 1, 5), (2, 2, 2.5), 2),
        ((0.7, 0.7, 0.7), (0.7, 3, 0.7), 1),
        ((1, 1, 3), (1, 1, 1), None),
        # As nnU-Net has it for thick pixels in thin slices: no axis is apart, whatever comes next.
        ((1.25, 1.25, 0.3), (0.8, 0.8, 0.3), None),
        ((1.25, 1.25, 0.3), (1, 1, 5), None),
        ((1, 1, 1), (3.5, 1, 3.5), None),
    ],
)
def test_one_axis_alone_is_the_coarse_one(old, new, expected):
    assert nearest_neighbour_axis(old, new) == expected


def test_a_tie_of_coarse_axes_is_interpolated_alike_along_both():
    affine = np.diag([1.25, 1.25, 0.3, 1])
    turned = rotated(20) @ np.diag([1.25 / 0.7, 1.25 / 0.8, 0.3 / 2, 1])
    for grid in (affine, turned):
        one = resample_spacing(Volume(SMOOTH, grid), (0.8, 0.8, 0.3)).data
        other = resample_spacing(Volume(SMOOTH.swapaxes(0, 1), grid), (0.8, 0.8, 0.3)).data
        np.testing.assert_allclose(one, other.swapaxes(0, 1), rtol=1e-4, atol=0.01)


def test_labels_win_by_share_and_keep_dtype():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:4], labels[4:] = 2, 5
    result = resample_spacing(Volume(labels, np.eye(4)), (2, 1, 1), is_label=True)
    assert result.data.dtype == np.uint8
    assert result.data[:, 0, 0].tolist() == [2, 2, 5, 5]
    fine = resample_spacing(Volume(labels, np.eye(4)), (0.3, 0.4, 0.5), is_label=True)
    assert set(np.unique(fine.data)) == {2, 5}  # nothing between, no background at the border
    assert (fine.data == 2).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("order", [0, 1])
def test_labels_there_and_back(order):
    labels = (SMOOTH > 20).astype(np.uint8)
    there = resample_spacing(Volume(labels, AFFINE), (0.35, 0.4, 1), order=order, is_label=True)
    back = resample_to_grid(there, labels.shape, AFFINE, order=0)
    overlap = 2 * (back.data & labels).sum() / (back.data.sum() + labels.sum())
    assert overlap > 0.95
    assert grids_agree(back.shape, back.affine, labels.shape, AFFINE) is None


def test_the_same_spacing_changes_nothing():
    result = resample_spacing(Volume(SMOOTH, AFFINE), (0.7, 0.8, 2))
    np.testing.assert_array_equal(result.data, SMOOTH)


def test_memory_of_an_oblique_resampling_is_bounded():
    volume = Volume(np.zeros((128, 128, 128), np.uint8), AFFINE)
    tracemalloc.start()
    result = resample_to_grid(volume, (128, 128, 128), rotated(10), order=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Coordinates held for all voxels at once would take 24 bytes each.
    assert peak < result.data.nbytes + 10 * 2**20
