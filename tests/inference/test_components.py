"""Labels in one piece: by hand, beside torchio's, and whatever the label map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from covidseg.imaging.intensity import hu_to_window
from covidseg.imaging.volume import Volume
from covidseg.inference.components import in_one_piece, lungs_in_one_piece
from covidseg.registry.cases import HU, Intensity

LABELS = arrays.arrays(np.uint8, (5, 4, 3), elements=st.integers(0, 2))


def test_by_hand():
    plane = [
        [1, 1, 0, 0, 1],
        [0, 1, 0, 2, 0],
        [1, 0, 2, 0, 2],
    ]
    kept = [
        [1, 1, 0, 0, 0],
        [0, 1, 0, 2, 0],
        [0, 0, 0, 0, 0],
    ]
    labels = np.array(plane, np.uint8)[..., None]
    before = labels.copy()
    # Corners do not connect, and of the three 2s the first in the array's order stays.
    assert in_one_piece(labels, [1, 2])[..., 0].tolist() == kept
    assert (labels == before).all()
    untouched = in_one_piece(labels, [1])
    assert (untouched == 2).sum() == 3
    assert in_one_piece(labels, [7]).tolist() == labels.tolist()


def test_what_lies_elsewhere_does_not_count():
    row = np.array([1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 2, 0, 2], np.uint8)
    labels = row[:, None, None]
    outside = np.zeros(labels.shape, bool)

    def kept(share=None):
        found = in_one_piece(labels, [1, 2], None if share is None else (lambda: share))
        return found.ravel().tolist()

    longest = [1, 1, 1, 1] + [0] * 8 + [2, 0, 0]
    assert kept() == kept(outside) == longest
    outside[:2] = outside[8:10] = outside[12] = True
    # 2 of 4, 2 of 2, 1 of 3 are left: of equals the first stays; and of the 2s the other one.
    assert kept(outside) == [1, 1, 1, 1] + [0] * 10 + [2]
    outside[:3] = True
    assert kept(outside) == [0] * 5 + [1, 1] + [0] * 7 + [2]
    # Where nothing of any is left, size decides as before.
    assert kept(np.ones_like(outside)) == longest


def test_elsewhere_is_asked_for_only_where_a_piece_could_take_the_others_place():
    labels = np.array([1] * 21 + [0, 1, 1] + [0, 2], np.uint8)[:, None, None]

    def asked():
        raise AssertionError

    assert in_one_piece(labels, [1, 2], asked).sum() == 21 + 2
    with pytest.raises(AssertionError):
        in_one_piece(labels[2:], [1], asked)


@pytest.mark.parametrize("intensity", [HU, Intensity("windowed", (-1250.0, 250.0))])
@pytest.mark.parametrize("turned", [False, True])
def test_the_air_around_a_patient_is_no_lung(intensity, turned):
    hu = np.full((30, 30, 5), -1000.0, np.float32)
    hu[8:25, 5:25] = 40
    hu[10:15, 8:20] = hu[18:23, 8:20] = -850
    labels = np.zeros(hu.shape, np.uint8)
    labels[:7] = labels[10:15, 8:20] = 1  # around the patient, and the lung
    affine = np.diag([2.0, 2.0, 8.0, 1.0])
    if intensity.scale == "windowed":
        hu = hu_to_window(hu, (-1250.0, 250.0))
    if turned:  # stored with the axis from foot to head first
        hu, labels, affine = (
            hu.transpose(2, 0, 1),
            labels.transpose(2, 0, 1),
            affine[:, [2, 0, 1, 3]],
        )
    scan, found = Volume(hu, affine), Volume(labels, affine)
    kept = lungs_in_one_piece(found, [1], scan, intensity).data
    np.testing.assert_array_equal(kept == 1, (labels == 1) & (hu > hu.min()))
    # A picture has no known air; there the larger one stays.
    as_picture = lungs_in_one_piece(found, [1], scan, Intensity("picture")).data
    np.testing.assert_array_equal(as_picture == 1, (labels == 1) & (hu == hu.min()))


@given(LABELS)
def test_as_torchio_keeps_it(labels):
    labels = np.minimum(labels, 1)
    ours = in_one_piece(labels, [1])
    subject = torchio.LabelMap(tensor=torch.from_numpy(labels[None].astype(np.int16)))
    theirs = torchio.KeepLargestComponent()(subject).numpy()[0]
    # Of pieces of one size each may keep another.
    assert ours.sum() == theirs.sum()


@given(LABELS)
def test_voxels_only_become_background_and_twice_is_once(labels):
    once = in_one_piece(labels, [1, 2])
    assert ((once == labels) | (once == 0)).all()
    assert (in_one_piece(once, [1, 2]) == once).all()
    assert set(np.unique(once)) | {0} == set(np.unique(labels)) | {0}
