"""The spline fields against scipy's B-splines, and their properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from covidseg.generalization.splines import basis_matrix, spline_field, to_unit_range


def test_basis_by_hand():
    # Four control points, three places: at points 1, 1½ and 2.
    expected = [[1 / 8, 3 / 4, 1 / 8, 0], [0, 1 / 2, 1 / 2, 0], [0, 1 / 8, 3 / 4, 1 / 8]]
    np.testing.assert_allclose(basis_matrix(4, 3), expected, atol=1e-12)
    np.testing.assert_allclose(basis_matrix(3, 1), [[1 / 8, 3 / 4, 1 / 8]], atol=1e-12)


@pytest.mark.parametrize(("points", "size"), [(3, 5), (6, 31), (9, 8)])
def test_basis_is_scipys(points, size):
    rng = np.random.default_rng(points)
    control = rng.normal(size=points)
    # scipy's quadratic element k reaches from knot k to k + 3; ours is centred at k.
    spline = BSpline(np.arange(points + 3) - 1.5, control, 2)
    places = np.linspace(1, points - 2, size)
    np.testing.assert_allclose(basis_matrix(points, size) @ control, spline(places), atol=1e-12)


@given(st.integers(3, 8), st.integers(3, 8), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=25)
def test_field_is_separable_and_bounded_by_its_control(a, b, height, width):
    control = torch.from_numpy(np.random.default_rng(a * b).normal(size=(2, a, b)))
    found = spline_field(control, (height, width))
    expected = basis_matrix(a, height) @ control.numpy() @ basis_matrix(b, width).T
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert found.min() >= control.min() - 1e-6
    assert found.max() <= control.max() + 1e-6


def test_three_dimensions_reproduce_a_plane():
    # Uniform B-splines reproduce linear functions of the control points' places.
    z, y, x = torch.meshgrid(*[torch.arange(5.0)] * 3, indexing="ij")
    field = spline_field((z + 2 * y - x)[None], (4, 7, 9))[0]
    ends = [torch.linspace(1, 3, n) for n in (4, 7, 9)]
    z, y, x = torch.meshgrid(*ends, indexing="ij")
    torch.testing.assert_close(field, z + 2 * y - x, rtol=0, atol=1e-4)


def test_unit_range():
    field = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[7.0, 7.0], [7.0, 7.0]]])
    found = to_unit_range(field, 2)
    torch.testing.assert_close(found[0], torch.tensor([[0, 0.5], [0.25, 1]]))
    assert (found[1] == 0).all()


def test_too_few_control_points():
    with pytest.raises(ValueError, match="at least 3"):
        basis_matrix(2, 8)
