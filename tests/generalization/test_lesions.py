"""Synthetic lesions: densities by hand, shapes by another formula, and what must never change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from covidseg.engine.segmentation import GridConfig, SegmentationRecipe
from covidseg.generalization import build
from covidseg.generalization.lesions import (
    Foci,
    LesionConfig,
    Lesions,
    PaintLesions,
    _chosen,
    quadratic_form,
)
from covidseg.networks.config import NetworkConfig

MEAN, STD, CLIP = -600.0, 300.0, (-1000.0, 200.0)
SIZES = {2: (64, 80), 3: (20, 48, 56)}
SPACING = {2: (2.0, 1.5), 3: (4.0, 2.0, 1.5)}


def painter(dimensions=2, **changes):
    return PaintLesions(LesionConfig(**changes), SPACING[dimensions], MEAN, STD, CLIP)


@pytest.mark.parametrize("z", [None, 5.0])
def test_in_2d_planes_need_no_spacing(z):
    grid = GridConfig(spacing_mm=(z, 2.0, 1.5), low=-1000.0, high=200.0, mean=MEAN, std=STD)
    recipe = SegmentationRecipe(name="", network=NetworkConfig(dimensions=2), grid=grid)
    assert tuple(build.painter(recipe, LesionConfig()).spacing_mm) == SPACING[2]


def lungs(dimensions):
    """A box of lung, away from the edges."""
    lung = torch.zeros(SIZES[dimensions], dtype=torch.bool)
    lung[tuple(slice(s // 8, s - s // 8) for s in SIZES[dimensions])] = True
    return lung


def batch(dimensions=2, seeds=(5, 6, 7)):
    noise = torch.randn(len(seeds), 1, *SIZES[dimensions], generator=torch.manual_seed(4))
    lung = lungs(dimensions)
    hu = torch.where(lung, -820.0, 30.0) + 15 * noise
    vessels = torch.rand(noise.shape, generator=torch.manual_seed(5)) > 0.97
    hu = torch.where(vessels & lung, 120.0, hu)
    label = (lung.long() * 2).expand(len(seeds), *lung.shape).clone()
    return {"image": (hu - MEAN) / STD, "label": label, "seed": torch.tensor(seeds)}


def painted(paint, image, lung, lesions):
    """One sample alone."""
    made, mask = paint.paint(image[None], lung[None], [lesions])
    return made[0], mask[0]


def outlined(paint, lung, lesions):
    """The mask of one sample alone."""
    return paint.replaced(lung[None], [lesions])[1][0]


def one_ball(dimensions, radius_mm=12.0, solid=0.0, **changes):
    """A drawn sample replaced by one ball in the lung's first voxel in the order of chances."""
    radii_mm = np.full((1, dimensions), radius_mm)
    foci = Foci(np.array([0.5]), np.eye(dimensions)[None], radii_mm, np.array([solid]))
    rng = np.random.default_rng(0)
    plain = {"involved": 0.1, "glass": 0.4, "solid": 0.9, "tissue_hu": 40.0, "edge_mm": 1.0,
             "fray_mm": 0.0, "noise_hu": 0.0}  # fmt: skip
    return Lesions(foci, **{**plain, **changes}, rng=rng)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_ball_of_consolidation_by_hand(dimensions):
    lung = lungs(dimensions)
    image = torch.full((1, *lung.shape), (-800 - MEAN) / STD)
    made, mask = painted(painter(dimensions), image, lung, one_ball(dimensions, solid=1.0))
    hu = made[0] * STD + MEAN
    # Nine tenths of the air at -800 become tissue at 40: -800 + 0.9 · 840.
    assert hu.max().item() == pytest.approx(-44, abs=0.01)
    assert hu.min().item() == pytest.approx(-800, abs=0.01)
    step = np.prod(SPACING[dimensions])
    ball = np.pi * 12**2 if dimensions == 2 else 4 / 3 * np.pi * 12**3
    # As scans are clipped, so is what is painted.
    narrow = dataclasses.replace(painter(dimensions), clip_hu=(-1000.0, -300.0))
    clipped, _ = painted(narrow, image, lung, one_ball(dimensions, solid=1.0))
    assert (clipped[0] * STD + MEAN).max().item() == pytest.approx(-300, abs=0.01)
    # Its centre is at the border, so that up to half of it is cut off.
    assert 0.2 * ball < mask.sum().item() * step < 1.05 * ball


