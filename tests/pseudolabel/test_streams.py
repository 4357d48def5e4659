"""Streams and methods from a recipe and cached cases, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covidseg.core.errors import ConfigError
from covidseg.engine.augmentation import Augmentation, AugmentationConfig
from covidseg.engine.cache import IGNORE_LABEL, CachedCase
from covidseg.engine.patches import Patches
from covidseg.engine.recipes import load_recipe
from covidseg.engine.segmentation import GridConfig, PatchConfig, new_network
from covidseg.engine.stream import collate
from covidseg.networks.config import NetworkConfig
from covidseg.pseudolabel.build import new_method, training_streams
from covidseg.pseudolabel.config import (
    CopyPasteConfig,
    MeanTeacherConfig,
    MethodConfig,
    UncertaintyConfig,
    UniMatchConfig,
)
from covidseg.pseudolabel.recipe import PseudolabelRecipe, StrongViewConfig, UnlabelledConfig
from covidseg.pseudolabel.streams import Views, spatial_part, strong_part

NAMES = ("noisy-student", "mean-teacher", "ua-mt", "cps", "bcp", "unimatch")
RECIPE = PseudolabelRecipe(
    name="streams",
    seed=3,
    network=NetworkConfig(dimensions=2, strides=((1, 1), (2, 2)), features=(3, 4)),
    grid=GridConfig(low=-1000.0, high=400.0, mean=-400.0, std=400.0),
    patch=PatchConfig(size=(16, 16), batch_size=4),
)
VOLUMETRIC = replace(
    RECIPE,
    network=NetworkConfig(strides=((1, 1, 1), (1, 2, 2)), features=(3, 4), deep_supervision=True),
    patch=PatchConfig(size=(4, 16, 16), batch_size=2),
)


def make_case(folder, name, *, label=None, value=None):
    """A cached case of 6×24×24 voxels; ``label`` draws a box of 1 in a map filled with it."""
    path = folder / name
    path.mkdir()
    rng = np.random.default_rng(list(name.encode()))
    image = rng.normal(size=(6, 24, 24)) if value is None else np.full((6, 24, 24), value)
    np.save(path / "image.npy", image.astype(np.float16))
    foreground = {}
    if label is not None:
        mask = np.full((6, 24, 24), label, np.uint8)
        mask[2:4, 8:14, 8:14] = 1
        np.save(path / "label.npy", mask)
        np.save(path / "voxels_1.npy", np.argwhere(mask == 1).astype(np.int32))
        foreground = {1: 72}
    return CachedCase(name, "phantom", path, (6, 24, 24), foreground, name)


@pytest.fixture
def cases(tmp_path):
    labelled = [make_case(tmp_path, f"labelled-{i}", label=0) for i in range(2)]
    unlabelled = [make_case(tmp_path, f"unlabelled-{i}") for i in range(2)]
    pseudo = [make_case(tmp_path, f"pseudo-{i}", label=IGNORE_LABEL) for i in range(2)]
    return labelled, unlabelled, pseudo


def with_method(recipe, name, **settings):
    return replace(recipe, method=MethodConfig(name), **settings)


def batch_of(streams):
    """The first step's batch, augmented, as the loop makes it."""
    batch = {}
    for name, stream in streams.items():
        part = collate([stream.dataset[i] for i in range(stream.batch_size)])
        part["seed"] = torch.arange(stream.batch_size)
        batch[name] = stream.augment(part)
    return batch


@pytest.mark.parametrize("recipe", [RECIPE, VOLUMETRIC], ids=["2D", "3D"])
@pytest.mark.parametrize("name", ["supervised", *NAMES])
def test_a_recipe_becomes_a_method_that_steps_on_its_streams(cases, recipe, name):
    recipe = with_method(recipe, name)
    labelled, unlabelled, pseudo = cases
    others = pseudo if name == "noisy-student" else unlabelled
    streams = training_streams(recipe, labelled, others, {"phantom": True})
    method = new_method(recipe, lambda place: new_network(recipe, place))
    assert method.predictor in method.modules()
    loss = method.step(batch_of(streams))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    for network in method.modules().values():
        trained = [p for p in network.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trained)
    assert all(stream.dataset.provenance == {"phantom": True} for stream in streams.values())


def test_the_second_network_of_cps_has_other_first_weights():
    recipe = with_method(RECIPE, "cps")
    method = new_method(recipe, lambda place: new_network(recipe, place))
    weights = [next(iter(n.parameters())) for n in (method.first, method.second)]
    assert not torch.equal(*weights)


