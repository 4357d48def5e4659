"""Sliding windows against torchio's grid sampler and aggregator, and against plain sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covidseg.core.errors import ConfigError
from covidseg.inference.sliding import Sliding, predict_whole
from covidseg.inference.windows import gaussian_weights, summed_weights, window_starts

CPU = torch.device("cpu")


def convolve(windows):
    """A stand-in for a network: its answer depends on each window's own content and borders."""
    kernel = torch.arange(1, 28, dtype=torch.float32).reshape(1, 1, 3, 3, 3) / 100
    first = torch.nn.functional.conv3d(windows, kernel, padding=1)
    return torch.cat([first, first.sin(), first - first.mean(dim=(2, 3, 4), keepdim=True)], dim=1)


def by_the_definition(image, sliding):
    """Weighted mean over all windows, accumulated in float64 over the whole volume."""
    axes = [
        window_starts(s, w, sliding.overlap)
        for s, w in zip(image.shape[1:], sliding.window, strict=True)
    ]
    weights = [gaussian_weights(w) if sliding.gaussian else np.ones(w) for w in sliding.window]
    weight = torch.from_numpy(np.einsum("i,j,k->ijk", *weights)).double()
    total = torch.zeros(3, *image.shape[1:], dtype=torch.float64)
    norm = torch.zeros(image.shape[1:], dtype=torch.float64)
    d, h, w = sliding.window
    for k in axes[0]:
        for j in axes[1]:
            for i in axes[2]:
                box = (slice(k, k + d), slice(j, j + h), slice(i, i + w))
                answer = convolve(image[(slice(None), *box)][None])[0].double()
                total[(slice(None), *box)] += answer * weight
                norm[box] += weight
    return (total / norm).float()


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(4, 12), st.integers(4, 8), st.integers(4, 7)),
    window=st.tuples(st.integers(1, 4), st.integers(3, 4), st.integers(2, 4)),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    batch=st.integers(1, 7),
    gaussian=st.booleans(),
)
def test_streamed_slabs_equal_the_definition(size, window, overlap, batch, gaussian):
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(sum(size)))
    sliding = Sliding(window, overlap, batch, gaussian)
    ours = predict_whole(image, convolve, sliding, pad_value=0)
    assert ours.shape == (3, *size)
    torch.testing.assert_close(ours, by_the_definition(image, sliding), rtol=1e-4, atol=1e-5)


def test_slabs_come_in_order_and_cover_each_plane_once():
    image = torch.rand(1, 23, 8, 8)
    seen = []
    for slab in Sliding((6, 4, 4)).slabs(image, convolve, pad_value=0, device=CPU):
        assert slab.probabilities.shape[1] == slab.stop - slab.start
        seen += range(slab.start, slab.stop)
    assert seen == list(range(23))


def test_torchio_gives_the_same():
    """Windows that step by half of themselves, where both libraries place them alike."""
    import torchio

    image = torch.rand(1, 16, 12, 8)
    window = (8, 4, 4)
    subject = torchio.Subject(ct=torchio.ScalarImage(tensor=image))
    sampler = torchio.GridSampler(subject, window, tuple(w // 2 for w in window))
    aggregator = torchio.inference.GridAggregator(sampler, overlap_mode="average")
    for patch in torchio.SubjectsLoader(sampler, batch_size=3):
        aggregator.add_batch(convolve(patch["ct"]["data"]), patch["location"])
    ours = predict_whole(image, convolve, Sliding(window, gaussian=False), pad_value=0)
    torch.testing.assert_close(ours, aggregator.get_output_tensor(), rtol=1e-5, atol=1e-5)


def test_an_image_smaller_than_the_window_is_padded_and_cut_back():
    image = torch.rand(1, 3, 5, 9)
    padded = torch.nn.functional.pad(image, (0, 0, 1, 2, 2, 3), value=-1.0)
    sliding = Sliding((8, 8, 8))
    expected = predict_whole(padded, convolve, sliding, pad_value=-1.0)
    ours = predict_whole(image, convolve, sliding, pad_value=-1.0)
    torch.testing.assert_close(ours, expected[:, 2:5, 1:6])


def test_air_is_predicted_once_and_changes_nothing():
    image = torch.full((1, 32, 16, 16), -1.0)
    image[:, 12:18, 4:9, 4:9] = torch.rand(6, 5, 5)
    windows_seen = []

    def counted(windows):
        windows_seen.append(len(windows))
        return convolve(windows)

    sliding = Sliding((8, 8, 8), batch_size=4)
    ours = predict_whole(image, counted, sliding, pad_value=-1.0)
    assert sum(windows_seen) < 7 * 3 * 3
    torch.testing.assert_close(ours, by_the_definition(image, sliding), rtol=1e-4, atol=1e-5)


def test_windows_of_one_value_are_answered_once_each():
    # Four columns of two values, and one speck between the places that are looked at first.
    image = torch.full((1, 16, 8, 16), -1.0)
    image[..., 8:] = 2.0
    image[:, 1, 1, 1] = 0.5
    windows_seen = []

    def counted(windows):
        windows_seen.append(len(windows))
        return convolve(windows)

    sliding = Sliding((8, 8, 8), overlap=0, batch_size=4)
    ours = predict_whole(image, counted, sliding, pad_value=-1.0)
    # The speck's window, one of each value.
    assert sum(windows_seen) == 3
    torch.testing.assert_close(ours, by_the_definition(image, sliding), rtol=1e-4, atol=1e-5)


def test_memory_is_one_window_deep():
    """The buffer never grows with the number of planes."""
    image = torch.zeros(1, 400, 4, 4)
    largest = max(
        slab.stop - slab.start
        for slab in Sliding((8, 4, 4)).slabs(image, convolve, pad_value=0, device=CPU)
    )
    assert largest <= 8


@pytest.mark.parametrize(
    ("size", "window", "expected"),
    [(8, 8, [0]), (12, 8, [0, 4]), (13, 8, [0, 2, 5]), (62, 28, [0, 11, 23, 34])],
)
def test_starts_as_nnunet_places_them(size, window, expected):
    # nnU-Net v2: compute_steps_for_sliding_window((size,), (window,), 0.5).
    assert window_starts(size, window) == expected


def test_summed_weights_worked_by_hand():
    weights = np.array([1, 2], np.float32)
    assert summed_weights(4, [0, 1, 2], weights).tolist() == [1, 3, 3, 2]


def test_impossible_windows_are_refused():
    with pytest.raises(ConfigError, match="window of 9 voxels on an axis of 8"):
        window_starts(8, 9)
    with pytest.raises(ConfigError, match="overlap of 1"):
        window_starts(8, 4, 1.0)
