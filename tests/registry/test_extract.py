import io
import os
import stat
import tarfile
import zipfile
from collections import namedtuple

import pytest

from covidseg.core.errors import DownloadError, StorageError
from covidseg.registry.extract import archive_stem, extract


def make_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


FILES = {"a.nii.gz": b"one", "deep/er/b.nii.gz": b"two" * 100_000}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("x.zip", make_zip),
        ("x.tar", make_tar),
        ("x.tar.gz", lambda path, files: make_tar(path, files, "w:gz")),
    ],
)
def test_archives_are_unpacked(name, make, tmp_path):
    archive = make(tmp_path / name, FILES)
    extract(archive, tmp_path / "out", progress=False)
    assert tree(tmp_path / "out") == FILES
    assert sorted(os.listdir(tmp_path)) == sorted(["out", name])


def test_an_archive_of_the_folder_it_was_made_in(tmp_path):
    """``tar cf x.tar .`` lists the folder itself, and every name below it from there."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("a")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "in", ".")
    extract(tmp_path / "x.tar", tmp_path / "out", progress=False)
    assert tree(tmp_path / "out") == {"a.txt": b"a"}


def test_a_single_folder_of_the_same_name_is_left_out(tmp_path):
    archive = make_zip(
        tmp_path / "Lung.zip", {"Lung/Lung/x": b"1", "Lung/y": b"2", "__MACOSX/Lung/._y": b"3"}
    )
    extract(archive, tmp_path / "Lung", progress=False)
    assert tree(tmp_path / "Lung") == {"Lung/x": b"1", "y": b"2"}


BAD_NAMES = [
    "../escaped",
    "a/../../escaped",
    "/tmp/escaped-from-covidseg",
    "..",
    "a\\..\\..\\escaped",
    "C:/escaped",
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_nothing_leads_out(name, make, tmp_path):
    archive = make(tmp_path / "evil", {"good": b"1", name: b"2"})
    with pytest.raises(DownloadError, match="leads out of the folder"):
        extract(archive, tmp_path / "in" / "out", progress=False)
    # Nothing is unpacked, not even what was harmless.
    assert sorted(os.listdir(tmp_path)) == ["evil", "in"]
    assert os.listdir(tmp_path / "in") == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_tar_with_links_or_devices_is_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DownloadError, match="is a link or a device"):
        extract(tmp_path / "evil.tar", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_zip_with_a_link_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DownloadError, match="is a link or a device"):
        extract(tmp_path / "evil.zip", tmp_path / "out", progress=False)


def test_bomb_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("covidseg.registry.extract._ALWAYS_ALLOWED_BYTES", 1000)
    archive = make_zip(tmp_path / "bomb.zip", {"zeros": b"\0" * (1 << 20)})
    with pytest.raises(DownloadError, match="would expand from"):
        extract(archive, tmp_path / "out", progress=False)
    assert os.listdir(tmp_path) == ["bomb.zip"]


def test_zip_that_lies_about_a_size_is_refused(tmp_path):
    archive = make_zip(tmp_path / "liar.zip", {"x": b"\0" * 100_000})
    content = archive.read_bytes().replace(
        (100_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little")
    )
    archive.write_bytes(content)
    with pytest.raises(DownloadError, match=r"liar\.zip"):
        extract(archive, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("x", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x", "2")
    with pytest.raises(DownloadError, match="'x' is there twice"):
        extract(tmp_path / "twice.zip", tmp_path / "out", progress=False)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_damaged_archive(make, tmp_path):
    archive = make(tmp_path / "cut", FILES)
    archive.write_bytes(archive.read_bytes()[:-400] if make is make_zip else b"rubbish" * 100)
    with pytest.raises(DownloadError, match="damaged or unsupported archive"):
        extract(archive, tmp_path / "out", progress=False)
    assert os.listdir(tmp_path) == ["cut"]


def test_damaged_content(tmp_path):
    archive = make_zip(tmp_path / "x.zip", {"x": os.urandom(1000)})
    content = bytearray(archive.read_bytes())
    content[200] ^= 255
    archive.write_bytes(content)
    with pytest.raises(DownloadError, match="damaged or unsupported archive"):
        extract(archive, tmp_path / "out", progress=False)
    assert os.listdir(tmp_path) == ["x.zip"]


def test_full_disk(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "x.zip", FILES)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(StorageError, match=r"needs 300,003 bytes, but the disk has 1 free"):
        extract(archive, tmp_path / "out", progress=False)


def test_folder_that_exists_is_not_touched(tmp_path):
    archive = make_zip(tmp_path / "x.zip", FILES)
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="exists already"):
        extract(archive, tmp_path / "out", progress=False)
    assert os.listdir(tmp_path / "out") == []


def test_stems():
    assert archive_stem("Lung_Mask.zip") == "Lung_Mask"
    assert archive_stem("x.tar.gz") == "x"
    assert archive_stem("volume.nii.gz") is None
