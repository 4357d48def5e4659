"""A fingerprint of voxels' values, for finding one image stored in two files.

File bytes differ where compression, container dtype or header differ; the values do not. Only
equal values give equal hashes: a copy that was rescaled, resampled or stored with loss does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from covidseg.imaging.casting import slabs
from covidseg.imaging.resample import reorient
from covidseg.imaging.volume import Volume


def content_hash(image: Volume | NDArray[Any]) -> str:
    """32 hexadecimal digits (XXH3, 128 bits) of an array's shape and values in index order.

    Values are hashed as int16 where all of them are whole numbers within its range, otherwise as
    float32, so the dtype they are held in does not matter. The affine is left out.
    """
    data = image.data if isinstance(image, Volume) else np.asarray(image)
    whole = _fits_int16(data)
    digest = xxhash.xxh3_128()
    digest.update(f"{'int16' if whole else 'float32'} {tuple(data.shape)}".encode())
    for part in slabs(data.shape):
        with np.errstate(over="ignore"):
            values = data[..., part].astype("<i2" if whole else "<f4", copy=not whole)
        if not whole:
            values += np.float32(0)  # one zero instead of 0 and -0
            if np.isnan(values.min()):
                values[np.isnan(values)] = np.nan  # one NaN instead of many
        digest.update(np.ascontiguousarray(values.T).data)
    return digest.hexdigest()


def oriented_content_hash(volume: Volume) -> str:
    """`content_hash` after reorienting to RAS: equal for one image stored with flipped axes."""
    return content_hash(reorient(volume, "RAS"))


def values_hash(image: Volume | NDArray[Any]) -> str:
    """32 hexadecimal digits (XXH3, 128 bits) of which values an array has how often.

    Equal for one image however its axes are turned, mirrored or exchanged, also where the affine
    was lost on the way and `oriented_content_hash` cannot know. Two scans of one machine do not
    have equal histograms over some hundred thousand voxels by chance.
    """
    data = image.data if isinstance(image, Volume) else np.asarray(image)
    digest = xxhash.xxh3_128()
    if _fits_int16(data):
        digest.update(f"int16 {sorted(data.shape)}".encode())
        counts = np.zeros(1 << 16, np.int64)
        for part in slabs(data.shape):
            values = data[..., part].ravel().astype(np.int64)
            counts += np.bincount(values + (1 << 15), minlength=1 << 16)
        digest.update(counts.data)
    else:
        digest.update(f"float32 {sorted(data.shape)}".encode())
        with np.errstate(over="ignore"):
            values, counts = np.unique(data.astype(np.float32) + np.float32(0), return_counts=True)
        values[np.isnan(values)] = np.nan
        digest.update(values.data)
        digest.update(counts.astype(np.int64).data)
    return digest.hexdigest()


def _fits_int16(data: NDArray[Any]) -> bool:
    info = np.iinfo(np.int16)
    if data.dtype.kind == "b" or np.can_cast(data.dtype, np.int16, "safe"):
        return True
    for part in slabs(data.shape):
        values = data[..., part]
        # Written so that NaN fails.
        if not (values.min() >= info.min and values.max() <= info.max):
            return False
        if data.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
            return False
    return True