@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_ellipsoids_coordinate_is_scipys_distance_in_turned_axes(dimensions):
    lung = lungs(dimensions)
    rng = np.random.default_rng(3)
    foci = painter(dimensions, foci=3)._foci(rng)
    centres = [tuple(s // (2 + k) for s in lung.shape) for k in range(3)]
    flat = torch.tensor([np.ravel_multi_index(centre, lung.shape) for centre in centres])
    form = torch.from_numpy(quadratic_form(foci.axes, foci.radii_mm)).float()[None]
    found = painter(dimensions)._squared_radius(lung[None], flat[None], form)[0]
    for axes, radii_mm, centre, square in zip(
        foci.axes, foci.radii_mm, centres, found, strict=True
    ):
        places = np.indices(lung.shape).reshape(dimensions, -1).T - centre
        turned = (places * SPACING[dimensions]) @ axes.T / radii_mm
        expected = (turned**2).sum(1).reshape(lung.shape)
        np.testing.assert_allclose(square.numpy(), expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(axes @ axes.T, np.eye(dimensions), atol=1e-12)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_depths_are_in_millimetres_of_the_mean_radius(dimensions):
    # A ball of 12 mm of which consolidation reaches half: deepest at its centre.
    lung = lungs(dimensions)
    ball = one_ball(dimensions, radius_mm=12.0, solid=0.5)
    depth, core = painter(dimensions)._fields(lung[None], [ball])
    assert depth.max().item() == pytest.approx(12, abs=1e-4)
    assert core.max().item() == pytest.approx(12 - 0.5 * 1.2 * 12, abs=1e-4)
    centre = np.unravel_index(int(depth[0].argmax()), lung.shape)
    for axis, spacing in enumerate(SPACING[dimensions]):
        place = list(centre)
        place[axis] += 3
        assert depth[0][tuple(place)].item() == pytest.approx(12 - 3 * spacing, abs=1e-3)


@given(st.integers(0, 2**32), st.sampled_from([(40,), (1, 7), (6, 9), (4, 5, 6)]))
@settings(max_examples=40)
def test_centres_are_where_the_running_sum_of_chances_says(seed, size):
    rng = np.random.default_rng(seed)
    chances = torch.from_numpy(rng.random((3, *size)) * (rng.random((3, *size)) < 0.4))
    places = torch.from_numpy(np.concatenate([rng.random((3, 6)), [[0.0], [0.0], [1 - 1e-16]]], 1))
    found = _chosen(chances[:, None] if len(size) == 1 else chances, places)
    sums = chances.flatten(1).cumsum(1)
    expected = torch.searchsorted(sums, sums[:, -1:] * places, right=True)
    for sample in range(3):
        if sums[sample, -1] > 0:
            assert (chances[sample].flatten()[found[sample]] > 0).all()
            assert torch.equal(found[sample, :6], expected[sample, :6])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_sample_does_not_depend_on_its_batch(dimensions):
    one, paint = batch(dimensions), painter(dimensions)
    kept = {name: value.clone() for name, value in one.items()}
    whole = paint(one)
    for number in range(3):
        alone = paint({name: value[number : number + 1] for name, value in one.items()})
        assert torch.equal(whole["image"][number], alone["image"][0])
        assert torch.equal(whole["label"][number], alone["label"][0])
    assert all(torch.equal(one[name], value) for name, value in kept.items())
    assert whole["label"].dtype == torch.int64
    assert set(whole["label"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_samples_painted_at_once_are_those_painted_one_by_one(dimensions, monkeypatch):
    one, paint = batch(dimensions, range(8)), painter(dimensions)
    alone = paint(one)
    at_once = lambda self, numbers, lung: [numbers]  # noqa: E731
    monkeypatch.setattr(PaintLesions, "_groups", at_once)
    together = paint(one)
    torch.testing.assert_close(together["image"], alone["image"], rtol=1e-4, atol=1e-4)
    assert (together["label"] != alone["label"]).float().mean() < 1e-4
    assert (alone["label"] > 0).any()


@given(st.integers(0, 2**60), st.sampled_from([2, 3]))
@settings(max_examples=10)
def test_what_never_changes(seed, dimensions):
    one = batch(dimensions, (seed,))
    paint = painter(dimensions, p=1.0, noise_hu=(0.0, 1e-9), tissue_hu=(50.0, 51.0))
    made = paint(one)
    before, after = one["image"], made["image"]
    lung = one["label"][:, None] > 0
    assert torch.equal(before[~lung], after[~lung])
    assert not (made["label"][:, None].bool() & ~lung).any()
    assert (after >= before - 1e-4).all()  # air is replaced by what is denser
    hu = before * STD + MEAN
    vessels = lung & (hu > 60)
    torch.testing.assert_close(after[vessels], before[vessels], rtol=0, atol=1e-5)
    assert (after[lung] * STD + MEAN <= torch.maximum(hu[lung], torch.tensor(51.1))).all()
    # Within the outline at least half of the thinnest ground glass is reached.
    mask = made["label"][0, None][None].bool().expand_as(lung) & (hu < -750)
    if mask.any():
        assert ((after - before)[mask] * STD).min() > 0.5 * 0.05 * 700


def test_ground_glass_and_consolidation_have_their_densities():
    lung = lungs(2)
    image = torch.full((1, *lung.shape), (-850 - MEAN) / STD)
    glass, solid = [], []
    for seed in range(50):
        paint = painter(2, p=1.0, noise_hu=(0.0, 1e-9))
        for p, found in ((1.0, glass), (0.0, solid)):
            config = dataclasses.replace(paint.config, p_glass_only=p)
            drawn = dataclasses.replace(paint, config=config)
            made, mask = painted(drawn, image, lung, drawn.draw(seed))
            found += (made[0][mask] * STD + MEAN).tolist()
    # Ground glass: grey through which vessels show. Consolidation: they no longer do.
    assert -750 < np.median(glass) < -450
    assert np.percentile(glass, 99) < -150
    assert np.mean(np.array(solid) > -200) > 0.2


def test_lesions_lie_at_the_border():
    lung = lungs(2)
    depth = ndimage.distance_transform_edt(lung.numpy(), sampling=SPACING[2])
    chances = painter(2)._chances(lung[None])[0].numpy()
    assert (chances[~lung.numpy()] == 0).all()
    assert (chances * depth).sum() / chances.sum() < 0.7 * depth[lung.numpy()].mean()
    anywhere = painter(2, inner_share=1.0)._chances(lung[None])[0].numpy()
    np.testing.assert_allclose(anywhere, lung.numpy())


def test_the_share_of_lung_grows_with_what_is_drawn():
    lung = lungs(2)

    def taken(involved):
        paint = painter(2, p=1.0, involved=(involved, involved + 1e-9), foci=30)
        return np.mean([
            outlined(paint, lung, paint.draw(seed)).sum() / lung.sum() for seed in range(20)
        ])  # fmt: skip

    low, high = taken(0.02), taken(0.4)
    assert low < 0.2 < 0.25 < high < 0.75


def test_several_and_as_often_as_asked():
    paint = painter(2)
    draws = [paint.draw(seed) for seed in range(1000)]
    assert np.mean([d is not None for d in draws]) == pytest.approx(0.8, abs=0.04)
    lung = lungs(2)
    counts = [
        ndimage.label(outlined(paint, lung, drawn).numpy())[1] for drawn in draws[:60] if drawn
    ]
    assert np.mean(np.array(counts) > 1) > 0.3


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_patch_without_lung_stays(dimensions):
    one = batch(dimensions)
    one["label"][:] = 0
    made = painter(dimensions, p=1.0)(one)
    assert torch.equal(made["image"], one["image"])
    assert not made["label"].any()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_tumour_is_not_relabelled(dimensions):
    """A lesion over a tumour would be a label that nothing in the image shows."""
    lung = lungs(dimensions)
    hu = torch.full((1, *lung.shape), -820.0)
    middle = tuple(slice(s // 2 - 9, s // 2 + 9) for s in lung.shape)
    core = tuple(slice(s // 2 - 4, s // 2 + 4) for s in lung.shape)
    hu[(0, *middle)] = 40.0
    image = (hu - MEAN) / STD
    paint = painter(dimensions, p=1.0, involved=(0.9, 0.91), foci=20, inner_share=1.0)
    covered = 0
    for seed in range(10):
        made, mask = painted(paint, image, lung, paint.draw(seed))
        assert not mask[core].any()
        assert torch.equal(made[(0, *core)], image[(0, *core)])
        covered += int(mask.any())
    assert covered == 10


@pytest.mark.parametrize("dimensions", [2, 3])
def test_lungs_with_lesions_stay_lungs(dimensions):
    given = batch(dimensions)
    paint = painter(dimensions, p=1.0)
    lesions, lung = paint(given), dataclasses.replace(paint, relabel=False)(given)
    torch.testing.assert_close(lung["image"], lesions["image"], rtol=0, atol=0)
    torch.testing.assert_close(lung["label"], given["label"], rtol=0, atol=0)
    assert (lung["image"] != given["image"]).any()


@settings(max_examples=25)
@given(
    shape=st.lists(st.integers(1, 12), min_size=2, max_size=3),
    reach=st.floats(0, 30),
    seed=st.integers(0, 99),
)
def test_box_means_are_those_of_what_lies_in_the_box(shape, reach, seed):
    spacing = (5.0, 1.5, 2.0)[-len(shape) :]
    field = torch.from_numpy(np.random.default_rng(seed).normal(-500, 300, shape))
    paint = PaintLesions(LesionConfig(), spacing, 0, 1, (-1000, 400))
    found = paint._box_mean(field[None], reach)[0]
    reaches = [min(round(reach / s), n // 2) for s, n in zip(spacing, shape, strict=True)]
    for place in np.ndindex(*shape):
        box = tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(place, reaches, strict=True))
        assert float(found[place]) == pytest.approx(float(field[box].mean()), abs=1e-6)
