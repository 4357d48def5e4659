"""NSD: worked by hand, against its definition written out, and against DeepMind's package."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from covidseg.core.errors import GeometryError, LabelError, ScoringError
from covidseg.scoring import nsd as nsd_module
from covidseg.scoring.metrics import dice, normalized_surface_dice
from covidseg.scoring.surface_elements import element_areas

surface_distance = pytest.importorskip("surface_distance")

# Spacings and tolerances that put corners exactly on the tolerance, or a bit of float64 beside it.
SPACINGS = (
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    1.0,
    1.5,
    5.0,
    *(float(np.float32(x)) for x in (0.2, 0.3, 0.74)),
)
TOLERANCES = (0.0, 0.2, 0.3, 0.6, 0.9, 1.0, math.sqrt(2), math.sqrt(3), 2.0, 3.0, 3 * 0.3, 10.0)


def theirs(prediction, reference, spacing_mm, tolerance_mm):
    """DeepMind's package; not asked about empty masks, over which it stumbles under NumPy 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distances = surface_distance.compute_surface_distances(
            np.ascontiguousarray(reference), np.ascontiguousarray(prediction), spacing_mm
        )
        return surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)


def by_definition(prediction, reference, spacing_mm, tolerance_mm):
    """NSD by comparing every surface element with every other: independent, slow."""
    surfaces = []
    for mask in (prediction, reference):
        padded = np.pad(mask, 1)
        areas = element_areas(tuple(spacing_mm))
        points, sizes = [], []
        for corner in itertools.product(*(range(size + 1) for size in mask.shape)):
            cube = padded[tuple(slice(place, place + 2) for place in corner)]
            if cube.any() and not cube.all():
                code = sum(int(inside) << bit for bit, inside in enumerate(cube.ravel()))
                points.append(corner)
                sizes.append(areas[code])
        surfaces.append((np.array(points, float), np.array(sizes)))
    within = total = 0.0
    for (points, sizes), (others, _) in (surfaces, surfaces[::-1]):
        total += sizes.sum()
        for point, size in zip(points, sizes, strict=True):
            offsets = (others - point) * spacing_mm
            squares = sum(column * column for column in offsets.T)  # in the order of the axes
            within += size * (np.sqrt(squares) <= tolerance_mm).any()
    return within / total


@st.composite
def cases(draw, largest=7):
    dimensions = draw(st.sampled_from((2, 3, 3, 3)))
    shape = tuple(draw(st.integers(1, largest)) for _ in range(dimensions))
    spacing = tuple(draw(st.sampled_from(SPACINGS)) for _ in range(dimensions))
    if draw(st.booleans()):
        spacing = (spacing[0],) * dimensions
    tolerance = draw(
        st.sampled_from(TOLERANCES)
        | st.builds(lambda steps, step: steps * step, st.integers(0, 6), st.sampled_from(spacing))
    )
    reference = draw(masks(shape))
    if draw(st.booleans()):
        prediction = draw(masks(shape))
    else:
        axis = draw(st.integers(0, dimensions - 1))
        prediction = np.roll(reference, draw(st.integers(-2, 2)), axis)
    return prediction, reference, spacing, tolerance


