"""What anatomy says of a label map that no window of it can know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from covidseg.imaging.intensity import hu_to_window
from covidseg.imaging.lungs import AIR_HU, surrounding_air
from covidseg.imaging.volume import Volume
from covidseg.registry.cases import Intensity

# A piece smaller than this share of the largest is never preferred to it.
_RIVAL_SHARE = 0.1


def lungs_in_one_piece(
    labels: Volume, values: Sequence[int], scan: Volume, intensity: Intensity
) -> Volume:
    """`in_one_piece` for a scan's label map, which tells a lung from the air around the patient."""

    def elsewhere() -> NDArray[np.bool_]:
        limit = AIR_HU
        if intensity.scale == "windowed":
            assert intensity.window_hu is not None
            limit = float(hu_to_window(np.array(AIR_HU), intensity.window_hu))
        return surrounding_air(scan.data < limit, axial=int(np.abs(scan.affine[2, :3]).argmax()))

    of_ct = intensity.scale != "picture"
    return labels.with_data(in_one_piece(labels.data, values, elsewhere if of_ct else None))


def in_one_piece(
    labels: NDArray[np.uint8],
    values: Sequence[int],
    elsewhere: Callable[[], NDArray[np.bool_]] | None = None,
) -> NDArray[np.uint8]:
    """Labels of which, for each of ``values``, the largest connected piece alone is left.

    A lung is in one piece; what looks like it in the stomach or under the table is not. Voxels are
    connected by their faces; those of smaller pieces become background (0). Of pieces of one size
    the first in the array's order stays. ``labels`` is not changed.

    ``elsewhere`` gives voxels that do not count in a piece's size, bool of the labels' shape: air
    around the patient, of which a poor network may find more than there is lung. It is asked for
    only where a second piece has at least a tenth of the largest one's voxels.
    """
    from scipy import ndimage

    kept = labels.copy()
    outside: NDArray[np.bool_] | None = None
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if value not in values or box is None:
            continue
        inside = labels[box] == value
        pieces, count = ndimage.label(inside)
        if count < 2:
            continue
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        rivals = sizes >= _RIVAL_SHARE * sizes.max()
        if elsewhere is not None and rivals.sum() > 1:
            if outside is None:
                outside = elsewhere()
            counted = np.bincount(pieces[~outside[box]], minlength=count + 1)
            if counted[rivals].any():
                sizes = counted * rivals
        kept[box][inside & (pieces != int(sizes.argmax()))] = 0
    return kept
