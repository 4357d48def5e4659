"""Pseudo-labels as files, by a network whose answer is known: the sigmoid of the intensity."""

from __future__ import annotations

import csv
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.core.files import atomic_file
from covidseg.engine.cache import TrainingCase
from covidseg.imaging.nifti import read_header, read_nifti, write_nifti
from covidseg.imaging.picture import read_picture
from covidseg.imaging.volume import Volume
from covidseg.inference.predictor import Predictor
from covidseg.inference.preprocessing import Preprocessing
from covidseg.inference.sliding import Sliding
from covidseg.pseudolabel import prediction, rounds
from covidseg.pseudolabel.figure import draw_kept
from covidseg.pseudolabel.pool import Pool, PoolScan
from covidseg.pseudolabel.prediction import (
    Teachers,
    free_claims,
    predict_pool,
    write_table,
)
from covidseg.pseudolabel.rounds_config import FilterConfig, RoundsConfig
from covidseg.registry.cases import HU, Intensity
from covidseg.splits.records import CaseRecord

CONFIG = FilterConfig(max_entropy=1, min_agreement=0)
AFFINE = np.array([[0, -3.0, 0, 10], [2.0, 0, 0, -4], [0, 0, -5.0, 7], [0, 0, 0, 1]])


class Intensities(nn.Module):
    """Logit of the foreground: the network's input times ``slope``."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), self.slope * x], 1)


def teachers(*slopes, plane_size=None, key="one"):
    grey = plane_size is not None
    scale = Preprocessing(
        0 if grey else -1000, 255 if grey else 1000, 127.5 if grey else 0, 20 if grey else 100,
        None, plane_size,
    )  # fmt: skip
    window = Sliding((1, *(plane_size or (4, 4))), 0.5)
    members = tuple(Predictor([Intensities(slope)], scale, window, 2) for slope in slopes)
    return Teachers((), members, ("infection",), key)


def scan(folder, name, values):
    path = folder / f"{name}.nii.gz"
    write_nifti(path, Volume(values, AFFINE))
    case = TrainingCase(name, path, None, HU, {}, "pool", f"content of {name}")
    return PoolScan(case, CaseRecord("", name), "folder")


@pytest.fixture
def scans(tmp_path):
    rng = np.random.default_rng(0)
    return [
        scan(tmp_path, f"scan{n}", rng.integers(-900, 900, (6, 5, 4)).astype(np.int16))
        for n in range(4)
    ]


def rows(folder):
    with open(folder / "pseudolabels.csv", newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def label_all(teachers_, scans, folder, config=CONFIG):
    free_claims(folder)
    done = predict_pool(teachers_, scans, folder, config)
    return done, write_table(folder, scans, teachers_.labels, phantom=False)


def test_maps_lie_where_the_scans_voxels_lie(scans, tmp_path):
    out = tmp_path / "out"
    done, found = label_all(teachers(1.0), scans, out)
    assert done == len(found.cases) == 4
    for one, case in zip(scans, found.cases, strict=True):
        name = one.case.case_id
        volume = read_nifti(one.case.image)
        p = 1 / (1 + np.exp(-volume.data / 100.0))
        stored = read_nifti(out / "probability" / f"{name}.nii.gz").data
        np.testing.assert_allclose(stored / 255, p, atol=0.5 / 255 + 1e-6)
        sure = read_nifti(out / "confidence" / f"{name}.nii.gz").data
        np.testing.assert_allclose(sure / 255, np.maximum(p, 1 - p), atol=0.5 / 255 + 1e-6)
        label = read_nifti(case.label)
        near = np.minimum(abs(p - 0.9), abs(p - 0.05)) < 0.005
        expected = np.where(p >= 0.9, 1, np.where(p <= 0.05, 0, 255))
        assert (label.data == expected)[~near].all()
        np.testing.assert_allclose(label.affine, AFFINE)
        assert case.values == {1: 1, 255: 255}
        for kind in ("labels", "probability", "confidence"):
            assert read_header(out / kind / f"{name}.nii.gz").shape == volume.shape
    table = rows(out)
    assert {row["state"] for row in table.values()} == {"kept"}
    pictures = draw_kept(out, scans, phantom=True)
    assert all(path.stat().st_size > 1000 for path in pictures)


def test_several_teachers_are_averaged_and_compared(tmp_path):
    values = np.zeros((4, 4, 1), np.int16)
    values[:2] = 600
    values[2:] = -600
    one = scan(tmp_path, "one", values)
    opposite = teachers(1.0, -1.0)
    free_claims(tmp_path / "out")
    predict_pool(opposite, [one], tmp_path / "out", CONFIG)
    stored = read_nifti(tmp_path / "out/probability/one.nii.gz").data
    assert set(np.unique(stored)) <= {127, 128}  # the mean of p and 1 - p
    with pytest.raises(ConfigError, match="none of 1 pseudo-labels is kept"):
        write_table(tmp_path / "out", [one], ("infection",), phantom=False)
    assert float(rows(tmp_path / "out")["one"]["agreement"]) == 0
    strict = dataclasses.replace(CONFIG, min_agreement=0.5)
    free_claims(tmp_path / "out")
    assert predict_pool(opposite, [one], tmp_path / "out", strict) == 1
    with pytest.raises(ConfigError, match="none"):
        write_table(tmp_path / "out", [one], ("infection",), phantom=False)
    assert rows(tmp_path / "out")["one"]["reason"] == "agreement 0.000 below 0.5"


def test_a_picture_gets_pictures(tmp_path):
    grey = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9) * 4
    Image.fromarray(grey).save(tmp_path / "slice.png")
    case = TrainingCase("slice", tmp_path / "slice.png", None, Intensity("picture"), {}, "", "c")
    one = PoolScan(case, CaseRecord("", "slice"), "folder")
    _, found = label_all(teachers(1.0, plane_size=(9, 7)), [one], tmp_path / "out")
    stored = read_picture(tmp_path / "out/probability/slice.png")
    np.testing.assert_allclose(stored / 255, 1 / (1 + np.exp(-(grey - 127.5) / 20)), atol=0.003)
    label = read_picture(found.cases[0].label)
    assert set(np.unique(label)) == {0, 1, 255}
    assert ((label == 1) == (stored >= 230)).all()


def test_interrupted_it_goes_on_and_predicts_nothing_twice(scans, tmp_path, monkeypatch):
    out, seen = tmp_path / "out", []
    whole = prediction._predicted

    def counted(teachers_, read):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(read)
        return whole(teachers_, read)

    monkeypatch.setattr(prediction, "_predicted", counted)
    free_claims(out)
    with pytest.raises(KeyboardInterrupt):
        predict_pool(teachers(1.0), scans, out, CONFIG)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.is_file()}
    assert not list(out.rglob(".part-*"))
    cases = [path for path in written if path.parent.name == "cases"]
    assert len(cases) == 2
    monkeypatch.setattr(prediction, "_predicted", whole)
    done, found = label_all(teachers(1.0), scans, out)
    assert done == 2
    assert len(found.cases) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    assert label_all(teachers(1.0), scans, out)[0] == 0
    # Another teacher, or another threshold, is another matter.
    assert label_all(teachers(1.0, key="two"), scans, out)[0] == 4
    stricter = dataclasses.replace(CONFIG, foreground=0.99)
    assert label_all(teachers(1.0, key="two"), scans, out, stricter)[0] == 4
    # So is another scan under the same name.
    other = dataclasses.replace(scans[2].case, content="repaired")
    scans[2] = dataclasses.replace(scans[2], case=other)
    assert label_all(teachers(1.0, key="two"), scans, out, stricter)[0] == 1


def test_what_was_damaged_or_taken_away_is_predicted_again(scans, tmp_path):
    out = tmp_path / "out"
    _, before = label_all(teachers(1.0), scans, out)
    labels = [out / "labels" / f"scan{n}.nii.gz" for n in range(4)]
    whole = [path.read_bytes() for path in labels]
    labels[0].unlink()
    labels[1].write_bytes(whole[2])
    done, after = label_all(teachers(1.0), scans, out)
    assert done == 2
    assert [path.read_bytes() for path in labels] == whole
    assert after == before


def test_what_another_process_has_claimed_is_left_to_it(scans, tmp_path):
    out = tmp_path / "out"
    for name in ("scan1", "scan3"):
        (out / "claims").mkdir(parents=True, exist_ok=True)
        (out / "claims" / name).touch()
    assert predict_pool(teachers(1.0), scans, out, CONFIG, rank=1) == 2
    assert {path.stem for path in (out / "cases").iterdir()} == {"scan0", "scan2"}


def test_a_scan_that_cannot_be_read_is_listed_and_the_rest_goes_on(scans, tmp_path):
    scans[1].case.image.write_bytes(b"not a scan")
    out = tmp_path / "out"
    done, found = label_all(teachers(1.0), scans, out)
    assert done == 4
    assert [case.case_id for case in found.cases] == ["scan0", "scan2", "scan3"]
    row = rows(out)["scan1"]
    assert row["state"] == "left out"
    assert "scan1.nii.gz" in row["reason"]
    assert row["label"] == ""
    # Repaired, it is predicted, and it alone.
    scan(tmp_path, "scan1", np.full((6, 5, 4), 800, np.int16))
    done, found = label_all(teachers(1.0), scans, out)
    assert done == 1
    assert len(found.cases) == 4


def test_an_empty_pseudo_label_is_left_out_unless_asked_for(tmp_path):
    scans = [
        scan(tmp_path, "empty", np.full((4, 4, 2), -900, np.int16)),
        scan(tmp_path, "full", np.full((4, 4, 2), 900, np.int16)),
    ]
    _, found = label_all(teachers(1.0), scans, tmp_path / "out")
    assert [case.case_id for case in found.cases] == ["full"]
    assert rows(tmp_path / "out")["empty"]["reason"] == "empty pseudo-label"
    keep = dataclasses.replace(CONFIG, keep_empty=True)
    _, found = label_all(teachers(1.0), scans, tmp_path / "out", keep)
    assert len(found.cases) == 2


def test_a_full_disk_is_said_and_leaves_nothing_half_written(scans, tmp_path, monkeypatch):
    from covidseg.core.errors import StorageError

    def full(path, volume):
        raise StorageError("cannot be written (No space left on device)", path=path)

    monkeypatch.setattr(prediction, "write_nifti", full)
    free_claims(tmp_path / "out")
    with pytest.raises(StorageError, match="No space left"):
        predict_pool(teachers(1.0), scans, tmp_path / "out", CONFIG)
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_pool_is_labelled_by_one_call_at_a_time(tmp_path, scans, monkeypatch):
    """A second one would throw away what the first is writing."""
    alone = SimpleNamespace(
        is_main_process=True, process_index=0, device="cpu", wait_for_everyone=lambda: None
    )
    recipe = SimpleNamespace(rounds=RoundsConfig(filter=CONFIG))
    monkeypatch.setattr(rounds, "refuse_other_teachers", lambda *asked: None)
    monkeypatch.setattr(rounds, "open_teachers", lambda *asked, **how: teachers(1.0))
    refused = []

    def write_while_another_begins(path, volume):
        with atomic_file(path) as temporary:
            write_nifti(temporary, volume)
            if not refused:
                refused.append("")
                with pytest.raises(ConfigError, match="is being labelled by another process"):
                    label()

    def label():
        return rounds.label_pool(recipe, [], Pool(scans, [], False), tmp_path / "pool", alone)

    monkeypatch.setattr(prediction, "_write_map", write_while_another_begins)
    assert len(label().cases) == len(scans)
    assert refused
