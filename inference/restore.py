"""From a network's probabilities back to the scan's own grid, and to a label map on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covidseg.imaging.geometry import orientation_change
from covidseg.imaging.resample import nearest_neighbour_axis, reorient
from covidseg.imaging.volume import Volume
from covidseg.inference.preprocessing import ORIENTATION, Prepared
from covidseg.inference.sliding import Slab

# Voxels (classes x planes x rows x columns) that one step of resampling takes: few enough to stay
# in a processor's cache.
_VOXELS_AT_ONCE = 1 << 21


def restore(slabs: Iterable[Slab], prepared: Prepared) -> Volume:
    """Resample probabilities onto the scan's grid, take the likeliest class: a uint8 label map.

    Probabilities are resampled, then decided; never the other way round, which would leave stairs.
    Slabs are consumed as they come, so memory is bounded by the label map and one slab.
    """
    labels: np.ndarray | None = None
    for slab in scan_planes(slabs, prepared):
        if labels is None:
            shape = upright_shape(prepared.scan_shape, prepared.scan_affine)
            labels = np.empty(shape, np.uint8)
        labels[slab.start : slab.stop] = likeliest(slab.probabilities).cpu().numpy()
    assert labels is not None
    return label_map(labels, prepared.scan_shape, prepared.scan_affine)


def likeliest(probabilities: Tensor) -> Tensor:
    """uint8 index of the greatest along the first axis, the first of equals."""
    # On CPUs ten times faster than argmax along a first axis.
    return probabilities.max(0).indices.to(torch.uint8)


def scan_planes(slabs: Iterable[Slab], prepared: Prepared) -> Iterator[Slab]:
    """Probabilities on the upright scan's own grid, a few planes at a time, in order.

    They are interpolated linearly, and by nearest neighbour across planes where nnU-Net would:
    where planes are the coarse axis of the network's grid or, if that has none, of the scan's.
    (Within planes it is linear always.) "Upright" is the scan's grid with its axes in the order
    and direction of `covidseg.inference.preprocessing.ORIENTATION`, as (Z, Y, X).
    """
    grid = _Grid(prepared)
    done = 0
    kept: Tensor | None = None
    for slab in slabs:
        planes = slab.probabilities
        first = slab.start
        if kept is not None:
            planes = torch.cat([kept, planes], dim=1)
            first -= 1
        ready = int(np.searchsorted(grid.upper, slab.stop))
        step = max(1, _VOXELS_AT_ONCE // (planes.shape[0] * grid.shape_zyx[1] * grid.shape_zyx[2]))
        for start in range(done, ready, step):
            part = slice(start, min(start + step, ready))
            yield Slab(part.start, part.stop, grid.resampled(planes, first, part))
        done = max(done, ready)
        kept = slab.probabilities[:, -1:].clone()


def upright_shape(scan_shape: tuple[int, int, int], scan_affine: NDArray) -> tuple[int, int, int]:
    """(Z, Y, X) of a scan that is turned upright."""
    z, y, x = _upright(scan_shape, scan_affine).shape[::-1]
    return z, y, x


def label_map(labels: NDArray[np.uint8], scan_shape: tuple, scan_affine: NDArray) -> Volume:
    """Upright labels (Z, Y, X) as a volume with the scan's own axes and affine."""
    # The way back is the way there inverted: of axes at exactly 45 degrees the orientation of the
    # upright grid need not lead to the scan's.
    change = orientation_change(scan_affine, ORIENTATION)
    data = labels.transpose(2, 1, 0).transpose(change[:, 0].astype(int))
    data = np.flip(data, tuple(axis for axis in range(3) if change[axis, 1] < 0))
    return Volume(np.ascontiguousarray(data), scan_affine)


def _upright(scan_shape: tuple, scan_affine: NDArray) -> Volume:
    # A stand-in of the scan's shape without its memory.
    return reorient(Volume(np.broadcast_to(np.uint8(0), scan_shape), scan_affine), ORIENTATION)


class _Grid:
    """The upright scan's grid in coordinates of the network's grid."""

    def __init__(self, prepared: Prepared) -> None:
        upright = _upright(prepared.scan_shape, prepared.scan_affine)
        self.shape_zyx = upright.shape[::-1]
        size = prepared.image.shape
        to_network = np.linalg.inv(prepared.affine) @ upright.affine
        z, y, x = (
            np.clip(
                to_network[axis, axis] * np.arange(upright.shape[axis]) + to_network[axis, 3],
                0,
                size[2 - axis] - 1,
            )
            for axis in (2, 1, 0)
        )
        spacing = np.linalg.norm(prepared.affine[:3, :3], axis=0)
        if nearest_neighbour_axis(spacing, upright.spacing_mm) == 2:
            z = np.floor(z + 0.5)
        z = np.where(np.abs(z - np.rint(z)) < 1e-4, np.rint(z), z)
        self.lower = np.floor(z).astype(int)
        self.upper = np.ceil(z).astype(int)
        self.share = (z - self.lower).astype(np.float32)
        self.rows = _interpolation(y, size[1])
        self.columns = _interpolation(x, size[2])

    def resampled(self, planes: Tensor, first: int, part: slice) -> Tensor:
        """Probabilities of the scan's planes ``part`` from network planes starting at ``first``."""
        below = torch.from_numpy(self.lower[part] - first).to(planes.device)
        mixed = planes[:, below]
        if (self.share[part] > 0).any():
            above = torch.from_numpy(self.upper[part] - first).to(planes.device)
            weight = torch.from_numpy(self.share[part]).to(planes.device)[:, None, None]
            mixed = torch.lerp(mixed, planes[:, above], weight)
        if self.rows is not None:
            lower, upper, share = (part.to(planes.device) for part in self.rows)
            ends = mixed.index_select(2, lower), mixed.index_select(2, upper)
            mixed = torch.lerp(*ends, share[:, None])
        if self.columns is not None:
            lower, upper, share = (part.to(planes.device) for part in self.columns)
            # Along the last axis gathering is the faster way on CPUs.
            shape = (*mixed.shape[:3], len(lower))
            ends = mixed.gather(3, lower.expand(shape)), mixed.gather(3, upper.expand(shape))
            mixed = torch.lerp(*ends, share)
        return mixed


def _interpolation(coordinates: NDArray, size: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Lower and upper neighbour of each coordinate and the upper's share; None for the identity."""
    if len(coordinates) == size and np.abs(coordinates - np.arange(size)).max() < 1e-4:
        return None
    lower = np.floor(coordinates).astype(np.int64)
    share = (coordinates - lower).astype(np.float32)
    upper = np.minimum(lower + 1, size - 1)
    return torch.from_numpy(lower), torch.from_numpy(upper), torch.from_numpy(share)
