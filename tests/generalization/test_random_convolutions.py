"""GIN and RandConv against torch's own layers with the same weights, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from covidseg.core.errors import ConfigError
from covidseg.generalization.random_convolutions import (
    Gin,
    GinConfig,
    Layer,
    Network,
    RandConv,
    RandConvConfig,
    apply_gin,
    apply_gin_together,
)

SIZES = {2: (10, 12), 3: (6, 8, 7)}


def images(dimensions, count=4, channels=1):
    generator = torch.Generator().manual_seed(dimensions)
    return torch.randn(count, channels, *SIZES[dimensions], generator=generator)


def test_gin_by_hand():
    # g(x) = leaky(2x + 1)·3 − 1 at x = (1, −2): (3, −3) → (3, −0.03) → (8, −1.09).
    one = np.ones((1, 1, 1, 1), np.float32)
    layers = [Layer(2 * one, np.float32([1])), Layer(3 * one, np.float32([-1]))]
    image = torch.tensor([[[1.0, -2.0]]])
    mixed = torch.tensor([0.25 * 8 + 0.75 * 1, 0.25 * -1.09 + 0.75 * -2])
    expected = mixed * (5**0.5 / mixed.norm())
    found = apply_gin(image, Network(layers, 0.25))
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_gin_is_torchs_layers_with_the_drawn_weights(dimensions, channels):
    image = images(dimensions, 1, channels)
    gin = Gin(GinConfig(layers=4, channels=2))
    drawn = gin.draw(11, channels, dimensions)
    modules = []
    for number, layer in enumerate(drawn.layers):
        out, into, kernel = *layer.weight.shape[:2], layer.weight.shape[-1]
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions](into, out, kernel, padding="same")
        conv.weight.data[:] = torch.from_numpy(layer.weight)
        conv.bias.data[:] = torch.from_numpy(layer.bias)
        modules += [conv] if number == 3 else [conv, nn.LeakyReLU()]
    with torch.no_grad():
        g = nn.Sequential(*modules)(image)
    mixed = drawn.alpha * g + (1 - drawn.alpha) * image
    expected = mixed / torch.linalg.vector_norm(mixed) * torch.linalg.vector_norm(image)
    torch.testing.assert_close(gin.versions(image, [11]), expected, rtol=1e-4, atol=1e-5)
    assert [layer.weight.shape[:2] for layer in drawn.layers] == [
        (2, channels), (2, 2), (2, 2), (channels, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_gin_in_one_go_is_gin_one_by_one(dimensions, channels):
    image = images(dimensions, 6, channels)
    gin = Gin(GinConfig(layers=3, channels=2, kernel_sizes=(1, 3, 5)))
    networks = [gin.draw(seed, channels, dimensions) for seed in range(6)]
    assert len({layer.weight.shape[-1] for n in networks for layer in n.layers}) == 3
    expected = torch.stack([apply_gin(x, n) for x, n in zip(image, networks, strict=True)])
    found = apply_gin_together(image, networks)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for number, network in enumerate(networks):
        assert torch.equal(
            found[number : number + 1], apply_gin_together(image[number : number + 1], [network])
        )


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("method", [Gin(), RandConv(RandConvConfig(p_identity=0))])
def test_a_sample_does_not_depend_on_its_batch(dimensions, method):
    image, seeds = images(dimensions), [3, 1, 4, 159]
    kept = image.clone()
    whole = method({"image": image, "seed": torch.tensor(seeds)})["image"]
    for number, seed in enumerate(seeds):
        alone = method.versions(image[number : number + 1], [seed])
        assert torch.equal(whole[number], alone[0])
    assert torch.equal(image, kept)
    assert not torch.equal(whole, method.versions(image, [4, 1, 4, 159]))
    assert not torch.equal(whole, method.versions(image, seeds, version=1))


def test_the_published_numbers_are_the_defaults():
    draws = [Gin().draw(seed, 1, 2) for seed in range(400)]
    kernels = np.array([[layer.weight.shape[-1] for layer in d.layers] for d in draws])
    assert set(kernels.ravel()) == {1, 3}
    assert (kernels == 3).mean() == pytest.approx(0.5, abs=0.05)
    assert np.mean([d.alpha for d in draws]) == pytest.approx(0.5, abs=0.06)
    weights = np.concatenate([layer.weight.ravel() for d in draws for layer in d.layers])
    assert weights.std() == pytest.approx(1, abs=0.03)
    biases = np.concatenate([layer.bias for d in draws for layer in d.layers])
    assert biases.std() == pytest.approx(1, abs=0.05)

    drawn = [RandConv().draw(seed, 1, 2) for seed in range(1000)]
    assert np.mean([d is None for d in drawn]) == pytest.approx(0.5, abs=0.06)
    happened = [d for d in drawn if d]
    assert {d.layers[0].weight.shape[-1] for d in happened} == {1, 3, 5, 7}
    for kernel in (1, 3, 5, 7):
        weights = np.concatenate([
            d.layers[0].weight.ravel() for d in happened if d.layers[0].weight.shape[-1] == kernel
        ])  # fmt: skip
        assert weights.std() * kernel == pytest.approx(1, abs=0.15)


@given(st.integers(0, 2**62), st.floats(0.01, 50), st.sampled_from([2, 3]))
@settings(max_examples=20)
def test_gin_keeps_the_norm(seed, size, dimensions):
    image = size * images(dimensions, 1)
    found = Gin().versions(image, [seed])
    assert found.norm().item() == pytest.approx(image.norm().item(), rel=1e-3)
    assert torch.isfinite(found).all()


def test_randconv_alone_is_one_convolution():
    image = images(2, 1)
    method = RandConv(RandConvConfig(p_identity=0, mix=False, kernel_sizes=(5,)))
    weight = torch.from_numpy(method.draw(8, 1, 2).layers[0].weight)
    expected = torch.nn.functional.conv2d(image, weight, padding=2)
    torch.testing.assert_close(method.versions(image, [8]), expected)
    still = RandConv(RandConvConfig(p_identity=1)).versions(image, [8])
    assert torch.equal(still, image)


def test_an_empty_image_stays_finite():
    image = torch.zeros(1, 1, 8, 8)
    assert torch.isfinite(Gin().versions(image, [1])).all()


@pytest.mark.parametrize("config", [GinConfig, RandConvConfig])
@pytest.mark.parametrize("sizes", [(), (1, 2), (0,), (-1,)])
def test_kernels_need_a_middle(config, sizes):
    with pytest.raises(ConfigError, match="kernel_sizes is"):
        config(kernel_sizes=sizes)
