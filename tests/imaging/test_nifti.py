import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from covidseg.core.errors import GeometryError, IntensityError, StorageError, UnreadableFileError
from covidseg.imaging.nifti import read_header, read_nifti, write_nifti
from covidseg.imaging.volume import Volume

AFFINE = np.array([[-0.7, 0, 0, 171.5], [0, -0.7, 0, 189.1], [0, 0, 5, -883], [0, 0, 0, 1]])
SHAPE = (7, 5, 3)


def values(dtype, shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(0, 500, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -(2**40)), min(info.max, 2**40), shape).astype(dtype)


def save(path, data, affine=AFFINE, kind=nib.Nifti1Image, edit=None, slope=None, inter=None):
    """Write by nibabel, with slope and intercept put into the header untouched."""
    header = kind.header_class()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header["magic"] = b"n+1" if kind is nib.Nifti1Image else b"n+2"
    header["vox_offset"] = 352 if kind is nib.Nifti1Image else 544
    if data.dtype.byteorder == ">":
        header = header.as_byteswapped(">")
    header["scl_slope"] = 1 if slope is None else slope
    header["scl_inter"] = 0 if inter is None else inter
    if edit:
        edit(header)
    raw = header.binaryblock.ljust(int(header["vox_offset"]), b"\0") + data.tobytes(order="F")
    path.write_bytes(gzip.compress(raw, 6) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_unscaled_voxels_equal_nibabels(tmp_path, dtype, order, ending, kind):
    data = values(dtype).astype(np.dtype(order + dtype))
    path = save(tmp_path / f"x.{ending}", data, kind=kind)
    volume = read_nifti(path)
    theirs = nib.load(path)
    np.testing.assert_array_equal(volume.data, np.asanyarray(theirs.dataobj))
    np.testing.assert_array_equal(volume.affine, theirs.affine)
    assert volume.data.dtype == np.dtype(dtype)
    assert volume.data.dtype.isnative
    assert volume.data.flags.writeable
    header = read_header(path)
    assert (header.shape, header.dtype, header.orientation) == (SHAPE, np.dtype(dtype), "LPS")
    assert header.spacing_mm == volume.spacing_mm == pytest.approx((0.7, 0.7, 5))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize(
    ("slope", "inter"), [(1, -1024), (2.5, 0), (0.1, -3.7), (-1, 5), (0, 7), (np.nan, 0), (1, 0)]
)
def test_scaled_voxels_equal_nibabels(tmp_path, dtype, order, slope, inter):
    data = values(dtype).astype(np.dtype(order + dtype))
    path = save(tmp_path / "x.nii.gz", data, slope=slope, inter=inter)
    volume = read_nifti(path)
    theirs = nib.load(path).get_fdata()
    scaled = (slope not in (0, 1) and np.isfinite(slope)) or (slope, inter) == (1, -1024)
    if not scaled:
        assert volume.data.dtype == np.dtype(dtype)
    elif dtype in ("i4", "f8"):
        assert volume.data.dtype == np.float64
    else:
        assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, theirs.astype(volume.data.dtype))


def test_voxels_may_begin_later(tmp_path):
    data = values("i2")
    path = save(tmp_path / "x.nii.gz", data, edit=lambda h: h.__setitem__("vox_offset", 4096))
    np.testing.assert_array_equal(read_nifti(path).data, data)


def test_more_than_one_block_of_gzip_and_several_members(tmp_path):
    data = values("i2", (120, 120, 120))
    path = save(tmp_path / "x.nii", data)
    raw = path.read_bytes()
    packed = tmp_path / "y.nii.gz"
    packed.write_bytes(
        b"".join(gzip.compress(raw[i : i + 100_000], 1) for i in range(0, len(raw), 100_000))
    )
    np.testing.assert_array_equal(read_nifti(packed).data, data)


@pytest.mark.parametrize(
    ("sform", "qform", "used"), [(1, 1, "sform"), (1, 0, "sform"), (0, 1, "qform"), (0, 0, "base")]
)
def test_affine_by_nibabels_rule(tmp_path, sform, qform, used):
    def edit(header):
        header.set_qform(np.diag([-2, -2, 3, 1.0]), qform)
        header["sform_code"] = sform

    path = save(tmp_path / "x.nii", values("i2"), edit=edit)
    header = read_header(path)
    np.testing.assert_array_equal(header.affine, nib.load(path).affine)
    if used == "sform" and qform:
        assert "the sform is used" in header.form_conflict
    else:
        assert header.form_conflict is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_write_then_read_by_nibabel_and_simpleitk(tmp_path, dtype, ending):
    import SimpleITK as sitk

    path = tmp_path / f"x.{ending}"
    volume = Volume(values(dtype), AFFINE)
    write_nifti(path, volume)
    theirs = nib.load(path)
    np.testing.assert_array_equal(np.asanyarray(theirs.dataobj), volume.data)
    assert theirs.get_data_dtype() == dtype
    np.testing.assert_allclose(theirs.get_sform(), AFFINE, rtol=1e-6)
    np.testing.assert_allclose(theirs.get_qform(), AFFINE, rtol=1e-5, atol=1e-4)
    assert theirs.header.get_xyzt_units()[0] == "mm"
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), volume.data)
    np.testing.assert_allclose(image.GetOrigin(), (-171.5, -189.1, -883), rtol=1e-6)
    again = read_nifti(path)
    np.testing.assert_array_equal(again.data, volume.data)
    assert read_header(path).form_conflict is None


