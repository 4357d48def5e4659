"""Masks as bits: packed from label maps, cropped, and laid out as one circular string of bits.

A chest CT of 512×512×300 voxels is 10 MB as bits. On bits a processor treats 64 voxels at once, and
what scoring needs (neighbours, dilations, counts) is shifts, ANDs and ORs of whole arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WORD = np.dtype("<u8")
WORD_BITS = 64
_CHUNK_VOXELS = 1 << 18  # compared and packed at once: the intermediate stays in the cache


def memory_order(array: np.ndarray) -> tuple[int, ...]:
    """Axes from the slowest to the fastest in memory.

    Axes of size one have strides that mean nothing and come first.
    """
    return tuple(
        sorted(
            range(array.ndim), key=lambda axis: (array.shape[axis] > 1, -abs(array.strides[axis]))
        )
    )


def pack(voxels: np.ndarray, label: int | None = None) -> np.ndarray:
    """Pack one label of a label map, or everything that is not zero, along the last axis.

    Parameters
    ----------
    voxels
        Booleans or integers, shape ``(n0, n1, n2)``.
    label
        The value to look for; ``None`` for all values but zero.

    Returns
    -------
    numpy.ndarray
        uint8, shape ``(n0, n1, ceil(n2 / 8))``; voxel ``k`` of a row is bit ``k % 8`` of byte
        ``k // 8``, and the bits behind a row's end are zero.
    """
    if label is None and voxels.itemsize == 1 and voxels.strides[-1] == 1:
        return np.packbits(voxels, axis=-1, bitorder="little")
    slabs, rows, columns = voxels.shape
    packed = np.empty((slabs, rows, -(-columns // 8)), np.uint8)
    step = max(1, _CHUNK_VOXELS // max(1, rows * columns))
    found = np.empty((min(step, slabs), rows, columns), bool)
    for first in range(0, slabs, step):
        chunk = voxels[first : first + step]
        hit = found[: len(chunk)]
        if label is None:
            np.not_equal(chunk, 0, out=hit)
        else:
            np.equal(chunk, label, out=hit)
        packed[first : first + step] = np.packbits(hit, axis=-1, bitorder="little")
    return packed


Box = tuple[slice, slice, slice]


def occupied_box(*packed: np.ndarray) -> Box | None:
    """Smallest box of slabs, rows and bytes that holds all bits set in any of ``packed``.

    ``None`` where no bit is set.
    """
    slabs = np.any([mask.max(axis=(1, 2), initial=0) for mask in packed], axis=0)
    if not slabs.any():
        return None
    flat = packed[0][_extent(slabs)]
    plane = np.bitwise_or.reduce(flat, axis=0)
    for mask in packed[1:]:
        plane |= np.bitwise_or.reduce(mask[_extent(slabs)], axis=0)
    return _extent(slabs), _extent(plane.any(axis=1)), _extent(plane.any(axis=0))


def _extent(occupied: np.ndarray) -> slice:
    places = np.flatnonzero(occupied)
    return slice(int(places[0]), int(places[-1]) + 1)


def count_bits(words: np.ndarray) -> int:
    """Number of bits that are set in an array of words or bytes."""
    flat = np.ascontiguousarray(words).reshape(-1).view(np.uint8)
    whole = len(flat) // WORD.itemsize * WORD.itemsize
    return sum(
        int(np.bitwise_count(part).sum(dtype=np.int64))
        for part in (flat[:whole].view(WORD), flat[whole:])
    )


@dataclass(frozen=True)
class BitString:
    """How a box of bits lies in a one-dimensional array of 64-bit words.

    Every row is followed by zero bits, every slab by zero rows, the whole by zero slabs: gaps at
    least as wide as the farthest shift. So the array can be read as circular, a shift along any
    axis is a shift of the whole array by a fixed number of bits, and what it moves over an edge of
    the box meets zeros instead of another row.

    The points between voxels (see `covidseg.scoring.surface_elements`) are kept in the same places:
    bit ``(i, j, k)`` is the corner shared by voxels ``(i-1 .. i, j-1 .. j, k-1 .. k)``.
    """

    slabs: int
    rows: int
    row_words: int

    @classmethod
    def around(cls, shape: tuple[int, int, int], reach: tuple[int, int, int]) -> BitString:
        """For the corners of a box of ``shape`` voxels and shifts of at most ``reach``."""
        slabs, rows, bits = (size + 1 + far for size, far in zip(shape, reach, strict=True))
        return cls(slabs, rows, -(-bits // WORD_BITS))

    @property
    def slab_words(self) -> int:
        return self.rows * self.row_words

    @property
    def words(self) -> int:
        return self.slabs * self.slab_words

    def lay(self, packed: np.ndarray) -> np.ndarray:
        """The string of a packed mask, as 64-bit words."""
        string = np.zeros((self.slabs, self.rows, self.row_words * 8), np.uint8)
        slabs, rows, row_bytes = packed.shape
        string[:slabs, :rows, :row_bytes] = packed
        return string.reshape(-1).view(WORD)

    def bytes(self, words: np.ndarray) -> np.ndarray:
        """The string as bytes of shape (slabs, rows, bytes), gaps included."""
        return words.view(np.uint8).reshape(self.slabs, self.rows, -1)


def shift_up(words: np.ndarray, bits: int) -> np.ndarray:
    """Move every bit of a string ``bits`` (1 to 63) places further."""
    moved = words << WORD.type(bits)
    moved[1:] |= words[:-1] >> WORD.type(WORD_BITS - bits)
    return moved


def shift_down(words: np.ndarray, bits: int) -> np.ndarray:
    """Move every bit of a string ``bits`` (1 to 63) places back."""
    moved = words >> WORD.type(bits)
    moved[:-1] |= words[1:] << WORD.type(WORD_BITS - bits)
    return moved


def widen(words: np.ndarray, bits: int, done: int = 0) -> np.ndarray:
    """Set every bit that lies within ``bits`` places of a bit set in the original string.

    ``words`` is that original widened by ``done`` already. A string widened by ``w`` and its
    copies moved by up to ``2 w + 1`` leave no hole, so the steps treble.
    """
    while done < bits:
        step = min(2 * done + 1, bits - done, WORD_BITS - 1)
        wider = shift_up(words, step)
        wider |= words
        wider |= shift_down(words, step)
        words = wider
        done += step
    return words
