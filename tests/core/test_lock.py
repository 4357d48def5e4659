import pytest

from covidseg.core.errors import ConfigError, StorageError
from covidseg.core.lock import alone_in


def test_a_folder_is_held_by_one_and_free_again_after(tmp_path):
    with alone_in(tmp_path / "run", "trained"):
        with (
            pytest.raises(ConfigError, match=r"run: is being trained by another process"),
            alone_in(tmp_path / "run", "trained"),
        ):
            raise AssertionError("held twice")
        with alone_in(tmp_path / "run", "written", within=tmp_path / "other"):
            pass
    with alone_in(tmp_path / "run", "trained"):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"), alone_in(tmp_path / "file" / "run", "trained"):
        pass
