import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covidseg.core.errors import GeometryError
from covidseg.imaging.geometry import (
    checked_affine,
    corners_mm,
    grids_agree,
    reoriented_affine,
    require_same_grid,
)
from covidseg.imaging.volume import Volume

AFFINE = np.array([[-0.7, 0, 0, 171.5], [0, -0.7, 0, 189.1], [0, 0, 5, -883], [0, 0, 0, 1]])


def test_volume_says_spacing_unrounded_and_orientation():
    volume = Volume(np.zeros((4, 5, 6), np.int16), np.diag([-0.9765625, -0.1, 3, 1]))
    assert volume.spacing_mm == (0.9765625, 0.1, 3.0)
    assert volume.orientation == "LPS"
    assert volume.shape == (4, 5, 6)
    assert volume.voxel_volume_mm3 == pytest.approx(0.9765625 * 0.1 * 3)


def test_volume_keeps_its_own_read_only_affine():
    mine = AFFINE.copy()
    volume = Volume(np.zeros((2, 2, 2)), mine)
    mine[0, 3] = 0
    assert volume.affine[0, 3] == 171.5
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 3] = 1


@pytest.mark.parametrize("shape", [(3, 3), (3, 3, 3, 1), (0, 3, 3)])
def test_volume_refuses_other_than_three_dimensions(shape):
    with pytest.raises(GeometryError, match=str(shape[0])):
        Volume(np.zeros(shape), AFFINE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:3], r"shape \(3, 4\)"),
        (lambda a: a * np.nan, "not finite"),
        (lambda a: np.where(a == 5, 0, a), "spacing of 0.7, 0.7, 0 mm"),
        (lambda a: np.vstack([a[:3], [0, 0, 0, 2]]), "last row"),
        (lambda a: a[:, [0, 0, 2, 3]], "singular"),
        (lambda a: a * [[1e300], [1e300], [1e300], [1]], "spacing"),
    ],
)
def test_impossible_affines_are_refused(change, message):
    with pytest.raises(GeometryError, match=message):
        checked_affine(change(AFFINE.copy()))


def test_a_thin_oblique_grid_is_not_singular():
    checked_affine(np.diag([1e-3, 1e-3, 500, 1.0]))


def test_noise_agrees_and_a_shift_does_not():
    shape = (512, 512, 100)
    noise = np.random.default_rng(0).uniform(-1e-6, 1e-6, (4, 4))
    noise[3] = 0
    assert grids_agree(shape, AFFINE, shape, AFFINE + noise) is None
    shifted = AFFINE.copy()
    shifted[2, 3] += 5
    assert "origins" in grids_agree(shape, AFFINE, shape, shifted)
    assert "5 mm apart" in grids_agree(shape, AFFINE, shape, shifted)


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (np.diag([-1, 1, 1, 1.0]) @ AFFINE, "orientations LPS and RPS"),
        (AFFINE @ np.diag([1, 1, 1.001, 1]), "spacings"),
        (
            AFFINE
            @ np.array([[1, -0.01, 0, 0], [0.01, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
            / np.sqrt(1.0001),
            "directions",
        ),
    ],
)
def test_says_what_differs(other, word):
    other = other.copy()
    other[3] = (0, 0, 0, 1)
    other[:3, 3] = AFFINE[:3, 3]
    if word == "directions":
        other[:3, 2] = AFFINE[:3, 2]
    assert word in grids_agree((100, 100, 100), AFFINE, (100, 100, 100), other)


def test_other_shapes_differ():
    assert grids_agree((2, 3, 4), AFFINE, (2, 3, 5), AFFINE) == (
        "shapes (2, 3, 4) and (2, 3, 5) differ"
    )


def test_require_same_grid_names_both_files():
    require_same_grid((2, 3, 4), AFFINE, "a", (2, 3, 4), AFFINE, "b")
    with pytest.raises(GeometryError) as caught:
        require_same_grid((2, 3, 4), AFFINE, "scan.nii", (2, 3, 5), AFFINE, "mask.nii")
    assert "scan.nii" in str(caught.value)
    assert "mask.nii" in str(caught.value)


ORIENTATIONS = st.permutations(["LR", "PA", "IS"]).flatmap(
    lambda pairs: st.tuples(*(st.sampled_from(pair) for pair in pairs)).map("".join)
)


@given(ORIENTATIONS, st.tuples(*[st.integers(1, 9)] * 3))
def test_reorienting_moves_no_corner(orientation, shape):
    new_shape, moved = reoriented_affine(shape, AFFINE, orientation)
    assert Volume(np.zeros(new_shape), moved).orientation == orientation
    before = np.sort(corners_mm(shape, AFFINE).round(6), axis=0)
    np.testing.assert_allclose(np.sort(corners_mm(new_shape, moved).round(6), axis=0), before)


@pytest.mark.parametrize("letters", ["RAX", "RA", "RLS", "", "RASP"])
def test_unknown_orientation(letters):
    with pytest.raises(GeometryError, match="three letters"):
        reoriented_affine((2, 2, 2), AFFINE, letters)
