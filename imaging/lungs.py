"""Aerated lungs of a chest CT by a rule: air inside the body.

For what needs to know where lungs are and not where they end: what is consolidated as far as the
chest wall is missed, and the large airways are not told from the lungs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from covidseg.imaging.components import bounding_box, component_sizes, label_components

# Between lung and soft tissue; the usual threshold of lung segmentation.
_AIR_HU = -400.0
# Pieces smaller than this share of the largest are bowel, airways, or noise.
_LEAST_SHARE = 0.1
# Less is no lung but gas in the bowel, which is what is left where the lungs leak to the outside.
_LEAST_ML = 300.0
# Vessels and small lesions within are lung as well.
_CLOSING_MM = 3.0


def aerated_lungs(hu: NDArray[np.floating | np.integer], spacing_mm: tuple[float, ...]) -> NDArray:
    """The lungs of a scan, vessels within them included.

    Parameters
    ----------
    hu
        (X, Y, Z), Hounsfield units, Z from foot to head or back.
    spacing_mm
        Of those axes.

    Returns
    -------
    lungs
        (X, Y, Z) bool; all False where too little air for lungs is inside the body.
    """
    pieces, count = label_components(hu < _AIR_HU, 6)
    sizes = component_sizes(pieces, count)
    # What reaches the picture's edge in plane is around the patient. The first and last slice are
    # no edge: scans often end within the lungs.
    sizes[np.unique(np.concatenate([pieces[[0, -1]].ravel(), pieces[:, [0, -1]].ravel()]))] = 0
    sizes[0] = 0
    kept = sizes >= max(1.0, _LEAST_SHARE * sizes.max())
    if sizes[kept].sum() * np.prod(spacing_mm) < 1000 * _LEAST_ML:
        return np.zeros(hu.shape, bool)
    lungs = kept[pieces]
    # A closing adds nothing beyond the box around what is closed.
    box = bounding_box(lungs)
    if box is not None:
        lungs[box] = _closed(lungs[box], spacing_mm)
    return lungs


def _closed(mask: NDArray, spacing_mm: tuple[float, ...]) -> NDArray:
    """Closing slice by slice by a disc; slices lie too far apart for a ball."""
    reach = [max(1, round(_CLOSING_MM / step)) for step in spacing_mm[:2]]
    x, y = np.ogrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    disc = (x / (reach[0] + 0.5)) ** 2 + (y / (reach[1] + 0.5)) ** 2 <= 1
    margin = [(r, r) for r in reach] + [(0, 0)]
    wide = np.pad(mask, margin)
    closed = ndimage.binary_closing(wide, disc[:, :, None])
    return closed[reach[0] : -reach[0], reach[1] : -reach[1]]
