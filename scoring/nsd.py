"""The surfaces of two masks, and how much of each lies within a tolerance of the other.

The definition is DeepMind's (S. Nikolov et al., J Med Internet Res 23(7):e26151, 2021; package
``surface-distance``): a surface is a set of surface elements at the corners between voxels, each
with an area (`covidseg.scoring.surface_elements`); an element is within tolerance if the distance
from its corner to the nearest corner that holds an element of the other surface is at most the
tolerance; and the normalised surface Dice is the area within tolerance over all area, of both
surfaces together.

Only "at most the tolerance" is asked, so no distance is ever computed. The masks are strings of
bits (`covidseg.scoring.packing`):

1. Corners with an element: OR over the 2×2×2 voxels around them and not AND over them.
2. Corners that both surfaces hold are within any tolerance. For the others, offset by offset from
   the nearest on: row offset ``(d0, d1)`` reaches ``h`` bits along the row, so the other surface
   is widened by ``h`` along the rows and looked up at that offset, only in the words that hold an
   unmatched corner still. The list of such words shrinks quickly.
3. The eight voxels around an element are an 8-bit code. Codes are counted for all elements and for
   those without a match; areas enter as 256 numbers at the very end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from covidseg.scoring.packing import WORD, BitString, count_bits, shift_up, widen
from covidseg.scoring.surface_elements import element_areas

_CODE_BLOCK = 1 << 15  # neighbourhood bytes treated at once: 256 kB, which stay in the cache
_ROUNDING = 1e-12  # distances this close, as a share of them, differ by rounding alone
_PAIRS_FROM = 1 << 16  # from this many codes on, counting them in pairs is faster


@dataclass(frozen=True)
class Overlap:
    """What a single pass over two masks of one label gives.

    ``voxels_*`` are counts; ``nsd`` holds one value a tolerance, NaN where a mask is empty.
    """

    voxels_prediction: int
    voxels_reference: int
    voxels_common: int
    nsd: tuple[float, ...]


def compare_packed(
    prediction: np.ndarray,
    reference: np.ndarray,
    axes: tuple[int, ...],
    spacing_mm: Sequence[float],
    tolerances_mm: Sequence[float],
) -> Overlap:
    """Count and compare two packed masks of the same box.

    Parameters
    ----------
    prediction, reference
        uint8, shape ``(slabs, rows, bytes)``, from `covidseg.scoring.packing.pack`.
    axes
        Which axis of the image slabs, rows and bits are; two entries (rows, bits) for a picture.
    spacing_mm
        Voxel size along the axes of the image.
    tolerances_mm
        Tolerances in any order.
    """
    steps = tuple(float(step) for step in spacing_mm)
    shape = (prediction.shape[0], prediction.shape[1], prediction.shape[2] * 8)
    ordered = sorted(set(tolerances_mm))
    searches = [searches_at(tolerance, steps, axes, shape) for tolerance in ordered]
    reach = np.max([(0, 0, 0), *(widest.reach for _, widest in searches)], axis=0)
    string = BitString.around(shape, tuple(reach.tolist()))
    ours, theirs = string.lay(prediction), string.lay(reference)
    volumes = count_bits(ours), count_bits(theirs), count_bits(ours & theirs)
    if not ordered or not volumes[0] or not volumes[1]:
        return Overlap(*volumes, (float("nan"),) * len(tolerances_mm))
    if volumes[0] == volumes[1] == volumes[2]:
        return Overlap(*volumes, (1.0,) * len(tolerances_mm))

    surfaces = [Surface(mask, string, len(axes)) for mask in (ours, theirs)]
    elements = np.sum([surface.count_elements() for surface in surfaces], axis=0)
    missed = {tolerance: np.zeros_like(elements) for tolerance in ordered}
    for surface, other in (surfaces, surfaces[::-1]):
        unmatched = Unmatched(surface, other)
        for tolerance, (certain, widest) in zip(ordered, searches, strict=True):
            unmatched.drop(certain)
            if widest is not certain and unmatched.would_drop(widest):
                unmatched.drop_measured(tolerance, steps, axes, shape)
            missed[tolerance] += unmatched.count_elements()
    areas = element_areas(tuple(steps[axis] for axis in axes))
    return Overlap(
        *volumes,
        # Whole numbers until here: all missed is exactly 0, none missed exactly 1.
        tuple(_area(elements - missed[t], areas) / _area(elements, areas) for t in tolerances_mm),
    )


@dataclass(frozen=True)
class Search:
    """The offsets between two corners at most a tolerance apart.

    Entry ``n`` stands for ``(slabs[n], rows[n])`` with every offset along the row from
    ``-bits[n]`` to ``+bits[n]``; nearest first, so ``bits`` falls.
    """

    slabs: np.ndarray
    rows: np.ndarray
    bits: np.ndarray

    @classmethod
    def within(
        cls,
        tolerance_mm: float,
        spacing_mm: tuple[float, ...],
        axes: tuple[int, ...],
        far: tuple[int, ...],
    ) -> Search:
        """All offsets of at most ``far`` slabs, rows and bits (rows and bits in a picture).

        The distance is computed in float64 and with the axes of the image in their order, as
        scipy's distance transform does: ``0.3 * 10 <= 3`` is decided by the last bit.
        """
        steps = tuple(spacing_mm[axis] for axis in axes)
        if len(axes) == 2:
            axes, steps, far = (-1, *axes), (0.0, *steps), (0, *far)
        slabs, rows = (grid.ravel() for grid in np.mgrid[0 : far[0] + 1, 0 : far[1] + 1])
        offsets = [slabs, rows, np.zeros_like(rows)]
        in_image_order = np.argsort(axes)

        def reached(bits: np.ndarray) -> np.ndarray:
            offsets[2] = bits
            squares = [(offsets[k] * steps[k]) ** 2 for k in in_image_order]
            return np.sqrt((squares[0] + squares[1]) + squares[2]) <= tolerance_mm

        left_mm2 = tolerance_mm**2 - (slabs * steps[0]) ** 2 - (rows * steps[1]) ** 2
        bits = np.where(left_mm2 < 0, -1, np.sqrt(np.maximum(left_mm2, 0)) // steps[2])
        bits = np.minimum(bits, far[2]).astype(np.int64)
        while (more := reached(bits + 1) & (bits < far[2])).any():
            bits += more
        while (fewer := (bits >= 0) & ~reached(bits)).any():
            bits -= fewer

        inside = bits >= 0
        slabs, rows, bits, left_mm2 = slabs[inside], rows[inside], bits[inside], left_mm2[inside]
        signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
        # A coordinate of 0 has no mirror image.
        kept = [((slabs > 0) | (a > 0)) & ((rows > 0) | (b > 0)) for a, b in signs]
        pairs = list(zip(kept, signs, strict=True))
        slabs, rows, bits, left_mm2 = (
            np.concatenate([slabs[keep] * a for keep, (a, _) in pairs]),
            np.concatenate([rows[keep] * b for keep, (_, b) in pairs]),
            np.concatenate([bits[keep] for keep, _ in pairs]),
            np.concatenate([left_mm2[keep] for keep, _ in pairs]),
        )
        nearest_first = np.lexsort((-left_mm2, -bits))
        return cls(slabs[nearest_first], rows[nearest_first], bits[nearest_first])

    @property
    def reach(self) -> tuple[int, int, int]:
        """Farthest offset along each axis."""
        return int(self.slabs.max()), int(self.rows.max()), int(self.bits.max())

    @property
    def offsets(self) -> int:
        """Number of offsets between corners."""
        return int((2 * self.bits + 1).sum())


def searches_at(
    tolerance_mm: float,
    spacing_mm: tuple[float, ...],
    axes: tuple[int, ...],
    shape: tuple[int, int, int],
) -> tuple[Search, Search]:
    """The offsets in a box of ``shape`` voxels that are certainly within a tolerance, or may be.

    They are one and the same object unless the tolerance falls among distances that are equal on
    paper and not in float64: at a spacing of 0.3 mm, (3, 0, 0) and (1, 2, 2) are both 0.9 mm, of
    which ``3 * 0.3`` includes the first alone. Which of two such neighbours is *the* nearest is
    then up to scipy's distance transform, and with it the result of ``surface-distance``.
    """
    far = tuple(
        int(min(size, tolerance_mm // spacing_mm[axis] + 1))
        for size, axis in zip(shape[-len(axes) :], axes, strict=True)
    )
    return _searches(tolerance_mm, spacing_mm, axes, far)


# Kept for the next label and the next case: scans of one scanner share their spacing.
@lru_cache(maxsize=64)
def _searches(
    tolerance_mm: float,
    spacing_mm: tuple[float, ...],
    axes: tuple[int, ...],
    far: tuple[int, ...],
) -> tuple[Search, Search]:
    exact, narrow, wide = (
        Search.within(tolerance_mm * factor, spacing_mm, axes, far)
        for factor in (1, 1 - _ROUNDING, 1 + _ROUNDING)
    )
    if narrow.offsets < exact.offsets < wide.offsets:
        return narrow, wide
    return exact, exact


class Surface:
    """The corners of a mask that hold a surface element, and the voxels around them."""

    def __init__(self, mask: np.ndarray, string: BitString, dimensions: int) -> None:
        self.string = string
        self._dimensions = dimensions
        # The voxels before and after a corner along the row.
        self._before, self._after = shift_up(mask, 1), mask
        some, every = self._before | mask, self._before & mask
        for stride in (string.row_words, string.slab_words)[: dimensions - 1]:
            some, every = _join(np.bitwise_or, some, stride), _join(np.bitwise_and, every, stride)
        np.invert(every, out=every)
        some &= every
        self.corners = some

    def count_elements(self) -> np.ndarray:
        """How many elements there are of each neighbour code; int64, 256 (16 in a picture)."""
        return self.count_codes(np.flatnonzero(self.corners.view(np.uint8) != 0))

    def count_codes(self, places: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """Neighbour codes of the eight corners in each of the bytes ``places`` of the string.

        ``chosen``, a byte for each place, has the corners that count; all where it is ``None``.
        Codes of corners without an element (nothing or everything around them) are not counted.
        """
        before, after = self._before.view(np.uint8), self._after.view(np.uint8)
        row, slab = self.string.row_words * 8, self.string.slab_words * 8
        counts = np.zeros(256, np.int64)
        # A place before the first byte is negative and so read from the end: the circle's gap.
        for first in range(0, len(places), _CODE_BLOCK):
            block = places[first : first + _CODE_BLOCK]
            planes = np.zeros((len(block), 8), np.uint8)
            if self._dimensions == 3:
                lines = [block - slab - row, block - slab, block - row, block]
            else:
                lines = [block - row, block]
            for number, line in enumerate(lines):
                planes[:, 2 * number] = before[line]
                planes[:, 2 * number + 1] = after[line]
            codes = _transpose_bits(planes.view(WORD).ravel())
            if chosen is not None:
                codes &= _BYTE_PER_BIT[chosen[first : first + _CODE_BLOCK]]
            counts += _count_bytes(codes)
        counts = counts[: 1 << 2**self._dimensions]
        counts[[0, -1]] = 0
        return counts


class Unmatched:
    """The corners of one surface for which no corner of the other has been found yet."""

    def __init__(self, surface: Surface, other: Surface) -> None:
        self._surface = surface
        self._string = surface.string
        self._widened = {0: other.corners}
        # Until the first search all words; after it those with an unmatched corner, by place.
        self._all = True
        self._places = np.empty(0, np.intp)
        self._bits = surface.corners

    def drop(self, search: Search) -> None:
        """Drop the corners that have a corner of the other surface at one of the offsets."""
        self._places, self._bits = self._left_by(search)
        self._all = False

    def would_drop(self, search: Search) -> bool:
        """Whether `drop` would find any."""
        return count_bits(self._left_by(search)[1]) < count_bits(self._bits)

    def drop_measured(
        self,
        tolerance_mm: float,
        spacing_mm: Sequence[float],
        axes: tuple[int, ...],
        shape: tuple[int, int, int],
    ) -> None:
        """Drop the corners whose distance to the other surface, from scipy, is within tolerance."""
        from scipy.ndimage import distance_transform_edt

        slabs, rows, bits = (size + 1 for size in shape)
        surface = np.unpackbits(
            self._string.bytes(self._widened[0])[:slabs, :rows],
            axis=-1,
            count=bits,
            bitorder="little",
        ).astype(bool)
        picture = len(axes) == 2
        image = (surface[0] if picture else surface).transpose(np.argsort(axes))
        beyond = distance_transform_edt(~image, sampling=spacing_mm) > tolerance_mm
        beyond = beyond.transpose(axes)[None] if picture else beyond.transpose(axes)
        left = self._string.lay(np.packbits(beyond, axis=-1, bitorder="little"))
        self._bits = self._bits & left[self._places]

    def _left_by(self, search: Search) -> tuple[np.ndarray, np.ndarray]:
        string, places, left = self._string, self._places, self._bits
        moves = search.slabs * string.slab_words + search.rows * string.row_words
        width = int(search.bits[0])
        wide = self._widen(width)
        if self._all:
            # The first offset is none, and matches most: all words at once.
            unmatched = ~wide
            unmatched &= left
            places = np.flatnonzero(unmatched != 0)
            left = unmatched[places]
        for move, bits in zip(moves.tolist(), search.bits.tolist(), strict=True):
            if not len(places):
                break
            if bits != width:
                width, wide = bits, self._widen(bits)
            left = left & ~wide[places + move]
            some = left != 0
            places, left = places[some], left[some]
        return places, left

    def _widen(self, bits: int) -> np.ndarray:
        """The other surface widened along the rows; made from the next narrower one kept."""
        base = max(width for width in self._widened if width <= bits)
        while 3 * base + 1 <= bits:
            self._widened[3 * base + 1] = widen(self._widened[base], 3 * base + 1, done=base)
            base = 3 * base + 1
        return widen(self._widened[base], bits, done=base)

    def count_elements(self) -> np.ndarray:
        """How many elements of each neighbour code have no match."""
        chosen = self._bits.view(np.uint8)
        found = np.flatnonzero(chosen)
        places = self._places[found >> 3] * 8 + (found & 7)
        return self._surface.count_codes(places, chosen[found])


def _area(elements: np.ndarray, areas: np.ndarray) -> float:
    """Area of elements counted by code; rounded once, so that no order of codes changes it."""
    return math.fsum((elements * areas).tolist())


def _join(join: np.ufunc, words: np.ndarray, stride: int) -> np.ndarray:
    """``join`` each word with the one ``stride`` words before it, round the circle."""
    joined = np.empty_like(words)
    join(words[stride:], words[:-stride], out=joined[stride:])
    join(words[:stride], words[-stride:], out=joined[:stride])
    return joined


def _transpose_bits(words: np.ndarray) -> np.ndarray:
    """Bit ``b`` of byte ``a`` becomes bit ``a`` of byte ``b`` in every word; in place.

    Source: H. S. Warren, Hacker's Delight, 2nd edition, section 7-3.
    """
    for distance, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0xF0F0F0F0)):
        swapped = words >> WORD.type(distance)
        swapped ^= words
        swapped &= WORD.type(mask)
        words ^= swapped
        swapped <<= WORD.type(distance)
        words ^= swapped
    return words


# Bit b of the index becomes byte b of the entry, 0 or 255.
_BYTE_PER_BIT = (
    (np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") * 255)
    .view(WORD)
    .ravel()
)


def _count_bytes(words: np.ndarray) -> np.ndarray:
    """How often each of the 256 bytes occurs."""
    if words.nbytes < _PAIRS_FROM:
        return np.bincount(words.view(np.uint8), minlength=256)
    pairs = np.bincount(words.view("<u2"), minlength=1 << 16).reshape(256, 256)
    return pairs.sum(axis=0) + pairs.sum(axis=1)
