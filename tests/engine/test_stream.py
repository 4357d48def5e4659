"""Which sample is in which batch, for any number of processes and micro-batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covidseg.core.errors import ConfigError, UnreadableFileError
from covidseg.engine.seeds import derived_seed, random_states, restore_random_states
from covidseg.engine.stream import Share, Shuffled, Stream, micro_batches


class Numbers:
    def __init__(self, length=None):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"image": torch.tensor([float(index)]), "case_id": str(index)}


class Unreadable(Numbers):
    def __getitem__(self, index):
        raise UnreadableFileError("truncated", path="scan.nii.gz")


@given(
    processes=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    size=st.integers(1, 3),
    step=st.integers(0, 50),
)
def test_processes_and_micro_batches_deal_out_each_sample_once_in_order(
    processes, accumulate, size, step
):
    batch = processes * accumulate * size
    seen = [
        place
        for micro in range(accumulate)
        for rank in range(processes)
        for place in Share(rank, processes, accumulate).samples(step, micro, batch)
    ]
    assert seen == list(range(step * batch, (step + 1) * batch))


@pytest.mark.parametrize("batch", [0, 1, 3, 6])
def test_a_batch_that_cannot_be_dealt_out_is_refused(batch):
    with pytest.raises(ConfigError, match="a multiple of 4"):
        Share(0, 2, 2).micro_batch_size(batch)


ALONE = Share(0, 1, 1)


def read(streams, *, start=0, steps=3, workers=0, share=ALONE):
    return list(
        micro_batches(
            streams, share, seed=5, start=start, steps=steps, workers=workers, pin_memory=False
        )
    )


def test_batches_do_not_depend_on_workers_or_on_where_reading_starts():
    streams = {"a": Stream(Numbers(), 2), "b": Stream(Numbers(), 4)}
    whole = read(streams)
    assert [b["a"]["case_id"] for b in whole] == [["0", "1"], ["2", "3"], ["4", "5"]]
    assert whole[1]["b"]["image"].tolist() == [[4], [5], [6], [7]]
    again = read(streams, start=1, workers=2)
    for one, other in zip(whole[1:], again, strict=True):
        assert torch.equal(one["b"]["seed"], other["b"]["seed"])
        assert one["a"]["case_id"] == other["a"]["case_id"]


def test_seeds_are_the_samples_own():
    streams = {"a": Stream(Numbers(), 4), "b": Stream(Numbers(), 4)}
    whole = read(streams, steps=2)
    seeds = [s for b in whole for s in b["a"]["seed"].tolist()]
    assert len(set(seeds)) == 8
    second = read(streams, steps=2, share=Share(1, 2, 1))
    assert [b["a"]["seed"].tolist() for b in second] == [seeds[2:4], seeds[6:8]]
    assert not set(seeds) & {s for b in whole for s in b["b"]["seed"].tolist()}


def test_reading_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    read({"": Stream(Numbers(), 2)}, workers=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_sets_own_error_arrives_as_it_is(workers):
    with pytest.raises(UnreadableFileError, match=r"^scan\.nii\.gz: truncated\.$"):
        read({"": Stream(Unreadable(), 1)}, workers=workers)


def test_shuffled_sees_every_sample_once_an_epoch_in_changing_order():
    shuffled = Shuffled(Numbers(7), seed=3)
    epochs = [[shuffled[e * 7 + i]["case_id"] for i in range(7)] for e in range(3)]
    assert all(sorted(epoch) == [str(i) for i in range(7)] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    # Reading backwards, or anew, changes nothing.
    assert [Shuffled(Numbers(7), seed=3)[i]["case_id"] for i in (20, 0)] == [
        epochs[2][6],
        epochs[0][0],
    ]
    assert [Shuffled(Numbers(7), seed=4)[i]["case_id"] for i in range(7)] != epochs[0]


def test_an_empty_data_set_is_refused():
    with pytest.raises(ConfigError, match="is empty"):
        Shuffled(Numbers(0))


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_derived_seeds_differ_where_their_arguments_do(a, b):
    assert 0 <= derived_seed(a, b) < 2**63
    assert derived_seed(a, b) != derived_seed(a, b + 1)
    assert derived_seed(a, b) != derived_seed(a + 1, b)
    assert derived_seed(a, b) == derived_seed(a, b)


def test_random_states_come_back_through_a_file_without_code(tmp_path):
    import random

    import numpy as np

    def draw():
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    torch.save(random_states(), tmp_path / "states.pt")
    first = draw()
    restore_random_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draw() == first
