"""Air in a chest CT by a rule: around the body, or inside it, in the lungs.

For what needs to know where lungs are and not where they end: what is consolidated as far as the
chest wall is missed, and the large airways are not told from the lungs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from covidseg.imaging.components import bounding_box, component_sizes, label_components

# Between lung and soft tissue; the usual threshold of lung segmentation.
AIR_HU = -400.0
# Pieces smaller than this share of the largest are bowel, airways, or noise.
_LEAST_SHARE = 0.1
# Less is no lung but gas in the bowel, which is what is left where the lungs leak to the outside.
_LEAST_ML = 300.0
# Vessels and small lesions within are lung as well.
_CLOSING_MM = 3.0


def surrounding_air(air: NDArray[np.bool_], axial: int = 2) -> NDArray[np.bool_]:
    """The air around the patient: what reaches the pictures' edge.

    Parameters
    ----------
    air
        Voxels below `AIR_HU`, three axes.
    axial
        The axis from foot to head or back. The first and last slice along it are no edge: scans
        often end within the lungs.

    Returns
    -------
    numpy.ndarray
        bool, of the same shape. Lungs that a picture cuts are in it too.
    """
    pieces, count = label_components(air, 6)
    return _at_edge(pieces, count, axial)[pieces]


def _at_edge(pieces: NDArray[np.int32], count: int, axial: int) -> NDArray[np.bool_]:
    """Which of the numbered pieces (0 is none) reach an edge in plane."""
    reaches = np.zeros(count + 1, bool)
    for axis in range(3):
        if axis != axial:
            reaches[np.take(pieces, [0, -1], axis)] = True
    reaches[0] = False
    return reaches


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
    pieces, count = label_components(hu < AIR_HU, 6)
    sizes = component_sizes(pieces, count)
    sizes[_at_edge(pieces, count, axial=2)] = 0
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
