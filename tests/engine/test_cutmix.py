"""CutMix: whole boxes, from the neighbour, drawn from the sample's seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covidseg.core.errors import ConfigError
from covidseg.engine.cutmix import AREA, cutmix, draw_box


def numbered(batch, *patch):
    """Every voxel says which sample it is of."""
    image = torch.arange(batch, dtype=torch.float32).view(batch, 1, *[1] * len(patch))
    image = image.expand(batch, 1, *patch)
    return image, image[:, 0].long()


@pytest.mark.parametrize("patch", [(40, 60), (5, 40, 60)])
def test_each_sample_gets_the_drawn_box_of_its_neighbour(patch):
    image, label = numbered(4, *patch)
    seeds = [11, 12, 13, 14]
    mixed, target = cutmix(image, label, seeds, 1.0)
    for number, seed in enumerate(seeds):
        expected = torch.full(patch, float(number))
        expected[..., *draw_box(seed, 1.0, patch[-2:])] = float(number ^ 1)
        assert torch.equal(mixed[number, 0], expected)
        assert torch.equal(target[number], expected.long())
    assert image.unique().tolist() == [0, 1, 2, 3]


def test_two_processes_see_what_one_sees():
    image, label = numbered(4, 16, 16)
    whole, _ = cutmix(image, label, [1, 2, 3, 4], 0.7)
    first, _ = cutmix(image[:2], label[:2], [1, 2], 0.7)
    second, _ = cutmix(image[2:], label[2:], [3, 4], 0.7)
    assert torch.equal(whole, torch.cat([first, second]))


def test_probability():
    boxes = [draw_box(seed, 0.3, (32, 32)) for seed in range(1000)]
    assert 0.25 < sum(box is not None for box in boxes) / 1000 < 0.35
    assert draw_box(5, 0.0, (32, 32)) is None


@given(st.integers(0, 2**62), st.integers(1, 300), st.integers(1, 300))
def test_boxes_lie_inside_and_are_of_the_size_said(seed, height, width):
    rows, columns = draw_box(seed, 1.0, (height, width))
    assert 0 <= rows.start < rows.stop <= height
    assert 0 <= columns.start < columns.stop <= width
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    if 1 < tall < height and 1 < wide < width:
        share = tall * wide / (height * width)
        slack = (tall + wide) / (height * width)  # both sides are rounded
        assert AREA[0] - slack <= share <= AREA[1] + slack


def test_an_odd_batch_is_refused():
    image, label = numbered(3, 8, 8)
    with pytest.raises(ConfigError, match="p_cutmix to 0"):
        cutmix(image, label, [1, 2, 3], 0.5)