def masks(shape):
    """Bits of random bytes, quicker to draw than arrays; thinned out, to be sparse too."""
    voxels = math.prod(shape)
    packed = st.binary(min_size=-(-voxels // 8), max_size=-(-voxels // 8))
    return st.lists(packed, min_size=1, max_size=7).map(
        lambda draws: (
            np.bitwise_and.reduce(
                [np.unpackbits(np.frombuffer(draw, np.uint8), count=voxels) for draw in draws]
            )
            .reshape(shape)
            .astype(bool)
        )
    )


def arrangements(array):
    """The same values in every memory order and with negative strides."""
    yield np.ascontiguousarray(array)
    yield np.asfortranarray(array)
    yield np.ascontiguousarray(array[::-1])[::-1]
    yield np.asfortranarray(array[..., ::-1])[..., ::-1]


def test_areas_are_those_of_deepminds_table():
    lookup_tables = pytest.importorskip("surface_distance.lookup_tables")
    for spacing in ((1, 1, 1), (0.7, 0.7, 5), (0.3, 1.1, 2.7)):
        table = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
        # Their kernel gives offset (a, b, c) bit 7 - (4 a + 2 b + c).
        mirrored = [int(f"{code:08b}"[::-1], 2) for code in range(256)]
        np.testing.assert_allclose(element_areas(spacing), table[mirrored], rtol=1e-14)
    table = lookup_tables.create_table_neighbour_code_to_contour_length((0.7, 2))
    mirrored = [int(f"{code:04b}"[::-1], 2) for code in range(16)]
    np.testing.assert_allclose(element_areas((0.7, 2)), table[mirrored], rtol=1e-14)


def test_single_voxel_by_hand():
    # One voxel has eight corners, each cut by a triangle with the vector area (1, 1, 1) / 8 of
    # the faces, so all elements are alike. Moved by one voxel (1 mm), four of eight corners
    # coincide with the other's and four lie 1 mm away.
    a = np.zeros((5, 5, 5), bool)
    b = a.copy()
    a[2, 2, 2] = b[2, 3, 2] = True
    assert normalized_surface_dice(a, b, (1, 1, 1), 0.99) == 0.5
    assert normalized_surface_dice(a, b, (1, 1, 1), 1) == 1
    assert element_areas((1.0, 1.0, 1.0))[1] == pytest.approx(math.sqrt(3) / 8)


def test_squares_by_hand():
    # surface-distance's own test: 2x2 pixels against 3x2 at (2, 1) mm. Contours: 4 corners of
    # length d = sqrt(5)/2, tops and bottoms 1, sides 2. Of the small one a bottom edge (1) and two
    # corners (2 d) lie 2 mm inside the large one, whose own bottom is 2 mm outside.
    small = np.zeros((6, 6), bool)
    small[1:3, 1:3] = True
    large = np.zeros((6, 6), bool)
    large[1:4, 1:3] = True
    d = math.sqrt(5) / 2
    all_small, all_large = 4 * d + 2 * 1 + 2 * 2, 4 * d + 2 * 1 + 4 * 2
    # Corners 3 and 4 rows down: the small bottom (d, 1, d) meets the large sides at 0, and in the
    # middle is 1 mm from them; the large bottom (d, 1, d) is 2 mm from the small one's.
    missed = d + 1 + d
    expected = (all_small + all_large - missed) / (all_small + all_large)
    assert normalized_surface_dice(small, large, (2, 1), 1) == pytest.approx(expected, abs=1e-15)
    assert normalized_surface_dice(small, large, (2, 1), 2) == 1


@pytest.mark.parametrize(
    ("step", "expected"), [(0.2, 1), (float(np.float32(0.2)), 0.5), (0.25, 0.5), (0.26, 0)]
)
def test_five_steps_on_the_tolerance(step, expected):
    a = np.zeros((9, 1, 1), bool)
    b = a.copy()
    a[1], b[6] = True, True
    value = normalized_surface_dice(a, b, (step, step, step), 1)
    # Half of each surface is four steps from the other, half five.
    assert value == expected
    assert value == theirs(a, b, (step, step, step), 1)


def test_edge_cases_by_hand():
    full = np.ones((4, 4, 4), bool)
    empty = np.zeros_like(full)
    assert normalized_surface_dice(full, full, (1, 1, 1), 0) == 1  # its edge is a surface
    assert normalized_surface_dice(empty, full, (1, 1, 1), 100) == 0
    assert normalized_surface_dice(full, empty, (1, 1, 1), 100) == 0
    assert math.isnan(normalized_surface_dice(empty, empty, (1, 1, 1), 1))
    assert math.isnan(normalized_surface_dice(empty[:0], empty[:0], (1, 1, 1), 1))
    hollow = np.ones((9, 9, 9), bool)
    hollow[4, 4, 4] = False
    solid = np.ones((9, 9, 9), bool)
    outer = 6 * 8 * 8 + 12 * 8 * math.sqrt(2) / 2 + 8 * math.sqrt(3) / 8  # faces, edges, corners
    hole = 8 * math.sqrt(3) / 8
    assert normalized_surface_dice(hollow, solid, (1, 1, 1), 1) == pytest.approx(
        2 * outer / (2 * outer + hole), rel=1e-14
    )


@settings(max_examples=2000)
@given(cases())
@example((np.ones((1, 1), bool), np.ones((1, 1), bool), (0.3, 0.3), 0.0))
def test_equals_deepminds_package(case):
    prediction, reference, spacing, tolerance = case
    assume(prediction.any() and reference.any())
    expected = theirs(prediction, reference, spacing, tolerance)
    value = normalized_surface_dice(prediction, reference, spacing, tolerance)
    assert value == pytest.approx(expected, abs=1e-12)


@settings(max_examples=150)
@given(cases(largest=5))
def test_equals_the_definition(case):
    prediction, reference, spacing, tolerance = case
    assume(prediction.any() and reference.any())
    # Among distances that tie on paper the package's own rounding decides; tested against it.
    tolerance = tolerance * (1 + 1e-9)
    expected = by_definition(prediction, reference, spacing, tolerance)
    value = normalized_surface_dice(prediction, reference, spacing, tolerance)
    assert value == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60)
@given(cases(largest=6))
def test_does_not_depend_on_memory_or_sides(case):
    prediction, reference, spacing, tolerance = case
    expected = normalized_surface_dice(prediction, reference, spacing, tolerance)
    for ours in arrangements(prediction):
        for other in arrangements(reference):
            value = normalized_surface_dice(ours, other, spacing, tolerance)
            np.testing.assert_equal(value, expected)  # to the last bit, and NaN equals NaN
    swapped = normalized_surface_dice(reference, prediction, spacing, tolerance)
    np.testing.assert_equal(swapped, expected)


@pytest.mark.parametrize("shape", [(150, 3, 4), (4, 150, 3), (3, 4, 150), (70, 130), (2, 129)])
@pytest.mark.parametrize("tolerance", [1, 70, 1000])
def test_long_rows_cross_words(shape, tolerance):
    random = np.random.default_rng(0)
    reference = random.random(shape) < 0.01
    prediction = random.random(shape) < 0.01
    reference.flat[0] = prediction.flat[-1] = True
    spacing = (1.0, 0.8, 1.3)[: len(shape)]
    for ours in arrangements(prediction):
        value = normalized_surface_dice(ours, reference, spacing, tolerance)
        expected = theirs(prediction, reference, spacing, tolerance)
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("axes", [*itertools.permutations(range(3)), (0, 1), (1, 0)])
def test_offsets_are_decided_by_the_last_bit(axes):
    random = np.random.default_rng(2)
    for _ in range(25):
        spacing = tuple(random.choice((*SPACINGS, *random.uniform(0.2, 2, 9)), len(axes)).tolist())
        chosen = random.integers(0, 7, len(axes)) * spacing
        tolerance = float(np.sqrt(sum(column * column for column in chosen)))  # on it exactly
        for limit in (tolerance, np.nextafter(tolerance, 0), np.nextafter(tolerance, 9e9)):
            search = nsd_module.Search.within(limit, spacing, axes, (8,) * len(axes))
            rows = zip(
                search.slabs.tolist(), search.rows.tolist(), search.bits.tolist(), strict=True
            )
            found = {
                (slab, row, bit) for slab, row, far in rows for bit in range(-far, far + 1)
            }  # fmt: skip
            assert len(found) == search.offsets
            expected = set()
            for offset in itertools.product(range(-8, 9), repeat=len(axes)):
                image = [offset[axes.index(axis)] * spacing[axis] for axis in range(len(axes))]
                if np.sqrt(sum(step * step for step in image)) <= limit:
                    expected.add((0, *offset) if len(axes) == 2 else offset)
            assert found == expected


def test_many_random_masks_with_ties_on_paper(monkeypatch):
    # Multiples of 0.1 and 0.3: which of two corners is the nearest is up to rounding, and at the
    # tolerance that decides. The rare way (measuring) must be taken, or this tests nothing.
    measured = []
    original = nsd_module.Unmatched.drop_measured

    def count(self, *arguments):
        measured.append(1)
        return original(self, *arguments)

    monkeypatch.setattr(nsd_module.Unmatched, "drop_measured", count)
    random = np.random.default_rng(1)
    for _ in range(400):
        shape = tuple(random.integers(4, 16, random.integers(2, 4)))
        step = float(random.choice((0.1, 0.3, 0.6, 0.7)))
        masks = [random.random(shape) < 0.03 for _ in range(2)]
        if not (masks[0].any() and masks[1].any()):
            continue
        arguments = (*masks, (step,) * len(shape), step * int(random.integers(2, 10)))
        assert normalized_surface_dice(*arguments) == pytest.approx(theirs(*arguments), abs=1e-12)
    assert measured


@pytest.mark.real
def test_real_masks_equal_deepminds_package(real_data):
    from covidseg.imaging.nifti import read_nifti

    volume = read_nifti(sorted((real_data / "lung_masks").glob("*.nii.gz"))[9])
    reference = volume.data == 1
    prediction = np.roll(reference, (2, -1, 1), (0, 1, 2))
    for tolerance in (1, 3):
        arguments = (prediction, reference, volume.spacing_mm, tolerance)
        assert normalized_surface_dice(*arguments) == pytest.approx(theirs(*arguments), abs=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"spacing_mm": (1, 0, 1)}, GeometryError, "positive"),
        ({"spacing_mm": (1, -1, 1)}, GeometryError, "positive"),
        ({"spacing_mm": (1, math.nan, 1)}, GeometryError, "positive"),
        ({"spacing_mm": (1, 1)}, GeometryError, "2 numbers for an image of 3"),
        ({"tolerance_mm": -1}, ScoringError, "tolerance"),
        ({"tolerance_mm": math.nan}, ScoringError, "tolerance"),
        ({"tolerance_mm": math.inf}, ScoringError, "tolerance"),
        ({"prediction": np.zeros((3, 3, 4), bool)}, GeometryError, "one grid"),
        ({"prediction": np.full((3, 3, 3), 0.5)}, LabelError, "Threshold"),
        ({"prediction": np.full((3, 3, 3), np.nan)}, LabelError, "not finite"),
        ({"prediction": np.full((3, 3, 3), 2)}, LabelError, "zeros and ones"),
        ({"prediction": np.full((3, 3, 3), -1)}, LabelError, "zeros and ones"),
        ({"prediction": np.full((3, 3, 3), "a")}, LabelError, "whole-numbered"),
    ],
)
def test_bad_input(change, error, words):
    mask = np.ones((3, 3, 3), bool)
    arguments = {"prediction": mask, "reference": mask, "spacing_mm": (1, 1, 1), "tolerance_mm": 1}
    with pytest.raises(error, match=words):
        normalized_surface_dice(**{**arguments, **change})


def test_masks_of_one_or_four_dimensions_have_no_surface():
    for shape in ((4,), (2, 2, 2, 2)):
        mask = np.ones(shape, bool)
        assert dice(mask, mask) == 1
        with pytest.raises(GeometryError, match="2 or 3 dimensions"):
            normalized_surface_dice(mask, mask, (1,) * len(shape), 1)
