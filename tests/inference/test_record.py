"""The record of a folder of label maps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from covidseg.core.errors import ConfigError
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