@settings(max_examples=60)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.int32, np.float32]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    ),
    hnp.arrays(np.float64, (3, 3), elements=st.floats(-2, 2)),
    st.booleans(),
)
def test_write_then_read_any_volume(tmp_path_factory, data, turn, compress):
    affine = np.eye(4)
    affine[:3, :3] = turn + 5 * np.eye(3)  # diagonally dominant: always invertible
    path = tmp_path_factory.mktemp("any") / ("x.nii.gz" if compress else "x.nii")
    write_nifti(path, Volume(data, affine))
    again = read_nifti(path)
    np.testing.assert_array_equal(again.data, data)
    np.testing.assert_allclose(again.affine, affine, rtol=1e-6, atol=1e-6)
    assert read_header(path).form_conflict is None


def test_writing_is_the_same_every_time(tmp_path):
    volume = Volume(values("i2", (30, 30, 30)), AFFINE)
    write_nifti(tmp_path / "a.nii.gz", volume)
    write_nifti(tmp_path / "b.nii.gz", volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("have", "written"), [("bool", "u1"), ("f2", "f4"), ("i8", "i4"), ("u8", "i4"), (">i2", "i2")]
)
def test_dtypes_that_others_cannot_read_are_widened_or_narrowed(tmp_path, have, written):
    data = np.arange(105).reshape(SHAPE).astype(have)
    write_nifti(tmp_path / "x.nii", Volume(data, AFFINE))
    again = read_nifti(tmp_path / "x.nii")
    assert again.data.dtype == np.dtype(written)
    np.testing.assert_array_equal(again.data, data)


def test_a_cast_that_loses_is_refused(tmp_path):
    path = tmp_path / "x.nii.gz"
    volume = Volume(np.full(SHAPE, 300, np.int16), AFFINE)
    with pytest.raises(IntensityError, match=r"x\.nii\.gz.*300.*uint8"):
        write_nifti(path, volume, dtype=np.uint8)
    assert list(tmp_path.iterdir()) == []
    write_nifti(path, volume)
    with pytest.raises(IntensityError, match=r"x\.nii\.gz.*300.*uint8"):
        read_nifti(path, dtype=np.uint8)
    assert read_nifti(path, dtype=np.float32).data.dtype == np.float32


def test_a_slope_that_gives_whole_numbers_reads_as_integers_on_request(tmp_path):
    path = save(tmp_path / "x.nii", np.full(SHAPE, 1000, np.uint16), slope=1, inter=-1024)
    assert (read_nifti(path, dtype=np.int16).data == -24).all()


def test_writing_to_a_place_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, OSError)):
        write_nifti(tmp_path / "file" / "x.nii", Volume(values("i2"), AFFINE))


# Bad input


def test_absent_file(tmp_path):
    with pytest.raises(UnreadableFileError, match=r"x\.nii\.gz.*no such file"):
        read_nifti(tmp_path / "x.nii.gz")


def test_folder(tmp_path):
    (tmp_path / "x.nii").mkdir()
    with pytest.raises(UnreadableFileError, match="is a folder"):
        read_nifti(tmp_path / "x.nii")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = save(tmp_path / "x.nii", values("i2"))
    path.chmod(0)
    with pytest.raises(UnreadableFileError, match="permission"):
        read_nifti(path)


def test_refusals_of_the_system_are_named(tmp_path, monkeypatch):
    path = save(tmp_path / "x.nii", values("i2"))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UnreadableFileError, match=r"permission denied.*chmod"):
        read_nifti(path)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"<html>404 not found</html>" * 50, "begins with b'<html>404")],
)
def test_text_under_a_volumes_name(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_nifti, read_header):
        with pytest.raises(UnreadableFileError, match=message):
            read(path)


