import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covidseg.core.errors import (
    CovidsegError,
    GeometryError,
    IntensityError,
    LayoutError,
    StorageError,
    UnreadableFileError,
)
from covidseg.imaging.dicom import find_series, read_series, write_series
from covidseg.imaging.geometry import grids_agree
from covidseg.imaging.resample import reorient
from covidseg.imaging.volume import Volume

AFFINE = np.array(
    [[-0.9765625, 0, 0, 249.51171875], [0, -0.75, 0, 460.5], [0, 0, 3, -681.5], [0, 0, 0, 1]]
)
UIDS = {
    "patient_id": "LUNG1-999",
    "study_uid": "1.2.826.0.1.1",
    "series_uid": "1.2.826.0.1.2",
    "frame_of_reference_uid": "1.2.826.0.1.3",
}


def scan(shape=(6, 5, 7), affine=AFFINE, dtype=np.int16):
    return Volume(np.random.default_rng(0).integers(-1024, 3000, shape).astype(dtype), affine)


@pytest.fixture
def series(tmp_path):
    """A series of seven slices, 3 mm apart, and a way to change the file of one of them."""
    folder = tmp_path / "series"
    files = write_series(folder, scan(), **UIDS)

    def edit(index, change):
        image = pydicom.dcmread(files[index])
        change(image)
        image.save_as(files[index])
        return files[index]

    return folder, files, edit


def test_write_then_read_is_exact(tmp_path):
    volume = scan()
    files = write_series(tmp_path / "s", volume, description="CHEST", **UIDS)
    assert [f.name for f in files] == [f"1-{n:03d}.dcm" for n in range(1, 8)]
    again = read_series(tmp_path / "s")
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.data.dtype == np.int16
    assert grids_agree(again.shape, again.affine, volume.shape, volume.affine, 1e-9) is None
    (found,) = find_series(tmp_path)
    assert (found.uid, found.modality, found.description) == (UIDS["series_uid"], "CT", "CHEST")
    assert (found.patient_id, found.study_uid) == ("LUNG1-999", UIDS["study_uid"])
    assert found.frame_of_reference_uid == UIDS["frame_of_reference_uid"]
    assert found.files == tuple(files)
    assert found.folder == tmp_path / "s"
    # Scanners number from the head down: order must not come from names or instance numbers.
    assert pydicom.dcmread(files[0]).ImagePositionPatient[2] == -681.5 + 6 * 3


@settings(max_examples=25)
@given(
    st.sampled_from(["LPS", "RAS", "LAS", "LPI", "SPL", "PIR", "ASL"]),
    st.floats(-40, 40),
    st.tuples(*[st.integers(2, 5)] * 3),
)
def test_any_upright_grid_keeps_its_voxels_in_place(tmp_path_factory, orientation, degrees, shape):
    a = np.radians(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    volume = reorient(scan(shape, turn @ AFFINE), orientation)
    folder = tmp_path_factory.mktemp("any") / "s"
    write_series(folder, volume, **UIDS)
    again = read_series(folder)
    one, other = reorient(again, "RAS"), reorient(volume, "RAS")
    assert grids_agree(one.shape, one.affine, other.shape, other.affine, 1e-4) is None
    np.testing.assert_array_equal(one.data, other.data)


def test_simpleitk_sees_the_same(series):
    import SimpleITK as sitk

    folder, _, _ = series
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    volume = read_series(folder)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), volume.data)
    np.testing.assert_allclose(image.GetSpacing(), volume.spacing_mm)
    np.testing.assert_allclose(np.array(image.GetOrigin()) * (-1, -1, 1), volume.affine[:3, 3])


