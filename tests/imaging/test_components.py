import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from covidseg.core.errors import ConfigError
from covidseg.imaging.components import bounding_box, label_components, largest, remove_small

MASKS = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 2)
)
RANK = {4: 1, 8: 2, 6: 1, 18: 2, 26: 3}


@given(MASKS, st.sampled_from([6, 18, 26]), st.booleans())
@example(np.uint8([[[1, 0, 1, 0, 1]]]), 26, False)
def test_same_components_as_scipys(mask, connectivity, fortran):
    mask = np.asfortranarray(mask) if fortran else mask
    labels, count = label_components(mask, connectivity)
    theirs, their_count = ndimage.label(
        mask != 0, ndimage.generate_binary_structure(3, RANK[connectivity])
    )
    assert count == their_count
    assert labels.dtype == np.int32
    pairs = set(zip(labels.ravel(), theirs.ravel(), strict=True))
    # A bijection that maps background to background.
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert all((a == 0) == (b == 0) for a, b in pairs)


def test_corners_touch_only_at_26():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 1, 2] = True
    assert [label_components(mask, c)[1] for c in (6, 18, 26)] == [3, 2, 1]
    assert [label_components(np.eye(3), c)[1] for c in (4, 8)] == [3, 1]


def test_empty_mask_and_unknown_connectivity():
    labels, count = label_components(np.zeros((4, 4, 4)))
    assert count == 0
    assert not labels.any()
    assert not largest(np.zeros((4, 4, 4))).any()
    assert not remove_small(np.zeros((4, 4, 4), np.uint8), 1, (1, 1, 1)).any()
    with pytest.raises(ConfigError, match="6 or 18 or 26"):
        label_components(np.zeros((4, 4, 4)), 8)


def test_remove_small_by_volume_keeps_labels():
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[:2, :2, :2] = 3  # 8 voxels of 2 mm³
    mask[5:7, 5, 5] = 1  # 2 voxels
    kept = remove_small(mask, 16, (1, 1, 2))
    assert kept.dtype == np.uint8
    assert (kept == 3).sum() == 8
    assert (kept == 1).sum() == 0
    assert (remove_small(mask, 16.1, (1, 1, 2)) == 0).all()
    assert (mask == 1).sum() == 2  # the input is untouched


def test_remove_small_in_two_dimensions():
    mask = np.zeros((10, 10), bool)
    mask[:2, :2] = mask[7, 7] = True
    assert remove_small(mask, 2, (1, 1), 8).sum() == 4


def test_largest():
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[:2, :2, :2], mask[5:7, 5, 5], mask[9, 9, 9] = 1, 2, 1
    assert largest(mask).sum() == 8
    assert largest(mask, 2).sum() == 12
    assert (largest(mask, 9) == mask).all()


@given(MASKS, st.integers(0, 2))
def test_bounding_box_holds_all_and_no_more(mask, margin):
    box = bounding_box(mask)
    if not mask.any():
        assert box is None
        return
    assert mask[box].sum() == mask.sum()
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        used = mask[box].any(axis=others)
        assert used[0]
        assert used[-1]
    wide = bounding_box(mask, margin)
    for part, tight, size in zip(wide, box, mask.shape, strict=True):
        assert part.start == max(0, tight.start - margin)
        assert part.stop == min(size, tight.stop + margin)
