"""What holds for every input: ramps, noise, boxes, pairs, entropies, dropped channels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covidseg.core.errors import ConfigError
from covidseg.engine.cache import IGNORE_LABEL
from covidseg.networks.features import drop_channels
from covidseg.pseudolabel.consistency import (
    entropy,
    greatest_entropy,
    masked_squared_difference,
    squared_difference,
)
from covidseg.pseudolabel.mixing import draw_box, inside_boxes, neighbours, only, paste
from covidseg.pseudolabel.ramps import sigmoid_ramp
from covidseg.pseudolabel.together import apart, with_noise

SEEDS = st.integers(0, 2**63 - 1)
PATCHES = st.lists(st.integers(1, 12), min_size=2, max_size=3)


def test_ramp_by_hand():
    # Mean Teacher's code: e = iteration // 150 of 200: at 0, 15,000 and 30,000 of 30,000.
    assert sigmoid_ramp(0.0, 1.0) == pytest.approx(math.exp(-5))
    assert sigmoid_ramp(0.5, 1.0) == pytest.approx(math.exp(-1.25))
    assert sigmoid_ramp(0.2, 0.4) == pytest.approx(math.exp(-1.25))
    assert sigmoid_ramp(1.0, 1.0) == 1
    assert sigmoid_ramp(0.7, 0.4) == 1


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 2))
def test_ramp_never_falls(one, other, length):
    low, high = sorted((one, other))
    assert math.exp(-5) <= sigmoid_ramp(low, length) <= sigmoid_ramp(high, length) <= 1


@given(seeds=st.lists(SEEDS, min_size=1, max_size=4, unique=True), dimensions=st.integers(2, 3))
def test_noise_is_a_samples_own_and_bounded(seeds, dimensions):
    image = torch.randn(len(seeds), 1, *[6] * dimensions)
    noisy = with_noise(image, seeds, std=0.1, limit=0.2)
    assert (noisy - image).abs().max() <= 0.2 + 1e-6
    for number, seed in enumerate(seeds):
        alone = with_noise(image[number : number + 1], [seed], std=0.1, limit=0.2)
        assert torch.equal(alone[0], noisy[number])


def test_noise_is_clipped_gaussian():
    noise = with_noise(torch.zeros(1, 1, 200, 200), [5], std=0.1, limit=0.2)
    # Beyond two standard deviations lie 4.55 % of the draws; the variance of the clipped is 0.9205.
    assert (noise.abs() > 0.2 - 1e-6).float().mean().item() == pytest.approx(0.0455, abs=0.005)
    assert noise.var().item() == pytest.approx(0.009205, rel=0.03)
    assert noise.mean().item() == pytest.approx(0, abs=0.002)


@given(seed=SEEDS, patch=PATCHES, share=st.floats(0, 1))
def test_a_box_has_its_share_of_each_edge_and_lies_within(seed, patch, share):
    box = draw_box(seed, patch, share)
    assert box == draw_box(seed, patch, share)
    for part, size in zip(box, patch, strict=True):
        assert 0 <= part.start <= part.stop <= size
        assert part.stop - part.start == pytest.approx(size * share, abs=1)


def test_boxes_by_hand_and_everywhere():
    assert [s.stop - s.start for s in draw_box(0, (9, 12, 96), 2 / 3)] == [6, 8, 64]
    corners = {tuple(s.start for s in draw_box(seed, (6, 6), 2 / 3)) for seed in range(200)}
    assert corners == {(y, x) for y in range(3) for x in range(3)}


@given(seeds=st.lists(SEEDS, min_size=1, max_size=3), patch=PATCHES, share=st.floats(0, 1))
def test_pasting_both_ways_loses_and_repeats_no_voxel(seeds, patch, share):
    inside = inside_boxes(seeds, patch, share, torch.device("cpu"))
    one = torch.rand(len(seeds), 1, *patch)
    other = 2 + torch.rand(len(seeds), 1, *patch)
    there, back = paste(other, one, inside), paste(one, other, inside)
    assert torch.equal(there + back, one + other)
    assert torch.equal(there > 1.5, inside[:, None])
    labels = torch.ones(len(seeds), *patch, dtype=torch.int64)
    kept = only(labels, inside)
    assert torch.equal(kept == IGNORE_LABEL, ~inside)
    assert kept.dtype == torch.int64


@given(st.integers(1, 4))
def test_neighbours_are_pairs_of_the_stream(pairs):
    batch = torch.arange(2 * pairs)
    swapped = neighbours(batch)
    assert swapped.tolist() == [number ^ 1 for number in range(2 * pairs)]
    assert torch.equal(neighbours(swapped), batch)
    # Half of them on each of two processes is the same.
    if pairs % 2 == 0:
        assert torch.equal(torch.cat([neighbours(half) for half in batch.chunk(2)]), swapped)


def test_an_odd_batch_is_refused():
    with pytest.raises(ConfigError, match="in pairs, and a process has 3 at once"):
        neighbours(torch.arange(3))


@given(seed=st.integers(0, 1000), classes=st.integers(2, 4))
def test_entropy_lies_between_none_and_that_of_an_even_spread(seed, classes):
    p = torch.randn(2, classes, 5, generator=torch.Generator().manual_seed(seed)).softmax(1)
    found = entropy(p)
    assert found.shape == (2, 5)
    assert (found >= -1e-5).all()
    assert (found <= greatest_entropy(classes) + 1e-6).all()
    expected = torch.distributions.Categorical(p.movedim(1, -1)).entropy()
    assert torch.allclose(found, expected, atol=1e-5)


def test_entropy_by_hand():
    p = torch.tensor([[[0.5, 0.9], [0.5, 0.1]]])
    expected = [math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1)]
    assert entropy(p).flatten().tolist() == pytest.approx(expected, abs=1e-5)


@given(seed=st.integers(0, 1000))
def test_a_full_mask_changes_nothing(seed):
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(2, 3, 4, 5, generator=generator) for _ in range(2))
    whole = squared_difference(one, other)
    everywhere = torch.ones(2, 4, 5, dtype=torch.bool)
    assert masked_squared_difference(one, other, everywhere).item() == pytest.approx(whole.item())
    assert 0 <= whole <= 2 / 3
    assert squared_difference(other, one).item() == pytest.approx(whole.item())
    assert squared_difference(one, one).item() == 0
    # A constant in all classes' logits is nothing.
    assert squared_difference(one + 3, other).item() == pytest.approx(whole.item(), abs=1e-6)


@given(
    share=st.floats(0, 0.9),
    seeds=st.lists(SEEDS, min_size=2, max_size=3, unique=True),
    dimensions=st.integers(2, 3),
)
def test_dropped_channels(share, seeds, dimensions):
    before, after = 1, 2
    batch = before + len(seeds) + after
    features = [1 + torch.rand(batch, width, *[3] * dimensions) for width in (4, 7)]
    dropped = drop_channels(features, share, seeds, slice(before, before + len(seeds)))
    others = [n for n in range(batch) if not before <= n < before + len(seeds)]
    for old, new in zip(features, dropped, strict=True):
        assert torch.equal(new[others], old[others])
        ratio = (new / old)[before : before + len(seeds)].flatten(2)
        assert torch.allclose(ratio, ratio[..., :1].expand_as(ratio))  # whole channels
        assert all(
            value == 0 or value == pytest.approx(1 / (1 - share), rel=1e-5)
            for value in ratio[..., 0].flatten().tolist()
        )
    # What a sample loses does not depend on the others.
    alone = drop_channels([f[before : before + 1] for f in features], share, seeds[:1], slice(0, 1))
    assert all(torch.equal(a[0], d[before]) for a, d in zip(alone, dropped, strict=True))


def test_channels_are_dropped_as_often_as_asked():
    (dropped,) = drop_channels([torch.ones(40, 50, 1, 1)], 0.3, range(40), slice(0, 40))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 3))
def test_parts_of_a_batch_are_all_of_it(sizes, levels):
    outputs = [torch.rand(sum(sizes), 2, 4) for _ in range(levels)]
    parts = apart(outputs, sizes)
    assert [len(part[0]) for part in parts] == sizes
    for number, level in enumerate(outputs):
        assert torch.equal(torch.cat([part[number] for part in parts]), level)
    assert np.array_equal(torch.cat(apart(outputs[0], sizes)), outputs[0])
