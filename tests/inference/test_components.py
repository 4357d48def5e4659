"""Labels in one piece: by hand, beside torchio's, and whatever the label map."""

from __future__ import annotations

import numpy as np
import torch
import torchio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from covidseg.inference.components import in_one_piece

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
