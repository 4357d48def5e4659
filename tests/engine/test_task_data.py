"""Folders that are taken for a dataset repository and are none."""

from __future__ import annotations

import pytest

from covidseg.core.errors import LayoutError
from covidseg.engine import task_data
from covidseg.engine.task_data import Part, configuration_names, part_names, read_part


def card(configurations):
    return f"---\nconfigs: {configurations}\n---\n"


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, ""),
        ({"README.md": "# Another project"}, "EmptyDatasetError"),
        ({"README.md": card("[a: b: c")}, "ParserError"),
        ({"README.md": card("text")}, "ValueError: Expected configs to be a list"),
        ({"README.md": card("[3]")}, "TypeError"),
        ({"README.md": card("[{config_name: a, data_files: none.parquet}]")}, "FileNotFoundError"),
        (
            {
                "README.md": card("[{config_name: a, data_files: one.parquet}]"),
                "one.parquet": "cut short",
            },
            "SplitsNotFoundError",
        ),
    ],
)
def test_a_folder_that_is_no_repository_is_said_to_be_none(tmp_path, files, why):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(LayoutError, match=r"is no dataset repository.*covidseg build") as refused:
        read_part(tmp_path, "a", "train")
    assert refused.value.path == tmp_path
    assert why in str(refused.value)


def test_where_voxels_lie_is_part_of_what_was_learnt(tmp_path):
    intensity = {"scale": "hounsfield", "window_hu": None}
    row = {
        "case_id": "a", "patient_id": "a", "dataset": "d", "cohort": "train", "series_uid": "",
        "image": {"path": "a.nii.gz"}, "image_content_hash": "1", "label_content_hash": "2",
        "affine": [[1, 0], [0, 1]], "shape": [2, 2], "intensity": intensity,
    }  # fmt: skip
    moved = {**row, "affine": [[2, 0], [0, 1]]}
    parts = [Part("c", "train", [task_data._row(one)], {}, False) for one in (row, moved)]
    assert parts[0].sha256 != parts[1].sha256
    assert parts[0].provenance["cases"] == parts[1].provenance["cases"]


def test_a_repository_that_may_not_be_read_is_not_called_none(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("# A repository")

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path / "README.md"))

    monkeypatch.setattr("datasets.get_dataset_config_names", refuse)
    with pytest.raises(PermissionError):
        configuration_names(tmp_path)
    with pytest.raises(PermissionError):
        part_names(tmp_path, "a")