def test_unlabelled_patches_carry_no_label_even_where_one_is_known(cases):
    labelled, _, _ = cases
    streams = training_streams(with_method(RECIPE, "mean-teacher"), labelled, labelled, {})
    assert "label" in streams["labelled"].dataset[0]
    assert set(streams["unlabelled"].dataset[0]) == {"image", "case_id"}


def test_both_streams_draw_other_places_of_the_same_cases(cases):
    labelled, _, _ = cases
    streams = training_streams(with_method(RECIPE, "bcp"), labelled, labelled, {})
    drawn = [
        [streams[name].dataset[i]["image"] for i in range(8)] for name in ("labelled", "unlabelled")
    ]
    assert sum(torch.equal(a, b) for a, b in zip(*drawn, strict=True)) < 3


def test_batch_sizes(cases):
    labelled, unlabelled, pseudo = cases
    own = UnlabelledConfig(batch_size=6)
    for name, others, key in (
        ("ua-mt", unlabelled, "unlabelled"),
        ("noisy-student", pseudo, "pseudo"),
    ):
        streams = training_streams(with_method(RECIPE, name), labelled, others, {})
        assert {key: s.batch_size for key, s in streams.items()} == {"labelled": 4, key: 4}
        streams = training_streams(with_method(RECIPE, name, unlabelled=own), labelled, others, {})
        assert {key: s.batch_size for key, s in streams.items()} == {"labelled": 4, key: 6}


def test_pseudo_labelled_patches_hold_lesion_and_what_is_ignored(cases):
    labelled, _, pseudo = cases
    recipe = with_method(RECIPE, "noisy-student")
    recipe = replace(recipe, patch=replace(recipe.patch, foreground_share=1))
    streams = training_streams(recipe, labelled, pseudo, {})
    label = batch_of(streams)["pseudo"]["label"]
    assert set(label.unique().tolist()) <= {0, 1, IGNORE_LABEL}
    patches = Patches(pseudo, (16, 16), foreground_share=1, pad_value=0, seed=1)
    assert all((patches[i]["label"] == 1).any() for i in range(20))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**62))
def test_strong_views_show_at_each_voxel_what_the_weak_one_shows(seed):
    """Without blur each is the weak view through a rising function of intensity."""
    weak = Augmentation(spatial_part(AugmentationConfig(p_rotation=1, p_scale=1)), (16, 16))
    strong = Augmentation(strong_part(StrongViewConfig(p_blur=0.0, p_brightness=1)), (16, 16))
    image = torch.rand(2, 1, *weak.input_size, generator=torch.Generator().manual_seed(seed % 1000))
    batch = {"image": image, "seed": torch.tensor([seed, seed + 1]), "case_id": ["a", "b"]}
    views = Views(weak, strong)(batch)
    assert torch.equal(views["image"], Views(weak)(batch)["image"])
    assert views["image"].shape == (2, 1, 16, 16)
    assert not torch.allclose(views["strong_1"], views["strong_2"])
    for name in ("strong_1", "strong_2"):
        for plain, seen in zip(views["image"], views[name], strict=True):
            ordered = seen.flatten()[plain.flatten().argsort()]
            assert (ordered.diff() >= -1e-6).all()
            assert not torch.allclose(plain, seen)


def test_strong_views_move_nothing_and_weak_ones_keep_intensities():
    strong = Augmentation(strong_part(StrongViewConfig()), (16, 16))
    draws = [strong.draw(seed) for seed in range(300)]
    assert all(draw.linear is None and not draw.mirror for draw in draws)
    for part, share in (("brightness", 0.8), ("contrast", 0.8), ("blur", 0.5)):
        happens = np.mean([getattr(draw, part) is not None for draw in draws])
        assert happens == pytest.approx(share, abs=0.08)
    weak = Augmentation(spatial_part(AugmentationConfig()), (16, 16))
    for draw in map(weak.draw, range(300)):
        assert all(
            getattr(draw, part) is None
            for part in ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma")
        )


def test_no_unlabelled_case_is_refused(cases):
    labelled, unlabelled, _ = cases
    for name in NAMES:
        with pytest.raises(ConfigError, match=f"method {name} learns from unlabelled scans"):
            training_streams(with_method(RECIPE, name), labelled, [], {})
    assert list(training_streams(RECIPE, labelled, unlabelled, {})) == ["labelled"]


