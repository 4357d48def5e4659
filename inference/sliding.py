"""Sliding-window prediction with bounded memory: slabs come out as soon as they are final."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from covidseg.inference.windows import gaussian_weights, summed_weights, window_starts

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Slab:
    """Final probabilities of the planes ``start`` to ``stop`` of the first spatial axis.

    ``probabilities`` is float32 (classes, stop - start, Y, X), on the device of the prediction.
    """

    start: int
    stop: int
    probabilities: Tensor


@dataclass(frozen=True)
class Sliding:
    """How windows go over a volume.

    Parameters
    ----------
    window
        Voxels a window has along (Z, Y, X). A 2D network takes windows of one plane.
    overlap
        Share of a window that neighbours have in common, at least.
    batch_size
        Windows that go through the network at once.
    gaussian
        Weigh voxels by their nearness to the window's centre; otherwise all alike.
    """

    window: tuple[int, int, int]
    overlap: float = 0.5
    batch_size: int = 1
    gaussian: bool = True

    def slabs(
        self, image: Tensor, forward: Forward, *, pad_value: float, device: torch.device
    ) -> Iterator[Slab]:
        """Predict ``image`` and yield it in slabs along its first spatial axis, in order.

        Parameters
        ----------
        image
            float32 (channels, Z, Y, X), on any device. Where it is smaller than a window it is
            padded with ``pad_value`` on both sides.
        forward
            Takes float32 (batch, channels, *window) on ``device``, gives probabilities
            (batch, classes, *window). It must treat the windows of a batch independently.

        Memory beyond the image is one window's depth of accumulated probabilities. Windows of one
        value only (air beyond the field of view) all have one answer, which is computed once.
        """
        size = image.shape[1:]
        padding = [max(0, w - s) for w, s in zip(self.window, size, strict=True)]
        before = [p // 2 for p in padding]
        if any(padding):
            pads = [
                side
                for low, whole in zip(reversed(before), reversed(padding), strict=True)
                for side in (low, whole - low)
            ]
            image = torch.nn.functional.pad(image, pads, value=pad_value)
        inner = tuple(slice(b, b + s) for b, s in zip(before[1:], size[1:], strict=True))
        for slab in self._padded_slabs(image, forward, device):
            start = max(slab.start - before[0], 0)
            stop = min(slab.stop - before[0], size[0])
            if start < stop:
                skip = start + before[0] - slab.start
                kept = slab.probabilities[:, skip : skip + stop - start, inner[0], inner[1]]
                yield Slab(start, stop, kept)

    def _padded_slabs(self, image: Tensor, forward: Forward, device: torch.device):
        size = image.shape[1:]
        starts = [window_starts(s, w, self.overlap) for s, w in zip(size, self.window, strict=True)]
        axis_weights = [
            gaussian_weights(w) if self.gaussian else np.ones(w, np.float32) for w in self.window
        ]
        totals = [
            torch.from_numpy(summed_weights(s, starts_, weights)).to(device)
            for s, starts_, weights in zip(size, starts, axis_weights, strict=True)
        ]
        z, y, x = (torch.from_numpy(weights).to(device) for weights in axis_weights)
        weight = z[:, None, None] * y[None, :, None] * x[None, None, :]
        in_plane_total = totals[1][:, None] * totals[2][None, :]

        answers = _Answers(forward, device)
        # Depth by depth, so that planes are final as soon as they can be; batches are full all the
        # same, as they reach over into the next depths.
        places = list(itertools.product(*starts))
        # All at once and first: asked batch by batch, a GPU would run dry at every answer.
        constants = _constants(image, places, self.window)
        depth = self.window[0]
        buffer: Tensor | None = None
        first = 0
        for number in range(0, len(places), self.batch_size):
            batch = places[number : number + self.batch_size]
            windows = [image[_box(place, self.window)] for place in batch]
            span = batch[-1][0] + depth - first
            found = answers(windows, constants[number : number + self.batch_size])
            for (k, j, i), answer in zip(batch, found, strict=True):
                if buffer is None or buffer.shape[1] < span:
                    grown = torch.empty((answer.shape[0], span, *size[1:]), device=device)
                    kept = 0 if buffer is None else buffer.shape[1]
                    if buffer is not None:
                        grown[:, :kept] = buffer
                    grown[:, kept:] = 0
                    buffer = grown
                place = buffer[_box((k - first, j, i), self.window)]
                torch.addcmul(place, answer, weight, out=place)
            assert buffer is not None
            last = number + self.batch_size >= len(places)
            final = (size[0] if last else places[number + self.batch_size][0]) - first
            if final:
                total = totals[0][first : first + final][:, None, None] * in_plane_total
                yield Slab(first, first + final, buffer[:, :final] / total)
                # Copied as it grows with the next batch.
                buffer = buffer[:, final:]
                first += final


def _box(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """All channels of the window at ``start``."""
    return (slice(None), *(slice(a, a + s) for a, s in zip(start, size, strict=True)))


# Places along each axis of a window that are looked at before all of it is.
_FEW = 4


class _Answers:
    """The network's answers, with windows of a single value answered from memory."""

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self.forward = forward
        self.device = device
        self.constant: dict[float, Tensor] = {}

    def __call__(
        self, windows: Sequence[Tensor], constants: Sequence[float | None]
    ) -> list[Tensor]:
        """The answers to ``windows``, of which ``constants`` says which hold one value, and it."""
        answers: list[Tensor | None] = [
            None if value is None else self.constant.get(value) for value in constants
        ]
        todo: list[int] = []
        claimed: set[float] = set()
        for number, (answer, value) in enumerate(zip(answers, constants, strict=True)):
            if answer is not None or value in claimed:
                continue
            todo.append(number)
            if value is not None:
                claimed.add(value)
        if todo:
            batch = torch.stack([windows[number] for number in todo])
            given = self.forward(batch.to(self.device, non_blocking=True)).float()
            for number, answer in zip(todo, given, strict=True):
                answers[number] = answer
                value = constants[number]
                if value is not None:
                    self.constant[value] = answer.clone()
        found = []
        for answer, value in zip(answers, constants, strict=True):
            if answer is None:
                assert value is not None
                answer = self.constant[value]
            found.append(answer)
        return found


def _constants(
    image: Tensor, places: Sequence[Sequence[int]], window: Sequence[int]
) -> list[float | None]:
    """The value of each window at ``places`` that holds one value only, else None; a few voxels
    tell most of them without reading the rest.
    """
    corners = torch.tensor(places)
    few = []
    for axis, length in enumerate(window):
        steps = torch.linspace(0, length - 1, min(length, _FEW)).round().long()
        shape = [-1 if a == axis else 1 for a in range(3)]
        few.append((corners[:, axis, None] + steps).reshape(len(places), *shape).to(image.device))
    seen = image[:, few[0], few[1], few[2]].movedim(0, 1).flatten(1)
    may_be = (seen == seen[:, :1]).all(1).tolist()
    values = seen[:, 0].tolist()
    return [
        value if maybe and bool((image[_box(place, window)] == value).all()) else None
        for place, maybe, value in zip(places, may_be, values, strict=True)
    ]


def predict_whole(
    image: Tensor,
    forward: Forward,
    sliding: Sliding,
    *,
    pad_value: float,
    device: torch.device | None = None,
) -> Tensor:
    """Probabilities of a whole image at once, float32 (classes, Z, Y, X); see `Sliding.slabs`."""
    device = device or image.device
    return torch.cat(
        [
            slab.probabilities
            for slab in sliding.slabs(image, forward, pad_value=pad_value, device=device)
        ],
        dim=1,
    )
