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
        # The lattice of one depth goes through whole batches; `rows` depths at once where a depth
        # has fewer windows than a batch (2D networks: a depth is a slice).
        lattice = list(itertools.product(starts[1], starts[2]))
        rows = max(1, self.batch_size // len(lattice))
        depth = self.window[0]
        buffer: Tensor | None = None
        first = 0
        for group in _batched(starts[0], rows):
            places = [(k, j, i) for k in group for j, i in lattice]
            span = group[-1] + depth - first
            for batch in _batched(places, self.batch_size):
                windows = torch.stack(
                    [
                        image[:, k : k + depth, j : j + self.window[1], i : i + self.window[2]]
                        for k, j, i in batch
                    ]
                )
                for (k, j, i), answer in zip(batch, answers(windows), strict=True):
                    if buffer is None:
                        buffer = torch.zeros(
                            (answer.shape[0], span, *size[1:]), dtype=torch.float32, device=device
                        )
                    elif buffer.shape[1] < span:
                        more = buffer.new_zeros(
                            (buffer.shape[0], span - buffer.shape[1], *size[1:])
                        )
                        buffer = torch.cat([buffer, more], dim=1)
                    place = buffer[
                        :,
                        k - first : k - first + depth,
                        j : j + self.window[1],
                        i : i + self.window[2],
                    ]
                    torch.addcmul(place, answer, weight, out=place)
            assert buffer is not None
            following = [start for start in starts[0] if start > group[-1]]
            final = (following[0] if following else size[0]) - first
            total = totals[0][first : first + final][:, None, None] * in_plane_total
            yield Slab(first, first + final, buffer[:, :final] / total)
            buffer = buffer[:, final:].clone() if following else None
            first += final


class _Answers:
    """The network's answers, with windows of a single value answered from memory."""

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self.forward = forward
        self.device = device
        self.constant: dict[float, Tensor] = {}

    def __call__(self, windows: Tensor) -> list[Tensor]:
        flat = windows.flatten(1)
        low, high = flat.amin(1), flat.amax(1)
        is_constant = (low == high).tolist()
        values = low.tolist()
        answers: list[Tensor | None] = [
            self.constant.get(value) if flag else None
            for value, flag in zip(values, is_constant, strict=True)
        ]
        todo: list[int] = []
        claimed: set[float] = set()
        for number, answer in enumerate(answers):
            if answer is not None or (is_constant[number] and values[number] in claimed):
                continue
            todo.append(number)
            if is_constant[number]:
                claimed.add(values[number])
        if todo:
            batch = windows if len(todo) == len(windows) else windows[todo]
            given = self.forward(batch.to(self.device, non_blocking=True)).float()
            for number, answer in zip(todo, given, strict=True):
                answers[number] = answer
                if is_constant[number]:
                    self.constant[values[number]] = answer.clone()
        return [
            self.constant[value] if answer is None else answer
            for answer, value in zip(answers, values, strict=True)
        ]


def _batched(items: Sequence, size: int) -> Iterator[Sequence]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


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