def test_writing_is_the_same_every_time(tmp_path):
    for name in "ab":
        write_series(tmp_path / name, scan(), **UIDS)
    for n in range(1, 8):
        name = f"1-{n:03d}.dcm"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_writing_what_a_series_cannot_say(tmp_path):
    with pytest.raises(IntensityError, match="does not fit"):
        write_series(tmp_path / "s", Volume(np.full((2, 2, 2), 0.5), AFFINE), **UIDS)
    sheared = AFFINE.copy()
    sheared[0, 2] = 1
    with pytest.raises(GeometryError, match="sheared"):
        write_series(tmp_path / "s", scan(affine=sheared), **UIDS)
    assert list(tmp_path.iterdir()) == []
    write_series(tmp_path / "s", scan(), **UIDS)
    with pytest.raises(StorageError, match="exists"):
        write_series(tmp_path / "s", scan(), **UIDS)
    write_series(tmp_path / "s", scan((2, 2, 2)), replace=True, **UIDS)
    assert read_series(tmp_path / "s").shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [
        ("1", "-1024", np.int16),
        ("2", "-5", np.int16),
        ("0.5", "0", np.float32),
        ("30", "0", np.float32),
    ],
)
def test_rescale_slice_by_slice(series, slope, intercept, dtype):
    folder, _, edit = series

    def change(image):
        image.RescaleSlope, image.RescaleIntercept = slope, intercept

    edit(2, change)
    volume = read_series(folder)
    expected = scan().data.astype(np.float64)
    # File 3 of 7, from the top, is slice 4 from the bottom.
    expected[:, :, 4] = expected[:, :, 4] * float(slope) + float(intercept)
    np.testing.assert_array_equal(volume.data, expected)
    assert volume.data.dtype == dtype


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("stored", [12, 16])
def test_bits_beyond_those_stored_are_dropped(series, signed, stored):
    folder, _, edit = series
    values = np.array([0, 1, 2047, 2048, 4095] * 6, np.uint16)

    def change(image):
        image.PixelRepresentation = int(signed)
        image.BitsStored, image.HighBit = stored, stored - 1
        junk = 0xF000 if stored == 12 and not signed else 0
        image.PixelData = (values | junk).astype("<u2").tobytes()

    edit(0, change)
    expected = values.astype(int)
    if signed and stored == 12:
        expected = np.where(expected >= 2048, expected - 4096, expected)
    np.testing.assert_array_equal(read_series(folder).data[:, :, 6].T.ravel(), expected)


def test_big_endian(series):
    folder, files, _ = series
    for path in files:
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        image.PixelData = np.frombuffer(image.PixelData, "<i2").astype(">i2").tobytes()
        pydicom.dcmwrite(path, image, little_endian=False, implicit_vr=False)
    np.testing.assert_array_equal(read_series(folder).data, scan().data)


def test_run_length_compression_is_decoded(series):
    folder, _, edit = series
    for index in range(7):
        edit(index, lambda image: image.compress(pydicom.uid.RLELossless))
    np.testing.assert_array_equal(read_series(folder).data, scan().data)


def test_compression_that_cannot_be_decoded(series):
    folder, _, edit = series

    def change(image):
        image.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
        image.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        image["PixelData"].VR = "OB"

    path = edit(3, change)
    with pytest.raises(UnreadableFileError, match=f"{path.name}.*JPEG-LS.*ecompress"):
        read_series(folder)


def test_other_files_are_passed_over(series):
    folder, _, _ = series
    (folder / "LICENSE").write_text("CC BY")
    (folder / "empty").write_bytes(b"")
    (folder / "._1-001.dcm").write_bytes(b"\0" * 200)
    (folder / "page.html").write_bytes(b"<html>" * 100)
    assert len(find_series(folder)[0].files) == 7
    assert read_series(folder).shape == (6, 5, 7)


@pytest.mark.parametrize("kept", [0, 100, 200])
def test_a_last_slice_that_is_empty_or_cut_is_not_passed_over(series, kept):
    folder, files, _ = series
    files[-1].write_bytes(files[-1].read_bytes()[:kept])
    with pytest.raises(CovidsegError, match=files[-1].name):
        read_series(folder)
    (folder / "elsewhere").mkdir()
    files[-1].rename(folder / "elsewhere" / "1.dcm")
    assert read_series(folder).shape == (6, 5, 6)


def test_links_to_folders_are_followed_but_not_in_circles_and_not_upwards(series, tmp_path):
    folder, files, _ = series
    write_series(tmp_path / "other", scan(), **{**UIDS, "series_uid": "1.2.826.0.1.9"})
    linked = tmp_path / "top" / "linked"
    linked.mkdir(parents=True)
    (linked / "scan").symlink_to(folder)
    (linked / "again").symlink_to(folder)
    (linked / "circle").symlink_to(linked)
    (linked / "up").symlink_to(tmp_path)  # where the other scan lies too
    np.testing.assert_array_equal(read_series(linked).data, read_series(folder).data)
    (found,) = find_series(linked)
    assert len(found.files) == len(files)
    # What is there under its own name is named by it.
    (folder / "a link").symlink_to(folder / "own")
    (folder / "own").mkdir()
    files[-1].rename(folder / "own" / files[-1].name)
    assert folder / "own" / files[-1].name in find_series(folder)[0].files
    assert len(find_series(folder)[0].files) == len(files)


