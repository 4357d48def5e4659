"""Predictors that see a scan in different ways, and the mean of what they say about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.imaging.resample import reorient
from covidseg.imaging.volume import Volume
from covidseg.inference.ensemble import Ensemble
from covidseg.inference.predictor import Predictor
from covidseg.inference.preprocessing import ORIENTATION, Preprocessing
from covidseg.inference.sliding import Sliding


class Smooth(nn.Module):
    """Three classes, a smooth function of the value; any number of dimensions."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, x):
        return torch.cat([-x * self.slope, x * self.slope, (x - 1) ** 2], dim=1)


class Says(nn.Module):
    """The same probabilities everywhere."""

    def __init__(self, *probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, x):
        shape = (1, -1, *[1] * (x.ndim - 2))
        return self.logits.reshape(shape).expand(len(x), -1, *x.shape[2:])


def predictor(network, *, spacing=None, low=-1250, window=(4, 8, 8), dimensions=3, classes=3):
    preprocessing = Preprocessing(low=low, high=250, mean=-500, std=600, spacing_mm=spacing)
    return Predictor([network], preprocessing, Sliding(window, batch_size=3), dimensions, classes)


def scan(shape=(14, 12, 10), affine=(-1.0, 1.0, 2.0, 1.0)):
    values = np.random.default_rng(0).integers(-1000, 300, shape)
    return Volume(values.astype(np.int16), np.diag(affine))


def on_scan(one, volume):
    return torch.cat([slab.probabilities for slab in one.on_scan(volume)], dim=1)


def decided(probabilities, volume):
    """Labels in the scan's own axes, by way of a volume that is turned."""
    upright = reorient(volume, ORIENTATION)
    labels = probabilities.argmax(0).numpy().transpose(2, 1, 0)
    return reorient(Volume(labels, upright.affine), volume.orientation).data


MEMBERS = {
    "intensities": lambda: predictor(Smooth(1.0), low=-900),
    "spacing": lambda: predictor(Smooth(2.0), spacing=(3.0, 1.5, 1.3)),
    "windows": lambda: predictor(Smooth(0.5), window=(6, 6, 6)),
    "planes": lambda: predictor(Smooth(3.0), window=(1, 8, 8), dimensions=2),
}


@pytest.mark.parametrize("affine", [(-1.0, -1.0, 2.0, 1.0), (1.0, -1.0, -2.0, 1.0)])
@pytest.mark.parametrize("differing", MEMBERS)
def test_it_is_the_mean_of_the_single_probabilities(differing, affine):
    volume = scan(affine=affine)
    members = [predictor(Smooth(1.0)), MEMBERS[differing](), predictor(Smooth(-1.0))]
    mean = sum(on_scan(one, volume) for one in members) / 3
    ensemble = Ensemble(members)
    torch.testing.assert_close(ensemble.foreground(volume), mean[1:])
    result = ensemble.predict(volume)
    np.testing.assert_array_equal(result.data, decided(mean, volume))
    np.testing.assert_array_equal(result.affine, volume.affine)
    assert result.data.dtype == np.uint8


def test_each_network_counts_alike_also_where_some_share_a_predictor():
    """Worked by hand: two networks say 0.9 of class 1, one says 0.9 of class 2."""
    two = Predictor(
        [Says(0.05, 0.9, 0.05), Says(0.05, 0.9, 0.05)],
        Preprocessing(low=-1, high=1, mean=0, std=1),
        Sliding((2, 2, 2)),
        classes=3,
    )
    one = predictor(Says(0.05, 0.05, 0.9))
    volume = scan((3, 3, 3))
    found = Ensemble([one, two]).foreground(volume)
    torch.testing.assert_close(found[:, 1, 1, 1], torch.tensor([1.85 / 3, 1.0 / 3]))
    assert (Ensemble([one, two]).predict(volume).data == 1).all()


@settings(max_examples=20)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    spacing=st.tuples(*[st.floats(0.7, 4)] * 3),
)
def test_of_equal_members_it_is_that_member(shape, spacing):
    volume = scan(shape)
    one = predictor(Smooth(1.0), spacing=spacing)
    result = Ensemble([one, predictor(Smooth(1.0), spacing=spacing)]).foreground(volume)
    torch.testing.assert_close(result, on_scan(one, volume)[1:])


def test_what_cannot_be_averaged():
    with pytest.raises(ConfigError, match="of 3 and of 2 classes"):
        Ensemble([predictor(Smooth(1.0)), predictor(Smooth(1.0), classes=2)])
    picture = Predictor(
        [Smooth(1.0)],
        Preprocessing(low=0, high=255, mean=0, std=1, plane_size=(8, 8)),
        Sliding((1, 8, 8)),
        classes=3,
    )
    with pytest.raises(ConfigError, match="for pictures"):
        Ensemble([predictor(Smooth(1.0)), picture])
