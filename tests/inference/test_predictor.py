"""A network around the predictor: ensembles, mirroring, planes, and the scan's own grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from covidseg.imaging.volume import Volume
from covidseg.inference.components import in_one_piece
from covidseg.inference.ensemble import Ensemble
from covidseg.inference.predictor import Predictor
from covidseg.inference.preprocessing import Preprocessing
from covidseg.inference.sliding import Sliding

WINDOW = Preprocessing(low=-1250, high=250, mean=-1250, std=1500)


class Threshold(nn.Module):
    """Says class 1 above a normalised value."""

    def __init__(self, above=0.5):
        super().__init__()
        self.above = above

    def forward(self, x):
        logit = (x - self.above) * 50
        return torch.cat([-logit, logit], dim=1)


class Lopsided(nn.Module):
    """Looks one voxel to the side, so that mirroring matters; any number of dimensions."""

    def forward(self, x):
        logit = torch.roll(x, 1, dims=-1)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def scan(shape=(14, 12, 10)):
    rng = np.random.default_rng(0)
    return Volume(rng.integers(-1000, 300, shape).astype(np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))


@pytest.mark.parametrize(("dimensions", "window"), [(3, (4, 8, 8)), (2, (1, 8, 8))])
def test_labels_come_on_the_scans_grid(dimensions, window):
    volume = scan()
    predictor = Predictor([Threshold()], WINDOW, Sliding(window, batch_size=5), dimensions)
    result = predictor.predict(volume)
    np.testing.assert_array_equal(result.data, volume.data > -500)
    np.testing.assert_allclose(result.affine, volume.affine)


@pytest.mark.parametrize(("thickness_mm", "planes"), [(1.0, 40), (8.0, 12)])
def test_two_dimensional_networks_see_the_scans_own_planes(thickness_mm, planes):
    """As nnU-Net: each plane once, so that a lesion is found in the planes where it is."""
    seen = []

    class Watched(Threshold):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    data = np.random.default_rng(0).integers(-1000, -900, (16, 16, planes)).astype(np.int16)
    data[4:12, 4:12, 5:8] = 200
    own = replace(WINDOW, spacing_mm=(None, 0.8, 0.8))
    predictor = Predictor([Watched()], own, Sliding((1, 16, 16), batch_size=4), dimensions=2)
    result = predictor.predict(Volume(data, np.diag([0.8, 0.8, thickness_mm, 1.0])))
    np.testing.assert_array_equal(result.data, data > -500)
    assert sum(seen) == planes


def test_what_is_in_one_piece_comes_in_one_piece():
    volume = scan()
    pieces = in_one_piece((volume.data > -500).astype(np.uint8), [1])
    assert 0 < pieces.sum() < (volume.data > -500).sum()
    whole = Predictor([Threshold()], WINDOW, Sliding((4, 8, 8)), one_piece=(1,))
    np.testing.assert_array_equal(whole.predict(volume).data, pieces)
    # Two ways of seeing it: in one piece is what both say is.
    other = replace(whole, sliding=Sliding((6, 6, 6)))
    np.testing.assert_array_equal(Ensemble([whole, other]).predict(volume).data, pieces)
    loose = Ensemble([whole, replace(other, one_piece=())])
    np.testing.assert_array_equal(loose.predict(volume).data, volume.data > -500)


def test_an_ensemble_is_the_mean_of_probabilities():
    windows = torch.rand(2, 1, 4, 4, 4)
    low, high = Threshold(0.2), Threshold(0.8)
    both = Predictor([low, high], WINDOW, Sliding((4, 4, 4))).forward(windows)
    each = [Predictor([n], WINDOW, Sliding((4, 4, 4))).forward(windows) for n in (low, high)]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)
    torch.testing.assert_close(both.sum(1), torch.ones(2, 4, 4, 4))


def test_adjusted_logits_make_foreground_of_less():
    # 0.3 against 0.7 is even where foreground's logit gains ln(0.7 / 0.3).
    class Fixed(nn.Module):
        def forward(self, x):
            foreground = torch.full_like(x, 0.3)
            return torch.cat([1 - foreground, foreground], dim=1).log()

    windows = torch.zeros(1, 1, 4, 4, 4)
    adjusted = Predictor(
        [Fixed()], WINDOW, Sliding((4, 4, 4)), logit_adjustment=float(np.log(0.7 / 0.3))
    )
    torch.testing.assert_close(adjusted.forward(windows), torch.full((1, 2, 4, 4, 4), 0.5))
    plain = replace(adjusted, logit_adjustment=0.0)
    torch.testing.assert_close(plain.forward(windows)[:, 1], torch.full((1, 4, 4, 4), 0.3))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_mirroring_is_the_mean_over_all_flips(dimensions):
    windows = torch.rand(2, 1, 1 if dimensions == 2 else 4, 4, 6)
    last = dimensions - 1
    predictor = Predictor(
        [Lopsided()], WINDOW, Sliding((1, 4, 6)), dimensions, mirror_axes=(last - 1, last)
    )
    ours = predictor.forward(windows)
    one = Lopsided()(windows).softmax(1)
    other = Lopsided()(windows.flip(-1)).softmax(1).flip(-1)
    torch.testing.assert_close(ours, (one + other) / 2)
