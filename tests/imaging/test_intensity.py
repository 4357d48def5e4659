import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from covidseg.core.errors import ConfigError, IntensityError
from covidseg.imaging.casting import exact_cast
from covidseg.imaging.intensity import (
    find_nonfinite,
    guess_scale,
    hu_to_window,
    lung_and_tissue,
    otsu_threshold,
    window_to_hu,
)

WINDOW = (-1250.0, 250.0)


def test_window_by_hand():
    hu = np.array([-3000, -1250, -500, 250, 3000], np.int16)
    windowed = hu_to_window(hu, WINDOW)
    assert windowed.dtype == np.float32
    np.testing.assert_allclose(windowed, [0, 0, 127.5, 255, 255])
    np.testing.assert_allclose(window_to_hu(windowed, WINDOW), [-1250, -1250, -500, 250, 250])


@given(hnp.arrays(np.int16, 20, elements=st.integers(-1250, 250)))
def test_window_there_and_back(hu):
    np.testing.assert_allclose(window_to_hu(hu_to_window(hu, WINDOW), WINDOW), hu, atol=1e-3)


def test_window_to_hu_of_unsigned_bytes():
    np.testing.assert_allclose(
        window_to_hu(np.array([0, 255], np.uint8), WINDOW), [-1250, 250], atol=1e-3
    )


def test_empty_window():
    with pytest.raises(ConfigError, match="empty"):
        hu_to_window(np.zeros(3), (250, -1250))


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([-1024, 40, 3000], "hu"),
        ([-2048, 0, 8000], "hu"),
        ([0, 100, 255], "windowed"),
        ([0.0, 0.4, 1.0], "unit"),
        ([0, 1, 3], "labels"),
        ([0, 1.5, 3], "windowed"),
        ([0, 1, 21], "windowed"),
        ([0, 1064, 4095], "offset"),
        ([7, 7, 7], "constant"),
        ([-1e6, 1e6, 0], "unknown"),
        ([np.nan, np.inf, -np.inf], "unknown"),
        ([np.nan, -1000, 500], "hu"),
    ],
)
def test_guess_scale(values, scale):
    guess = guess_scale(np.array(values, np.float32).reshape(3, 1, 1))
    assert guess.scale == scale
    assert guess.reason


@pytest.mark.real
def test_guess_scale_of_a_real_scan(real_data):
    from covidseg.imaging.nifti import read_nifti

    assert (
        guess_scale(read_nifti(real_data / "chest-imaging-platform/ct64.nii.gz").data).scale == "hu"
    )


def test_find_nonfinite():
    data = np.zeros((3, 4, 5), np.float32)
    assert find_nonfinite(data) is None
    assert find_nonfinite(data.astype(int)) is None
    data[1, 2, 3] = np.nan
    data[2, 2, 4] = -np.inf
    assert find_nonfinite(data) == "1 NaN and 1 infinite of 60 values, the first at voxel (1, 2, 3)"


def test_find_nonfinite_beyond_the_first_slab():
    data = np.zeros((512, 512, 9), np.float32)
    data[5, 6, 7] = np.inf
    assert find_nonfinite(data) == ("1 infinite of 2359296 values, the first at voxel (5, 6, 7)")


NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-300, 300))


@given(
    hnp.arrays(np.int64, 3, elements=NUMBERS),
    st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8"]),
)
def test_casts_to_integers_are_exact_or_refused(data, dtype):
    info = np.iinfo(dtype)
    fits = all(info.min <= int(v) <= info.max for v in data)
    try:
        moved = exact_cast(data, dtype)
    except IntensityError:
        assert not fits
    else:
        assert fits
        assert [int(v) for v in moved] == [int(v) for v in data]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (0.5, "i2"),
        (np.nan, "u1"),
        (np.inf, "i4"),
        (-1.0, "u1"),
        (1e300, "f4"),
        (2, "?"),
        (2.0**63, "i8"),
    ],
)
def test_casts_that_lose_are_refused(value, dtype):
    with pytest.raises(IntensityError, match="does not fit"):
        exact_cast(np.array([0, value]), dtype)


def test_casts_that_round_are_allowed_between_floats():
    assert exact_cast(np.array([0.1]), np.float32)[0] == np.float32(0.1)
    assert np.isnan(exact_cast(np.array([np.nan]), np.float32)[0])


def test_lung_and_tissue_by_hand():
    # Ten dark pixels, the tenth percentile between the two least: 10 + 0.9 * 10; five bright ones.
    picture = np.array([10, 20, 20, 20, 20, 20, 20, 30, 30, 40, 190, 200, 210, 210, 255], np.uint8)
    assert lung_and_tissue(picture) == (pytest.approx(19), 210)


@given(hnp.arrays(np.int64, 256, elements=st.integers(0, 50)))
def test_threshold_is_as_good_as_scikit_images(counts):
    filters = pytest.importorskip("skimage.filters")
    counts[[3, 200]] += 1

    def between(threshold):
        greys = np.repeat(np.arange(256), counts)
        dark, bright = greys[greys <= threshold], greys[greys > threshold]
        return dark.size * bright.size * (dark.mean() - bright.mean()) ** 2

    # Several can be equally good.
    reference = between(filters.threshold_otsu(hist=counts))
    assert between(otsu_threshold(counts)) == pytest.approx(reference)


def test_a_picture_of_one_grey_has_neither_lung_nor_tissue():
    assert lung_and_tissue(np.full((3, 4), 7, np.uint8)) is None


@given(st.floats(0.4, 1), st.integers(0, 100))
def test_lung_and_tissue_follow_the_window(scale, offset):
    picture = np.random.default_rng(0).choice([30, 40, 60, 90, 200, 210, 220], 500)
    lung, tissue = lung_and_tissue(picture)
    moved_lung, moved_tissue = lung_and_tissue(picture * scale + offset * (1 - scale))
    assert moved_lung == pytest.approx(lung * scale + offset * (1 - scale), abs=0.6)
    assert moved_tissue == pytest.approx(tissue * scale + offset * (1 - scale), abs=0.6)
