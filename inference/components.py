"""What anatomy says of a label map that no window of it can know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def in_one_piece(labels: NDArray[np.uint8], values: Sequence[int]) -> NDArray[np.uint8]:
    """Labels of which, for each of ``values``, the largest connected piece alone is left.

    A lung is in one piece; what looks like it in the stomach or under the table is not. Voxels are
    connected by their faces; those of smaller pieces become background (0). Of pieces of one size
    the first in the array's order stays. ``labels`` is not changed.
    """
    from scipy import ndimage

    kept = labels.copy()
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if value not in values or box is None:
            continue
        inside = labels[box] == value
        pieces, count = ndimage.label(inside)
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            largest = 1 + int(sizes[1:].argmax())
            kept[box][inside & (pieces != largest)] = 0
    return kept
