from __future__ import annotations

import errno
import os
import pickle
import stat

import pytest

from covidseg.core.errors import CovidsegError, LabelError, StorageError
from covidseg.core.files import atomic_file, atomic_folder, sha256_of_file


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file_appears_under_its_final_name(tmp_path):
    final = tmp_path / "deep" / "scan.nii.gz"
    with atomic_file(final) as temporary:
        assert temporary.name.endswith("scan.nii.gz")
        temporary.write_bytes(b"whole")
        assert not final.exists()
    assert final.read_bytes() == b"whole"
    assert leftovers(final.parent) == ["scan.nii.gz"]
    assert stat.S_IMODE(final.stat().st_mode) & 0o444


@pytest.mark.parametrize("fault", [ValueError("bad"), KeyboardInterrupt()])
def test_a_failed_write_leaves_what_was_there(tmp_path, fault):
    final = tmp_path / "scores.csv"
    final.write_text("before")
    with pytest.raises(type(fault)), atomic_file(final) as temporary:
        temporary.write_text("half")
        raise fault
    assert final.read_text() == "before"
    assert leftovers(tmp_path) == ["scores.csv"]


def test_a_full_disk_is_named_with_a_remedy(tmp_path):
    with (
        pytest.raises(StorageError, match=r"scores\.csv.*No space left.*[Ff]ree space"),
        atomic_file(tmp_path / "scores.csv"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert leftovers(tmp_path) == []


def test_a_file_in_the_place_of_a_folder_is_no_matter_of_permission(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match=r"Choose another name") as refused,
        atomic_file(tmp_path / "file" / "scores.csv"),
    ):
        pass
    assert "permission" not in str(refused.value)


def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="no regular file"), atomic_file(tmp_path / "pipe"):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_other_operating_system_faults_are_not_disguised(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "x"):
        (tmp_path / "absent").read_bytes()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    final = tmp_path / "hub"
    with atomic_folder(final) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(StorageError, match="exists already"), atomic_folder(final):
        pass
    with pytest.raises(RuntimeError), atomic_folder(final, replace=True) as temporary:
        (temporary / "b").write_text("2")
        raise RuntimeError
    assert leftovers(final) == ["a"]
    with atomic_folder(final, replace=True) as temporary:
        (temporary / "b").write_text("2")
    assert leftovers(final) == ["b"]
    assert leftovers(tmp_path) == ["hub"]


def test_sha256_of_a_file_longer_than_a_block(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_of_file(path, block_bytes=2) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_an_error_says_file_finding_expectation_and_remedy():
    error = LabelError("label 7", path="a/mask.nii.gz", expected="0 to 3", remedy="check the file")
    assert str(error) == "a/mask.nii.gz: label 7; expected 0 to 3. Check the file."
    assert str(CovidsegError("bare finding")) == "bare finding."


def test_an_error_crosses_processes_whole():
    error = LabelError("label 7", path="a", expected="0", remedy="check")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is LabelError
    assert str(copy) == str(error)
