"""nnU-Net's rules: published test vectors, and the memory estimate against the library's own."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covidseg.core.errors import ConfigError
from covidseg.networks.build import build_network
from covidseg.networks.config import NetworkConfig
from covidseg.networks.planning import feature_map_values, plan, plan_low_resolution, topology

COVID_SPACING = (5, 0.742, 0.742)
COVID_SHAPE = (62, 512, 512)


def test_full_resolution_vector():
    found = plan(COVID_SPACING, COVID_SHAPE, voxels=199 * math.prod(COVID_SHAPE))
    assert found.patch_size == (28, 256, 256)
    assert found.batch_size == 2
    assert found.strides == (
        (1, 1, 1),
        *[(1, 2, 2)] * 2,
        *[(2, 2, 2)] * 2,
        *[(1, 2, 2)] * 2,
    )
    assert found.kernel_sizes == (*[(1, 3, 3)] * 2, *[(3, 3, 3)] * 5)
    assert found.features == (32, 64, 128, 256, 320, 320, 320)


def test_full_resolution_network_has_the_published_number_of_parameters():
    planned = plan(COVID_SPACING, COVID_SHAPE)
    config = NetworkConfig(classes=2, deep_supervision=True).with_plan(planned)
    millions = sum(p.numel() for p in build_network(config).parameters()) / 1e6
    assert millions == pytest.approx(44.8, abs=0.01)
    # nnU-Net v2's decoder: the kernels of the encoder's own stage.
    second = replace(config, decoder_kernel_sizes=planned.kernel_sizes[:-1])
    assert sum(p.numel() for p in build_network(second).parameters()) == 44_577_356


def test_low_resolution_vector():
    found = plan_low_resolution(COVID_SPACING, COVID_SHAPE)
    assert found.patch_size == (40, 224, 192)
    assert found.spacing_mm == pytest.approx((5, 1.15, 1.15), abs=0.01)


def test_no_low_resolution_where_the_patch_covers_the_volume():
    assert plan_low_resolution((1, 1, 1), (96, 96, 96)) is None


def test_two_dimensions_take_the_whole_slice():
    found = plan((0.742, 0.742), (512, 512))
    assert found.patch_size == (512, 512)
    assert found.batch_size == 12
    assert found.features == (32, 64, 128, 256, 512, 512, 512, 512)


def test_isotropic_volume_is_pooled_alike_along_all_axes():
    found = plan((1, 1, 1), (300, 300, 300))
    assert found.patch_size == (128, 128, 128)
    assert found.strides == ((1, 1, 1), *[(2, 2, 2)] * 5)


def test_batch_covers_at_most_five_percent_of_the_voxels_but_is_two_at_least():
    unlimited = plan((0.742, 0.742), (128, 128))
    limited = plan((0.742, 0.742), (128, 128), voxels=200 * 128 * 128)
    assert limited.batch_size == 10 < unlimited.batch_size
    assert plan((0.742, 0.742), (128, 128), voxels=4 * 128 * 128).batch_size == 2


def test_two_dimensions_learn_from_all_planes():
    """nnU-Net's `approximate_n_voxels_dataset` is that of the volumes for its 2D plan too."""
    voxels = 4 * math.prod(COVID_SHAPE)
    assert plan(COVID_SPACING[1:], COVID_SHAPE[1:], voxels=voxels).batch_size == 12
    assert plan(COVID_SPACING[1:], COVID_SHAPE[1:], voxels=voxels // 2).batch_size == 6


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [((1, 1), (10, 10, 10)), ((0, 1, 1), (9, 9, 9)), ((1, 1, 1), (9, -9, 9)), ((1,), (9,))],
)
def test_impossible_geometry_is_refused(spacing, shape):
    with pytest.raises(ConfigError, match="cannot plan"):
        plan(spacing, shape)


@pytest.mark.parametrize("family", ["plain", "residual"])
@pytest.mark.parametrize(
    ("spacing", "shape"), [((5, 1, 1), (16, 64, 64)), ((1, 1, 1), (32, 32, 32)), ((1, 1), (64, 96))]
)
def test_memory_estimate_is_the_librarys(family, spacing, shape):
    found = plan(spacing, shape, family=family, classes=3)
    ours = feature_map_values(
        family,
        found.patch_size,
        found.strides,
        found.features,
        found.encoder_blocks,
        found.decoder_blocks,
        classes=3,
    )
    config = NetworkConfig(family=family, dimensions=len(spacing), classes=3).with_plan(found)
    assert ours == build_network(config).compute_conv_feature_map_size(found.patch_size)


@settings(max_examples=60)
@given(
    spacing=st.tuples(*[st.floats(0.3, 10)] * 3),
    shape=st.tuples(*[st.integers(1, 700)] * 3),
    family=st.sampled_from(["plain", "residual"]),
)
def test_plans_hold_their_own_rules(spacing, shape, family):
    found = plan(spacing, shape, family=family)
    divisor = [math.prod(s[a] for s in found.strides) for a in range(3)]
    assert all(edge % step == 0 for edge, step in zip(found.patch_size, divisor, strict=True))
    # No axis is pooled below an edge of 4, and padding never doubles an edge that was clipped.
    assert all(
        edge // step >= 4 for edge, step in zip(found.patch_size, divisor, strict=True) if step > 1
    )
    assert all(
        edge < step + size
        for edge, size, step in zip(found.patch_size, shape, divisor, strict=True)
    )
    assert found.batch_size >= 2
    assert len(found.features) == len(found.strides) == len(found.kernel_sizes)
    assert topology(spacing, found.patch_size).strides == found.strides