def test_a_pseudo_labelled_case_without_its_label_is_refused(cases):
    labelled, unlabelled, _ = cases
    with pytest.raises(ConfigError, match="unlabelled-0 has no pseudo-label"):
        training_streams(with_method(RECIPE, "noisy-student"), labelled, unlabelled, {})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MethodConfig(mean_teacher=MeanTeacherConfig(decay=1.0)), r"mean_teacher.decay is 1.0"),
        (MethodConfig(mean_teacher=MeanTeacherConfig(ramp=0.0)), r"mean_teacher.ramp is 0"),
        (MethodConfig(ua_mt=UncertaintyConfig(passes=0)), r"ua_mt.passes is 0"),
        (MethodConfig(ua_mt=UncertaintyConfig(threshold=(1.0, 0.75))), r"ua_mt.threshold is"),
        (MethodConfig(bcp=CopyPasteConfig(box=1.2)), r"bcp.box is 1.2"),
        (MethodConfig(bcp=CopyPasteConfig(pretraining=1.0)), r"bcp.pretraining is 1"),
        (MethodConfig(bcp=CopyPasteConfig(pseudo_weight=-0.5)), r"bcp.pseudo_weight is -0.5"),
        (MethodConfig(unimatch=UniMatchConfig(dropout=1.0)), r"unimatch.dropout is 1"),
        (MethodConfig(unimatch=UniMatchConfig(teacher_decay=2.0)), r"unimatch.teacher_decay is 2"),
    ],
)
def test_impossible_numbers_are_refused(method, message):
    with pytest.raises(ConfigError, match=message):
        new_method(replace(RECIPE, method=method), lambda place: new_network(RECIPE, place))


def test_impossible_strong_views_are_refused():
    strong = StrongViewConfig(brightness=(1.5, 0.5))
    recipe = with_method(RECIPE, "unimatch")
    recipe = replace(recipe, unlabelled=replace(recipe.unlabelled, strong=strong))
    with pytest.raises(ConfigError, match=r"unlabelled.strong.brightness is \[1.5, 0.5\]"):
        new_method(recipe, lambda place: new_network(RECIPE, place))


@pytest.mark.parametrize("name", ["bcp", "unimatch"])
def test_a_batch_that_is_no_pairs_is_refused_before_the_first_step(name):
    recipe = with_method(RECIPE, name)
    recipe = replace(recipe, patch=replace(recipe.patch, batch_size=3))
    with pytest.raises(ConfigError, match=r"mixed in pairs, and a process has 3"):
        recipe.check()
    # Nor where two micro-batches share out what is even.
    accumulating = replace(
        recipe,
        patch=replace(recipe.patch, batch_size=6),
        train=replace(recipe.train, accumulate=2),
    )
    with pytest.raises(ConfigError, match=r"mixed in pairs, and a process has 3"):
        accumulating.check()
    method = MethodConfig(
        name=name, bcp=CopyPasteConfig(pretraining=0), unimatch=UniMatchConfig(p_cutmix=0)
    )
    replace(recipe, method=method).check()


def test_bcp_needs_as_many_unlabelled_as_labelled_patches_before_the_first_step():
    recipe = with_method(RECIPE, "bcp")
    recipe = replace(recipe, unlabelled=replace(recipe.unlabelled, batch_size=8))
    with pytest.raises(ConfigError, match=r"bcp mixes as many .* unlabelled.batch_size 8"):
        new_method(recipe, lambda place: new_network(RECIPE, place))


def test_recipes_name_methods_and_their_numbers(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: mine\n"
        "method: {name: ua-mt, ua_mt: {passes: 4}}\n"
        "unlabelled: {part: pool, strong: {p_blur: 0.2}}\n"
    )
    recipe = load_recipe(path, schema=PseudolabelRecipe)
    assert recipe.method.name == "ua-mt"
    assert recipe.method.ua_mt == UncertaintyConfig(passes=4)
    assert recipe.unlabelled == UnlabelledConfig("", "pool", strong=StrongViewConfig(p_blur=0.2))
    assert (recipe.loss.dice_weight, recipe.loss.cross_entropy_weight) == (0.5, 0.5)
    assert MethodConfig().unimatch.threshold == 0.95
    with pytest.raises(ConfigError, match=r"Did you mean method.ua_mt.passes"):
        load_recipe(path, overrides=["--method.ua_mt.pases", "3"], schema=PseudolabelRecipe)
    with pytest.raises(ConfigError, match="mean-techer"):
        load_recipe(path, overrides=["--method.name", "mean-techer"], schema=PseudolabelRecipe)
