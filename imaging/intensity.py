"""Intensity scales: Hounsfield units, windows of them, and telling which one an array is on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from covidseg.core.errors import ConfigError
from covidseg.imaging.casting import slabs

Scale = Literal["hu", "windowed", "offset", "unit", "labels", "constant", "unknown"]
# A label map has no more classes than this; a picture of a chest has brighter greys.
_MOST_LABELS = 20


def hu_to_window(data: NDArray[Any], window_hu: tuple[float, float]) -> NDArray[np.float32]:
    """Clip Hounsfield units to ``(low, high)`` and map them linearly to [0, 255], float32."""
    low, high = _checked(window_hu)
    result = np.empty_like(data, dtype=np.float32)
    np.subtract(data, np.float32(low), out=result, casting="unsafe")
    result *= np.float32(255 / (high - low))
    np.clip(result, 0, 255, out=result)
    return result


def window_to_hu(data: NDArray[Any], window_hu: tuple[float, float]) -> NDArray[np.float32]:
    """Map [0, 255] back to ``(low, high)`` HU, float32: ``v / 255 * (high - low) + low``.

    What was clipped when the window was applied stays at its ends.
    """
    low, high = _checked(window_hu)
    result = np.empty_like(data, dtype=np.float32)
    np.multiply(data, np.float32((high - low) / 255), out=result, casting="unsafe")
    result += np.float32(low)
    return result


def lung_and_tissue(picture: NDArray[Any]) -> tuple[float, float] | None:
    """Greys of aerated lung and of soft tissue in an 8-bit picture of a chest, whatever its window.

    Otsu's threshold parts dark from bright. Lung is the tenth percentile of what is dark, which
    stays low while some of the lung is aerated; tissue is the median of what is bright. None for a
    picture of one grey.

    Parameters
    ----------
    picture
        Of any shape and dtype; values in [0, 255], rounded.
    """
    greys = np.rint(picture).clip(0, 255).astype(np.uint8)
    counts = np.bincount(greys.ravel(), minlength=256)
    if np.count_nonzero(counts) < 2:
        return None
    dark = greys <= otsu_threshold(counts)
    return float(np.percentile(greys[dark], 10)), float(np.median(greys[~dark]))


def otsu_threshold(counts: NDArray[np.integer]) -> int:
    """The last bin of the darker of two classes, chosen so that they differ most.

    ``counts`` (n,) is a histogram with at least two bins that are not empty. Otsu, IEEE Trans. SMC
    9, 1979.
    """
    below = counts.cumsum(dtype=np.float64)
    above = below[-1] - below
    sums = (counts * np.arange(len(counts))).cumsum(dtype=np.float64)
    # Variance between the classes, times a constant; where one is empty there is none.
    between = (sums[-1] * below - sums * below[-1]) ** 2 / np.maximum(below * above, 1)
    return int(between.argmax())


def _checked(window_hu: tuple[float, float]) -> tuple[float, float]:
    low, high = window_hu
    if not low < high:
        raise ConfigError(f"the window ({low}, {high}) is empty", expected="low below high, in HU")
    return float(low), float(high)


@dataclass(frozen=True)
class ScaleGuess:
    """A judgement of which scale values are on, and the reason in words.

    ``hu``: Hounsfield units. ``windowed``: [0, 255]. ``offset``: Hounsfield units plus about 1,000,
    as where a DICOM rescale intercept was lost. ``unit``: [0, 1]. ``labels``: the whole numbers of
    a label map. ``constant``: one value only. ``unknown``: none of these.
    """

    scale: Scale
    reason: str
    minimum: float
    maximum: float


def guess_scale(data: NDArray[Any]) -> ScaleGuess:
    """Judge the scale of a CT's values by their range; values that are not finite are left out."""
    low, high = finite_range(data)
    span = f"values from {low:g} to {high:g}"

    def judged(scale: Scale, reason: str) -> ScaleGuess:
        return ScaleGuess(scale, f"{span}: {reason}", low, high)

    if low > high:
        return ScaleGuess("unknown", "no finite value", float("nan"), float("nan"))
    if low == high:
        return judged("constant", "an empty image")
    if low >= -0.5 and high <= 255.5:
        if high <= 1:
            return judged("unit", "within [0, 1]")
        if high <= _MOST_LABELS and _whole_numbers(data):
            return judged("labels", "few whole numbers, as in a label map")
        return judged("windowed", "none below 0 and none above 255")
    if low <= -300 and high <= 40_000:
        return judged("hu", "air or lung lies far below 0, as in Hounsfield units")
    if low >= -50 and high > 600:
        return judged(
            "offset", "nothing is as dark as air in Hounsfield units; was a rescale of -1024 lost?"
        )
    return judged("unknown", "neither Hounsfield units of a chest nor [0, 255]")


def finite_range(data: NDArray[Any]) -> tuple[float, float]:
    """Least and greatest finite value; (inf, -inf) where there is none."""
    low, high = np.inf, -np.inf
    for part in slabs(data.shape):
        values = data[..., part]
        least, greatest = values.min(), values.max()
        if data.dtype.kind == "f" and not (np.isfinite(least) and np.isfinite(greatest)):
            values = values[np.isfinite(values)]
            if values.size == 0:
                continue
            least, greatest = values.min(), values.max()
        low, high = min(low, float(least)), max(high, float(greatest))
    return low, high


def _whole_numbers(data: NDArray[Any]) -> bool:
    parts = (data[..., part] for part in slabs(data.shape))
    return all(bool((np.rint(values) == values).all()) for values in parts)


def find_nonfinite(data: NDArray[Any]) -> str | None:
    """None where all values are finite; otherwise how many are not, and where the first one is."""
    if data.dtype.kind != "f":
        return None
    nan = infinite = 0
    first: tuple[int, ...] | None = None
    for part in slabs(data.shape):
        values = data[..., part]
        finite = np.isfinite(values)
        if finite.all():
            continue
        bad_nan = int(np.isnan(values).sum())
        nan += bad_nan
        infinite += int(finite.size - finite.sum()) - bad_nan
        if first is None:
            index = [int(i) for i in np.argwhere(~finite)[0]]
            first = (*index[:-1], index[-1] + part.start)
    if first is None:
        return None
    found = [f"{nan} NaN"] * bool(nan) + [f"{infinite} infinite"] * bool(infinite)
    return f"{' and '.join(found)} of {data.size} values, the first at voxel {first}"
