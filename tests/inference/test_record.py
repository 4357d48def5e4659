"""The record of a folder of label maps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from covidseg.core.errors import ConfigError, StorageError
from covidseg.inference.record import Record


@pytest.fixture
def scans(tmp_path):
    """Inputs of one file each, of which `missing` asks whether their result is there."""
    made = []
    for name in "ab":
        (tmp_path / f"{name}.nii").write_bytes(name.encode())
        made.append(SimpleNamespace(result=f"{name}.nii.gz", files=[tmp_path / f"{name}.nii"]))
    return made


def test_two_calls_into_one_folder_keep_each_others_entries(tmp_path, scans):
    one, other = scans
    # Both have read the record before either notes a result.
    first, second = Record(tmp_path, "settings"), Record(tmp_path, "settings")
    for record, scan in ((first, one), (second, other)):
        (tmp_path / scan.result).touch()
        record.note(scan)
    assert Record(tmp_path, "settings").missing(scans) == []
    with pytest.raises(ConfigError, match="and 1 more"):
        Record(tmp_path, "other settings").missing(scans)


def test_what_other_settings_made_is_dropped_with_its_entry_and_nothing_else(tmp_path, scans):
    one, other = scans
    old = Record(tmp_path, "old")
    for scan in scans:
        (tmp_path / scan.result).touch()
        old.note(scan)
    new = Record(tmp_path, "new")
    assert new.drop_other(one)
    assert not (tmp_path / one.result).exists()
    assert list(Record(tmp_path, "new").noted) == [other.result]
    # It is gone; what the same call made stays; and that of a scan that is gone cannot be told.
    assert not new.drop_other(one)
    assert not old.drop_other(other)
    assert (tmp_path / other.result).exists()
    other.files[0].unlink()
    assert old.drop_other(other)


def test_what_cannot_be_removed_is_said(tmp_path, scans):
    (tmp_path / scans[0].result / "inside").mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot be written"):
        Record(tmp_path, "settings").drop_other(scans[0])
