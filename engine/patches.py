"""Patches of cached cases: an endless data set in which sample ``i`` depends on ``i`` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from covidseg.core.errors import ConfigError
from covidseg.engine.cache import CachedCase
from covidseg.engine.seeds import derived_seed


class Patches:
    """Random patches of labelled cases, for `covidseg.engine.stream.Stream`.

    Parameters
    ----------
    cases
        From `covidseg.engine.cache.prepare`.
    size
        Voxels of a patch: (Z, Y, X), or (Y, X) for a 2D network, whose patches are of one plane.
    cut
        Voxels of what is cut out around each patch, whose middle it is: augmentation turns and
        zooms that (`covidseg.engine.augmentation.Augmentation.input_size`). None for the patch
        alone. Only the patch stays within the scan, so that a voxel at the edge is learnt from like
        any other; the cut reaches beyond, as nnU-Net's does.
    foreground_share
        Share of the patches that hold a voxel of a class chosen evenly among the case's classes;
        nnU-Net has one of two in 3D and a third in general. The others lie anywhere.
    pad_value
        What lies beyond a scan's edge; labels are 0 there.
    seed
        Of the choice of cases and places.
    by_source
        Choose a source first, all alike, then one of its cases, so that a large source does not
        drown a small one; otherwise all cases are alike.
    provenance
        What the run's manifest says of the data.

    A patch that holds a chosen voxel has it at a random place, not always at its centre, unless
    that would reach beyond the scan's edge.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        size: Sequence[int],
        *,
        cut: Sequence[int] | None = None,
        foreground_share: float = 1 / 3,
        pad_value: float,
        seed: int,
        by_source: bool = False,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        if not cases:
            raise ConfigError("there is no case to train on", remedy="check the split and the data")
        if not 0 <= foreground_share <= 1:
            raise ConfigError(f"foreground_share is {foreground_share}", expected="0 to 1")
        if len(size) not in (2, 3) or min(size) < 1:
            raise ConfigError(f"a patch of {tuple(size)} voxels")
        self.cases = list(cases)
        self.dimensions = len(size)
        cut = size if cut is None else cut
        if len(cut) != len(size) or any(c < s for c, s in zip(cut, size, strict=True)):
            raise ConfigError(f"a patch of {tuple(size)} voxels in a cut of {tuple(cut)}")
        self.size = tuple(size) if len(size) == 3 else (1, *size)
        self.cut = tuple(cut) if len(cut) == 3 else (1, *cut)
        self.share, self.pad_value, self.seed = foreground_share, pad_value, seed
        groups: dict[str, list[int]] = {}
        for number, case in enumerate(self.cases):
            groups.setdefault(case.source if by_source else "", []).append(number)
        self.groups = list(groups.values())
        # Read by the loop for the run's manifest.
        self.provenance = dict(provenance or {})

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.Generator(np.random.Philox(key=derived_seed(self.seed, index)))
        group = self.groups[int(rng.integers(len(self.groups)))]
        case = self.cases[group[int(rng.integers(len(group)))]]
        # Evenly: of any n patches in a row, n times the share, give or take one.
        wants_foreground = int((index + 1) * self.share) > int(index * self.share)
        start = self._start(case, rng, wants_foreground)
        image = self._cut(case.image(), start, self.pad_value)
        mask = case.label()
        sample: dict[str, Any] = {
            "image": torch.from_numpy(image.astype(np.float32, copy=False))[None],
            "case_id": case.case_id,
        }
        if mask is not None:
            sample["label"] = torch.from_numpy(self._cut(mask, start, 0).astype(np.int64))
        if self.dimensions == 2:
            sample["image"] = sample["image"][:, 0]
            if "label" in sample:
                sample["label"] = sample["label"][0]
        return sample

    def _start(self, case: CachedCase, rng: np.random.Generator, foreground: bool) -> list[int]:
        """First voxel of the cut along each axis; negative where it begins before the scan."""
        first = self._patch_start(case, rng, foreground)
        return [
            start - (cut - size) // 2
            for start, cut, size in zip(first, self.cut, self.size, strict=True)
        ]

    def _patch_start(
        self, case: CachedCase, rng: np.random.Generator, foreground: bool
    ) -> list[int]:
        """First voxel of the patch along each axis; negative where the patch outgrows the scan."""
        span = [length - size for length, size in zip(case.shape, self.size, strict=True)]
        # Where the scan is smaller than the patch, it stands in the middle.
        low = [min(0, room // 2) for room in span]
        high = [max(room, first) for room, first in zip(span, low, strict=True)]
        present = [value for value, count in case.foreground.items() if count]
        if not foreground or not present:
            return [int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True)]
        voxels = case.voxels(present[int(rng.integers(len(present)))])
        voxel = voxels[int(rng.integers(len(voxels)))]
        starts = []
        for place, size, first, last in zip(voxel, self.size, low, high, strict=True):
            # Within the middle half of the patch, which turning and zooming seldom lose.
            offset = int(rng.integers(size // 4, size - size // 4))
            starts.append(int(np.clip(place - offset, first, last)))
        return starts

    def _cut(self, array: NDArray, start: Sequence[int], fill: float) -> NDArray:
        inside = tuple(
            slice(max(first, 0), min(first + size, length))
            for first, size, length in zip(start, self.cut, array.shape, strict=True)
        )
        part = np.asarray(array[inside])
        if part.shape == self.cut:
            return np.array(part)
        whole = np.full(self.cut, fill, array.dtype)
        place = tuple(
            slice(box.start - first, box.stop - first)
            for box, first in zip(inside, start, strict=True)
        )
        whole[place] = part
        return whole
