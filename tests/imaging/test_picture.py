import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from covidseg.core.errors import UnreadableFileError
from covidseg.imaging.picture import read_picture

GREY = np.random.default_rng(0).integers(0, 256, (12, 9)).astype(np.uint8)


def test_indexed_as_the_file_stores_it(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.png")
    picture = read_picture(tmp_path / "x.png")
    np.testing.assert_array_equal(picture, GREY)
    assert picture.dtype == np.uint8
    assert picture.flags.writeable


def test_palette_indices_are_the_labels(tmp_path):
    labels = np.array([[0, 1], [2, 1]], np.uint8)
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png"), labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1"])
def test_other_modes_that_are_grey(tmp_path, mode):
    grey = np.where(GREY > 127, 255, 0).astype(np.uint8) if mode == "1" else GREY
    Image.fromarray(grey).convert(mode).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png"), grey)


def test_colours_and_sixteen_bits_are_refused(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (12, 9, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "x.png")
    with pytest.raises(UnreadableFileError, match="mode RGB"):
        read_picture(tmp_path / "x.png")
    Image.fromarray(GREY.astype(np.uint16) * 256).save(tmp_path / "y.png")
    with pytest.raises(UnreadableFileError, match="mode I;16"):
        read_picture(tmp_path / "y.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_pictures(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(np.tile(GREY, (20, 20))).save(buffer, kind)
    whole = buffer.getvalue()
    path = tmp_path / "x.img"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFileError, match=r"x\.img.*cut short"):
        read_picture(path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 400), 4):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        with contextlib.suppress(UnreadableFileError):
            read_picture(path)


def test_no_picture(tmp_path):
    (tmp_path / "x.jpg").write_text("<html>")
    with pytest.raises(UnreadableFileError, match="not a picture"):
        read_picture(tmp_path / "x.jpg")
    with pytest.raises(UnreadableFileError, match="no such file"):
        read_picture(tmp_path / "y.jpg")
    with pytest.raises(UnreadableFileError, match="is a folder"):
        read_picture(tmp_path)


@pytest.mark.real
def test_real_slices_and_masks(real_data):
    train = real_data / "COVID-SemiSeg/Dataset/TrainingSet"
    for name in ("0", "13", "42"):
        image = read_picture(train / f"LungInfection-Train/Doctor-label/Imgs/{name}.jpg")
        mask = read_picture(train / f"LungInfection-Train/Doctor-label/GT/{name}.png")
        classes = read_picture(train / f"MultiClassInfection-Train/GT/{name}.png")
        assert image.shape == mask.shape == classes.shape
        assert set(np.unique(mask)) <= {0, 255}
        assert set(np.unique(classes)) <= {0, 1, 2}
