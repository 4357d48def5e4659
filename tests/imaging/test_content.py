import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from covidseg.imaging.content import content_hash, oriented_content_hash, values_hash
from covidseg.imaging.nifti import read_nifti, write_nifti
from covidseg.imaging.resample import reorient
from covidseg.imaging.volume import Volume

AFFINE = np.diag([-0.7, -0.7, 5, 1])
DATA = np.random.default_rng(0).integers(0, 200, (9, 8, 7)).astype(np.int16)


def test_the_same_whatever_it_is_held_in(tmp_path):
    expected = content_hash(DATA)
    for dtype in (np.uint8, np.int32, np.float32, np.float64, ">i2"):
        assert content_hash(DATA.astype(dtype)) == expected
    assert content_hash(np.asfortranarray(DATA)) == expected
    for name in ("a.nii", "b.nii.gz"):
        write_nifti(tmp_path / name, Volume(DATA, AFFINE), dtype=np.float64)
        assert content_hash(read_nifti(tmp_path / name)) == expected


def test_fractions_are_hashed_as_single_floats():
    data = DATA + 0.25
    assert content_hash(data) == content_hash(data.astype(np.float32)) != content_hash(DATA)
    assert content_hash(np.array([[[0.5, 0.0]]])) == content_hash(np.array([[[0.5, -0.0]]]))
    other_nan = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert content_hash(np.full((1, 1, 1), np.nan)) == content_hash(other_nan.reshape(1, 1, 1))
    assert content_hash(np.full((1, 1, 1), 40_000)) != content_hash(np.full((1, 1, 1), 40_001))


def test_one_voxel_or_the_shape_changes_it():
    changed = DATA.copy()
    changed[3, 3, 3] += 1
    assert content_hash(changed) != content_hash(DATA)
    assert content_hash(DATA.reshape(8, 9, 7, order="F")) != content_hash(DATA)


def test_the_input_stays_as_it_was():
    data = np.array([[[np.nan, -0.0, 0.5]]], np.float32)
    before = data.tobytes()
    content_hash(data)
    assert data.tobytes() == before


@given(
    hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)),
    st.sampled_from(["RAS", "LPS", "SAR", "PIR", "ILA"]),
)
def test_oriented_hash_sees_through_flips(data, orientation):
    volume = Volume(data, AFFINE)
    assert oriented_content_hash(reorient(volume, orientation)) == oriented_content_hash(volume)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)),
    st.permutations([0, 1, 2]),
    st.lists(st.sampled_from([0, 1, 2]), unique=True),
)
def test_the_hash_of_values_does_not_know_directions(data, axes, mirrored):
    turned = np.flip(data.transpose(axes), mirrored)
    assert values_hash(turned) == values_hash(data)
    whole = np.rint(np.nan_to_num(data, posinf=0, neginf=0)).clip(-1000, 1000)
    assert values_hash(np.flip(whole.transpose(axes), mirrored)) == values_hash(
        whole.astype(np.int16)
    )


def test_the_hash_of_values_knows_one_voxel_and_the_shape():
    changed = DATA.copy()
    changed[3, 3, 3] += 1
    assert values_hash(changed) != values_hash(DATA)
    assert values_hash(changed + 0.5) != values_hash(DATA + 0.5)
    assert values_hash(DATA.reshape(9, 4, 14)) != values_hash(DATA)
    assert values_hash(DATA.reshape(8, 7, 9)) == values_hash(DATA)