def test_two_series_in_one_folder(series, tmp_path):
    folder, _, _ = series
    other = {**UIDS, "series_uid": "1.2.826.0.1.9"}
    write_series(folder / "more", scan((4, 4, 4)), **other)
    with pytest.raises(LayoutError) as caught:
        read_series(folder)
    for word in (str(folder), "2 CT series", UIDS["series_uid"], "1.2.826.0.1.9", "7 files"):
        assert word in str(caught.value)
    assert read_series(folder, series_uid="1.2.826.0.1.9").shape == (4, 4, 4)
    with pytest.raises(LayoutError, match=r"no CT series 7\.7"):
        read_series(folder, series_uid="7.7")
    for one in find_series(folder):
        assert read_series(one).shape in ((4, 4, 4), (6, 5, 7))
    with pytest.raises(LayoutError, match="expected series"):
        read_series(find_series(folder)[0], series_uid="7.7")


@pytest.mark.parametrize(
    ("image_type", "is_one"),
    [
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], True),
        (["DERIVED", "SECONDARY", "LOCALIZER ", "CT_SOM5 TOP"], True),
        ("LOCALIZER", True),
        (["ORIGINAL", "PRIMARY", "AXIAL"], False),
        (["ORIGINAL", "PRIMARY", "NO LOCALIZER"], False),
        ("", False),
        (None, False),
    ],
)
def test_a_series_all_of_whose_images_are_localisers_is_one(series, image_type, is_one):
    folder, _, edit = series

    def change(image):
        del image.ImageType
        if image_type is not None:
            image.ImageType = image_type

    edit(0, change)
    # One among axial slices makes no localiser of them: reading says what does not fit.
    assert not find_series(folder)[0].localiser
    for index in range(1, 7):
        edit(index, change)
    assert find_series(folder)[0].localiser == is_one


def test_no_series(tmp_path):
    with pytest.raises(LayoutError, match="no DICOM file at all"):
        read_series(tmp_path)
    with pytest.raises(UnreadableFileError, match="does not exist"):
        read_series(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreadableFileError, match="is a file"):
        find_series(tmp_path / "file")


def test_series_of_other_modalities_are_named(series):
    folder, _, edit = series
    for index in range(7):
        edit(index, lambda image: setattr(image, "Modality", "PT"))
    with pytest.raises(LayoutError, match=r"no CT series \(but 1 PT"):
        read_series(folder)


def test_missing_slice_says_where(series):
    folder, files, _ = series
    files[2].unlink()  # the third from the top, at -681.5 + 4 * 3
    with pytest.raises(GeometryError) as caught:
        read_series(folder)
    message = str(caught.value)
    assert files[3].name in message  # the one below the gap
    assert files[1].name in message  # the one above
    assert "1 slice(s) missing" in message
    assert "6 mm on, from -672.5 to -666.5 mm" in message


def test_two_slices_at_one_place(series):
    folder, files, edit = series
    place = pydicom.dcmread(files[1]).ImagePositionPatient
    edit(4, lambda image: setattr(image, "ImagePositionPatient", place))
    with pytest.raises(GeometryError, match="same place") as caught:
        read_series(folder)
    assert files[1].name in str(caught.value)
    assert files[4].name in str(caught.value)


def test_uneven_spacing(series):
    folder, files, edit = series
    edit(3, lambda image: image.ImagePositionPatient.__setitem__(2, -671.5))
    with pytest.raises(GeometryError, match="1 mm off an even spacing") as caught:
        read_series(folder)
    assert files[3].name in str(caught.value)


def test_positions_rounded_in_the_file_are_even_enough(series):
    folder, _, edit = series
    edit(3, lambda image: image.ImagePositionPatient.__setitem__(2, -672.49))
    assert read_series(folder).spacing_mm[2] == pytest.approx(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda i: setattr(i, "Rows", 6) or setattr(i, "PixelData", i.PixelData + bytes(12)),
            "rows",
        ),
        (lambda i: setattr(i, "PixelSpacing", [0.8, 0.8]), "pixel spacing .0.8, 0.8. mm"),
        (lambda i: setattr(i, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]), "orientation"),
    ],
)
def test_slices_that_differ(series, change, message):
    folder, _, edit = series
    path = edit(4, change)
    with pytest.raises(GeometryError, match=f"{path.name}.*{message}"):
        read_series(folder)