def test_compression_and_name_must_agree(tmp_path):
    plain = save(tmp_path / "x.nii", values("i2"))
    packed = save(tmp_path / "y.nii.gz", values("i2"))
    plain.rename(tmp_path / "x.nii.gz")
    packed.rename(tmp_path / "y.nii")
    with pytest.raises(UnreadableFileError, match=r"not compressed.*ename it to x\.nii"):
        read_nifti(tmp_path / "x.nii.gz")
    with pytest.raises(UnreadableFileError, match=r"ename it to y\.nii\.gz"):
        read_nifti(tmp_path / "y.nii")
    (tmp_path / "y.nii").rename(tmp_path / "Y.NII.GZ")
    np.testing.assert_array_equal(read_nifti(tmp_path / "Y.NII.GZ").data, values("i2"))


@pytest.mark.parametrize("keep", [10, 200, 0.5, 0.99, -8, -4, -1])
def test_truncated_gzip(tmp_path, keep):
    path = save(tmp_path / "x.nii.gz", values("i2", (30, 30, 30)))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)] if isinstance(keep, float) else raw[:keep])
    with pytest.raises(UnreadableFileError, match="cut short"):
        read_nifti(path)


def test_a_flipped_bit_in_gzip_is_found(tmp_path):
    path = save(tmp_path / "x.nii.gz", values("i2", (30, 30, 30)))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 16
    path.write_bytes(raw)
    with pytest.raises(UnreadableFileError, match=r"damaged|cut short"):
        read_nifti(path)


def test_truncated_plain_file(tmp_path):
    path = save(tmp_path / "x.nii", values("i2"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnreadableFileError, match="more than its 561 bytes can hold"):
        read_nifti(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UnreadableFileError, match="ends after 100 bytes"):
        read_nifti(path)


def test_less_voxels_than_promised_in_gzip(tmp_path):
    def edit(header):
        header["dim"][3] = 30

    path = save(tmp_path / "x.nii.gz", values("i2"), edit=edit)
    with pytest.raises(UnreadableFileError, match="ends after 210 bytes of the 2100 bytes"):
        read_nifti(path)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_header_that_promises_terabytes(tmp_path, ending):
    def edit(header):
        header["dim"][1:4] = 32767

    path = save(tmp_path / f"x.{ending}", values("i2"), edit=edit)
    with pytest.raises(UnreadableFileError, match=r"promises 70,362.* GB"):
        read_nifti(path)


@pytest.mark.parametrize("shape", [(7, 5, 3, 1), (7, 5, 3, 2), (7, 5), (7, 5, 3, 1, 3)])
def test_other_than_three_dimensions(tmp_path, shape):
    path = save(tmp_path / "x.nii.gz", values("i2", shape))
    for read in (read_nifti, read_header):
        with pytest.raises(GeometryError) as caught:
            read(path)
        assert str(shape) in str(caught.value)
        assert "x.nii.gz" in str(caught.value)


def test_empty_axis_and_singular_affine(tmp_path):
    path = save(tmp_path / "x.nii", values("i2"), edit=lambda h: h["dim"].__setitem__(2, 0))
    with pytest.raises(GeometryError, match="at least one voxel"):
        read_nifti(path)

    def flat(header):
        header["srow_z"] = 0

    path = save(tmp_path / "x.nii", values("i2"), edit=flat)
    with pytest.raises(GeometryError, match=r"x\.nii"):
        read_nifti(path)


def test_colours_and_complex_numbers_are_refused(tmp_path):
    path = save(tmp_path / "x.nii", values("f4").astype(np.complex64))
    with pytest.raises(UnreadableFileError, match="complex64"):
        read_nifti(path)
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = save(tmp_path / "y.nii", rgb)
    with pytest.raises(UnreadableFileError, match="one integer or floating-point value"):
        read_nifti(path)


def test_pairs_and_analyze_are_refused(tmp_path):
    path = save(tmp_path / "x.nii", values("i2"))
    raw = bytearray(path.read_bytes())
    raw[344:348] = b"ni1\0"
    path.write_bytes(raw)
    with pytest.raises(UnreadableFileError, match=r"\.hdr/\.img pair"):
        read_nifti(path)


def test_reading_a_header_reads_little(tmp_path):
    path = save(tmp_path / "x.nii.gz", values("u1", (200, 200, 200)))
    raw = path.read_bytes()
    path.write_bytes(raw[:2_000_000])  # the rest is not missed
    assert read_header(path).shape == (200, 200, 200)


def test_unknown_type_code(tmp_path):
    path = save(tmp_path / "x.nii", values("i2"))
    raw = bytearray(path.read_bytes())
    raw[70:72] = struct.pack("<h", 999)
    path.write_bytes(raw)
    with pytest.raises(UnreadableFileError, match=r"x\.nii"):
        read_nifti(path)
