"""Bits: packed and counted as numpy would, widened without holes, shifted without crossing rows."""

import numpy as np
import pytest

from covidseg.scoring.packing import (
    BitString,
    count_bits,
    memory_order,
    occupied_box,
    pack,
    shift_down,
    shift_up,
    widen,
)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int16, np.float32])
@pytest.mark.parametrize("label", [None, 1])
def test_pack_finds_a_label_or_anything(dtype, label):
    random = np.random.default_rng(0)
    array = random.integers(0, 3, (5, 6, 19)).astype(dtype)
    for view in (array, array[::-1, :, ::-1], array.transpose(2, 0, 1), array[:, ::2, 3:]):
        expected = view != 0 if label is None else view == label
        packed = pack(view, label)
        assert packed.shape == (*view.shape[:2], -(-view.shape[2] // 8))
        bits = np.unpackbits(packed, axis=-1, bitorder="little")
        np.testing.assert_array_equal(bits[..., : view.shape[2]], expected)
        assert not bits[..., view.shape[2] :].any()


def test_box_holds_all_that_is_set_and_no_more():
    first, second = np.zeros((7, 9, 40), bool), np.zeros((7, 9, 40), bool)
    first[2, 3, 17] = second[4, 8, 25] = True
    packed = pack(first), pack(second)
    assert occupied_box(*packed) == (slice(2, 5), slice(3, 9), slice(2, 4))
    assert occupied_box(pack(np.zeros((2, 2, 9), bool))) is None


def test_memory_order_puts_axes_of_one_first():
    array = np.zeros((4, 1, 5, 6)[1:])
    assert memory_order(np.zeros((4, 5, 6))) == (0, 1, 2)
    assert memory_order(np.zeros((4, 5, 6), order="F")) == (2, 1, 0)
    assert memory_order(np.zeros((4, 5, 1))) == (2, 0, 1)
    assert memory_order(array[:, :, ::-1]) == (0, 1, 2)


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 4, 5, 12, 13, 14, 40, 63, 64, 65, 130, 300])
def test_widening_leaves_no_hole(bits):
    string = np.zeros(12, np.uint64)
    string[5] = 1 << 20
    places = np.unpackbits(widen(string, bits).view(np.uint8), bitorder="little")
    centre = 5 * 64 + 20
    expected = np.zeros(12 * 64, np.uint8)
    expected[centre - bits : centre + bits + 1] = 1
    np.testing.assert_array_equal(places, expected)
    base = widen(string, min(bits, 4))
    again = widen(base, bits, done=min(bits, 4))
    np.testing.assert_array_equal(again, widen(string, bits))


def test_shifts_carry_into_the_next_word():
    string = np.array([1 << 63, 0, 1], np.uint64)
    np.testing.assert_array_equal(shift_up(string, 2), np.array([0, 2, 4], np.uint64))
    np.testing.assert_array_equal(shift_down(string, 1), np.array([1 << 62, 1 << 63, 0], np.uint64))


def test_rows_are_farther_apart_than_the_reach():
    full = np.ones((3, 4, 60), bool)
    string = BitString.around((3, 4, 60), (1, 2, 5))
    words = string.lay(pack(full))
    assert count_bits(words) == full.size
    # Beyond 60 voxels and their last corner there is room for a shift by 5.
    assert (string.slabs, string.rows, string.row_words) == (3 + 2, 4 + 3, 2)
    bits = np.unpackbits(string.bytes(words), axis=-1, bitorder="little")
    assert bits[:3, :4, :60].all()
    assert bits.sum() == full.size
