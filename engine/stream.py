"""Which sample is in which batch: a function of the step alone, so that a run can be resumed.

A training data set is map-style and endless: ``dataset[i]`` is defined for every ``i`` from 0 up
and depends on ``i`` and the data set's own seed alone, never on a worker or on what was read
before. Step t of a run takes samples t·G to (t+1)·G-1, G the batch size over all processes; they
are dealt out to micro-batches and, within one, to processes, in order. Two processes with half a
batch each thus see together what one process sees with the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from covidseg.core.errors import ConfigError, CovidsegError, TrainingError
from covidseg.engine.seeds import derived_seed

# One sample: image (C, *spatial), label (*spatial) or (1, *spatial), case_id, and what else a
# method wants. A batch: the same names, tensors stacked, and `seed` (B,) int64 besides.
Sample = Mapping[str, Any]
Batch = dict[str, Any]


class EndlessDataset(Protocol):
    """``dataset[i]`` for every i from 0 up, a function of i and the data set's own seed."""

    def __getitem__(self, index: int) -> Sample: ...


class SizedDataset(Protocol):
    """An ordinary map-style data set of ``len(dataset)`` samples."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class Stream:
    """What a method learns from: endless samples, how many a step, and their augmentation.

    Parameters
    ----------
    dataset
        Endless, see above; :class:`Shuffled` makes one of an ordinary data set.
    batch_size
        Samples a step, over all processes and accumulated micro-batches.
    augment
        Called on each micro-batch on the training device, without gradients. ``batch["seed"]``
        holds one int64 a sample, on the CPU, a function of the run's seed and the sample's place in
        the stream: all its random numbers must come from there.
    """

    dataset: EndlessDataset
    batch_size: int
    augment: Callable[[Batch], Batch] | None = None


class Shuffled:
    """An ordinary map-style data set made endless: every epoch is one permutation of it.

    Sample ``i`` is element ``permutation(seed, i // n)[i % n]``.
    """

    def __init__(self, dataset: SizedDataset, seed: int = 0) -> None:
        if len(dataset) == 0:
            raise ConfigError("the training data set is empty", expected="at least one sample")
        self.dataset, self.seed = dataset, seed
        self._order: tuple[int, np.ndarray] | None = None

    def __getitem__(self, index: int) -> Sample:
        epoch, place = divmod(index, len(self.dataset))
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng(derived_seed(self.seed, epoch))
            self._order = (epoch, generator.permutation(len(self.dataset)))
        return self.dataset[int(self._order[1][place])]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the data set says of its origin, for the run's manifest."""
        return getattr(self.dataset, "provenance", {})


@dataclass(frozen=True)
class Share:
    """This process' part of every step."""

    rank: int
    processes: int
    accumulate: int

    def micro_batch_size(self, batch_size: int) -> int:
        """Samples this process takes at a time.

        Raises
        ------
        ConfigError
            The batch cannot be dealt out evenly.
        """
        parts = self.processes * self.accumulate
        if batch_size < parts or batch_size % parts:
            raise ConfigError(
                f"a batch of {batch_size} cannot be dealt out to {self.processes} processes × "
                f"{self.accumulate} micro-batches",
                expected=f"a multiple of {parts}",
                remedy="change the batch size, train.accumulate or the number of processes",
            )
        return batch_size // parts

    def samples(self, step: int, micro: int, batch_size: int) -> range:
        """Places in the stream of this process' samples of one micro-batch of one step."""
        size = self.micro_batch_size(batch_size)
        first = step * batch_size + (micro * self.processes + self.rank) * size
        return range(first, first + size)


class _MicroBatches(Dataset):
    """All micro-batches that one process sees from ``start`` on, in order."""

    def __init__(
        self, streams: Mapping[str, Stream], share: Share, seed: int, start: int, steps: int
    ) -> None:
        self.streams, self.share, self.seed = streams, share, seed
        self.start, self.steps = start, steps

    def __len__(self) -> int:
        return (self.steps - self.start) * self.share.accumulate

    def __getitem__(self, number: int) -> dict[str, Batch] | CovidsegError:
        try:
            return self._batches(number)
        except CovidsegError as fault:
            # Raised within a worker it would arrive as a traceback in a string.
            return fault

    def _batches(self, number: int) -> dict[str, Batch]:
        step, micro = divmod(number, self.share.accumulate)
        batches = {}
        for place, (name, stream) in enumerate(self.streams.items()):
            samples = self.share.samples(self.start + step, micro, stream.batch_size)
            batch = collate([stream.dataset[i] for i in samples])
            batch["seed"] = torch.tensor([derived_seed(self.seed, place, i) for i in samples])
            batches[name] = batch
        return batches


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack the samples' tensors, arrays and numbers; strings become lists."""
    return dict(default_collate([dict(sample) for sample in samples]))


def _unchanged(batch: Any) -> Any:
    return batch


def micro_batches(
    streams: Mapping[str, Stream],
    share: Share,
    *,
    seed: int,
    start: int,
    steps: int,
    workers: int,
    pin_memory: bool,
) -> Iterator[dict[str, Batch]]:
    """Yield this process' micro-batches of steps ``start`` to ``steps - 1``, one dict a time.

    Workers read ahead; the order does not depend on their number.

    Raises
    ------
    ConfigError
        A batch cannot be dealt out evenly.
    TrainingError
        A worker process died. What a data set itself raises of this project's errors is raised too.
    """
    for stream in streams.values():
        share.micro_batch_size(stream.batch_size)
    loader: DataLoader = DataLoader(
        _MicroBatches(streams, share, seed, start, steps),
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        # A generator of its own, so that starting the workers draws nothing from the global one.
        generator=torch.Generator(),
    )
    return _unwrapped(loader)


def _unwrapped(loader: DataLoader) -> Iterator[dict[str, Batch]]:
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as fault:
            if "DataLoader worker" not in str(fault):
                raise
            raise TrainingError(
                "a process that reads training samples died, most likely for want of memory",
                remedy="lower train.workers, or give the machine (or its container's /dev/shm) more"
                " memory",
            ) from fault
        if isinstance(batch, CovidsegError):
            raise batch
        yield batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on ``device``; copies from pinned memory do not block.

    ``seed`` stays where it is: the processor draws by it, and fetching it back from a GPU would
    wait for all that the GPU still has to do.
    """
    return {
        name: value.to(device, non_blocking=True)
        if torch.is_tensor(value) and name != "seed"
        else value
        for name, value in batch.items()
    }