def test_tilted_gantry_is_refused_with_its_angle(series):
    folder, _, edit = series
    for index in range(7):

        def lean(image):
            image.ImagePositionPatient[1] += 3 * (7 - image.InstanceNumber) * np.tan(np.radians(15))
            image.ImagePositionPatient = [round(float(v), 6) for v in image.ImagePositionPatient]

        edit(index, lean)
    with pytest.raises(GeometryError, match=r"15\.00 degrees.*tilted gantry"):
        read_series(folder)


def test_one_slice_beside_the_stack(series):
    folder, _, edit = series
    path = edit(3, lambda image: image.ImagePositionPatient.__setitem__(0, 0))
    with pytest.raises(GeometryError, match=f"{path.name}.*aside"):
        read_series(folder)


def test_single_slice_takes_its_thickness(tmp_path):
    write_series(tmp_path / "s", scan((4, 4, 1)), **UIDS)
    assert read_series(tmp_path / "s").spacing_mm == pytest.approx((0.9765625, 0.75, 3))
    path = tmp_path / "s" / "1-001.dcm"
    image = pydicom.dcmread(path)
    del image.SliceThickness
    image.save_as(path)
    with pytest.raises(GeometryError, match="how thick"):
        read_series(tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: delattr(i, "RescaleIntercept"), "Hounsfield"),
        (lambda i: delattr(i, "ImagePositionPatient"), "no ImagePositionPatient"),
        (lambda i: delattr(i, "PixelData"), "no pixels"),
        (lambda i: setattr(i, "PixelData", i.PixelData[:-2]), "58 bytes.*60 for 5 rows"),
        (lambda i: setattr(i, "NumberOfFrames", 3), "3 frames"),
        (lambda i: setattr(i, "SamplesPerPixel", 3), "grey"),
        (lambda i: setattr(i, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "impossible"),
        (lambda i: setattr(i, "PixelSpacing", [0, 1]), "impossible"),
    ],
)
def test_files_that_are_no_ct_slice(series, change, message):
    folder, _, edit = series
    path = edit(4, change)
    with pytest.raises(CovidsegError, match=f"{path.name}.*{message}"):
        read_series(folder)


def test_truncated_file(series):
    folder, files, _ = series
    files[4].write_bytes(files[4].read_bytes()[:-30])
    with pytest.raises(UnreadableFileError, match=files[4].name):
        read_series(folder)


def test_mutated_files_end_in_our_own_errors(tmp_path):
    """Bytes flipped anywhere, files cut anywhere: an error of ours, or a volume of bounded size."""
    files = write_series(tmp_path / "s", scan((4, 4, 3)), **UIDS)
    whole = files[1].read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(400):
        broken = bytearray(whole)
        for place in rng.integers(128, len(whole), rng.integers(1, 6)):
            broken[place] = rng.integers(256)
        if rng.random() < 0.2:
            broken = broken[: rng.integers(len(broken))]
        files[1].write_bytes(broken)
        try:
            assert read_series(tmp_path / "s").data.size <= 48
        except CovidsegError as fault:
            messages.append(str(fault))
    assert len(messages) > 50
    assert all(str(tmp_path) in message for message in messages)


@pytest.mark.real
def test_the_real_nsclc_case(real_data):
    root = real_data / "NSCLC-Radiomics" / "LUNG1-001"
    found = {one.modality: one for one in find_series(root)}
    assert set(found) == {"CT", "RTSTRUCT"}
    assert len(found["CT"].files) == 134
    assert found["CT"].patient_id == "LUNG1-001"
    volume = read_series(root)
    assert volume.shape == (512, 512, 134)
    assert volume.spacing_mm == (0.9765625, 0.9765625, 3.0)
    assert volume.orientation == "LPS"
    assert volume.data.dtype == np.int16
    assert volume.data.min() == -1024
    assert 1000 < volume.data.max() < 4000
    np.testing.assert_array_equal(volume.affine[:3, 3], (249.51171875, 460.51171875, -681.5))
    # pydicom's own decoding, of a slice in the middle.
    image = pydicom.dcmread(found["CT"].files[60])
    z = round((float(image.ImagePositionPatient[2]) + 681.5) / 3)
    expected = image.pixel_array.astype(int) * int(image.RescaleSlope) + int(image.RescaleIntercept)
    np.testing.assert_array_equal(volume.data[:, :, z].T, expected)
