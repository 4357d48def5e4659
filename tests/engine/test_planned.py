"""What is planned for a recipe: nnU-Net's sizes where it is silent, and its own where it is not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from covidseg.core.errors import ConfigError
from covidseg.engine import segmentation
from covidseg.engine.cache import TrainingCase
from covidseg.engine.config import as_mapping, differences
from covidseg.engine.fingerprint import Fingerprint
from covidseg.engine.recipes import load_recipe, write_recipe
from covidseg.engine.segmentation import SegmentationRecipe, planned, planned_as_before
from covidseg.registry.cases import HU

# Medians as of COVID-19 scans, (z, y, x).
MEASURED = Fingerprint((5.0, 0.75, 0.75), (62, 512, 512), -900.0, 100.0, -400.0, 300.0)
INFECTION = {1: "infection"}


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Cases that are measured without being read."""
    monkeypatch.setattr(segmentation, "fingerprint", lambda *_, **__: MEASURED)


def plan_of(
    *words: str, recipe: str = "task1-infection-3d", targets: dict[int, str] = INFECTION
) -> SegmentationRecipe:
    """A recipe of the package, planned for four cases."""
    cases = [TrainingCase(str(number), Path("none"), None, HU, {}) for number in range(4)]
    loaded = load_recipe(recipe, None, words, SegmentationRecipe)
    return planned(loaded, cases, targets, progress=False)


def test_two_dimensions_take_batches_of_all_planes():
    """5 % of four scans' voxels are 12 slices, as many as nnU-Net's memory holds."""
    found = plan_of(recipe="task1-infection-2d")
    assert found.patch.size == (512, 512)
    assert found.patch.batch_size == 12
    assert round(0.05 * 4 * math.prod(MEASURED.shape) / math.prod(found.patch.size)) == 12


def test_two_dimensions_leave_the_planes_as_they_are(tmp_path):
    """nnU-Net's 2D target spacing has two numbers; the preprocessor takes the scan's own for z."""
    found = plan_of(recipe="task1-infection-2d")
    assert found.grid.spacing_mm == (None, 0.75, 0.75)
    write_recipe(found, tmp_path / "config.yaml")
    assert load_recipe(tmp_path / "config.yaml", schema=SegmentationRecipe) == found
    assert plan_of().grid.spacing_mm == (5.0, 0.75, 0.75)


def test_a_spacing_that_is_stated_stays():
    for stated in ((3.0, 1.5, 1.5), (None, 1.5, 1.5)):
        option = f"--grid.spacing_mm={json.dumps(stated)}"
        found = plan_of(option, recipe="task1-infection-2d")
        assert found.grid.spacing_mm == stated
        assert found.patch.size == (256, 256)


def test_the_scans_own_planes_are_for_2d_networks():
    with pytest.raises(ConfigError, match=r"is \[null, 1.0, 1.0\] and network.dimensions is 3"):
        plan_of("--grid.spacing_mm=[null,1,1]")


@pytest.mark.parametrize("family", ["plain", "residual"])
@pytest.mark.parametrize("recipe", ["task1-infection-2d", "task1-infection-3d"])
def test_the_planned_patch_stated_gives_the_planned_network(family, recipe):
    option = f"--network.family={family}"
    silent = plan_of(option, recipe=recipe)
    stated = plan_of(option, f"--patch.size={list(silent.patch.size)}", recipe=recipe)
    assert stated == silent
    assert silent.network.decoder_kernel_sizes is not None


def test_a_smaller_patch_has_a_shallower_network_of_the_same_family():
    found = plan_of("--network.family=residual", "--patch.size=[8,64,64]").network
    assert found.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2))
    assert found.kernel_sizes == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert found.decoder_kernel_sizes == found.kernel_sizes[:-1]
    assert (found.encoder_blocks, found.decoder_blocks) == ((1, 3, 4, 6, 6), (1, 1, 1, 1))
    assert found.features == (32, 64, 128, 256, 320)


@pytest.mark.parametrize("patch", [[], ["--patch.size=[8,64,64]"]])
def test_only_what_is_stated_is_not_planned(patch):
    whole = plan_of("--network.family=residual", *patch).network
    own = ["--network.features=[4,8,16]", "--network.decoder_blocks=[2,2]"]
    found = plan_of("--network.family=residual", *own, *patch).network
    assert (found.features, found.decoder_blocks) == ((4, 8, 16), (2, 2))
    for name in ("strides", "kernel_sizes", "encoder_blocks"):
        assert getattr(found, name) == getattr(whole, name)[:3]
    assert found.decoder_kernel_sizes == whole.decoder_kernel_sizes[:2]
    found.check()


def test_a_patch_need_not_suit_stages_that_there_are_not():
    """Two stages halve a patch once, however often it could be halved."""
    words = ["--network.features=[4,8]", "--patch.size=[36,38]"]
    found = plan_of(*words, recipe="task1-infection-2d")
    assert found.patch.size == (36, 38)
    assert found.network.strides == ((1, 1), (2, 2))
    with pytest.raises(ConfigError, match=r"\(36, 37\) cannot be halved .* expected \(36, 38\)"):
        plan_of(words[0], "--patch.size=[36,37]", recipe="task1-infection-2d")
    with pytest.raises(ConfigError, match=r"\(36, 38\) cannot be halved .* expected \(40, 40\)"):
        plan_of(words[1], recipe="task1-infection-2d")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network.features=[4,8,16,32,64,128]"], r"features has 6 entries; expected at most 5"),
        (["--network.kernel_sizes=[[3,3],[3,3]]"], r"kernel_sizes has 2 entries; expected 5"),
        (["--network.encoder_blocks=[2,2]"], r"encoder_blocks has 2 entries; expected 5"),
        (["--network.features=[]"], "at least two stages"),
        (["--network.features=[4,8]", "--network.decoder_blocks=[1,1]"], r"2 entries; expected 1"),
        (["--network.family=smp", "--network.features=[4,8]"], r"features with .*family smp"),
        (["--network.classes=7"], r"classes is 7; expected 3: the background, left, right"),
        (["--network.classes=2"], r"classes is 2; expected 3"),
    ],
)
def test_sizes_that_contradict_the_plan_are_refused(words, message):
    words = ["--network.deep_supervision=false", "--patch.size=[80,80]", *words]
    with pytest.raises(ConfigError, match=message):
        plan_of(*words, recipe="task1-infection-2d", targets={1: "left", 2: "right"})


def test_the_labels_decide_how_many_classes_there_are():
    assert plan_of().network.classes == 2
    assert plan_of(targets={1: "left", 2: "right"}).network.classes == 3
    assert plan_of("--network.classes=3", targets={1: "a", 2: "b"}).network.classes == 3


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("window.overlap=1.0", "window.overlap is 1.0; expected at least 0 and below 1"),
        ("window.overlap=2", "window.overlap is 2"),
        ("window.overlap=.nan", "window.overlap is nan"),
        ("window.batch_size=-1", "window.batch_size is -1; expected at least 1"),
        ("window.logit_adjustment=.inf", "window.logit_adjustment is inf"),
        ("augmentation.p_mirror=5", "augmentation.p_mirror is 5.* expected a probability"),
        ("augmentation.p_gamma=-0.1", "augmentation.p_gamma is -0.1"),
        ("augmentation.mirror_axes=[-1]", r"mirror_axes is \[-1\]; expected .* 0, 1, in a patch"),
        ("augmentation.mirror_axes=[3]", r"mirror_axes is \[3\]"),
        ("augmentation.mirror_axes=[2]", r"mirror_axes is \[2\]"),
        ("augmentation.mirror_axes=[0,0]", r"mirror_axes is \[0, 0\]; expected each once"),
        ("augmentation.scale=[1.4,0.7]", "augmentation.scale is .* the lesser first, above 0"),
        ("augmentation.scale=[0,1]", "augmentation.scale is"),
        ("augmentation.low_resolution=[0.5,2]", "low_resolution is .* above 0, to 1"),
        ("augmentation.noise_variance=[-1,1]", "noise_variance is .* from 0 up"),
        ("augmentation.gamma=[1,.inf]", "augmentation.gamma is"),
        ("augmentation.rotation_degrees=-3", "rotation_degrees is -3"),
        ("loss.smooth=-1", "loss.smooth is -1"),
        ("patch.batch_size=0", "patch.batch_size is 0; expected at least 1"),
        ("patch.foreground_share=1.5", "patch.foreground_share is 1.5"),
        ("patch.size=[0,64]", r"patch.size is \(0, 64\); expected 2 numbers of at least 1"),
        ("train.epochs=0", "train.epochs is 0"),
        ("grid.spacing_mm=[0,1,1]", r"spacing_mm is \[0.0, 1.0, 1.0\]; expected numbers above 0"),
        ("grid.spacing_mm=[null,1,-1]", r"spacing_mm is \[null, 1.0, -1.0\]"),
        ("grid.plane_size=[0,64]", r"plane_size is \[0, 64\]; expected numbers of at least 1"),
    ],
)
def test_what_cannot_be_is_refused_before_training(word, message, monkeypatch):
    monkeypatch.setattr(segmentation, "fingerprint", None)  # nothing is measured either
    with pytest.raises(ConfigError, match=message):
        plan_of(f"--{word}", recipe="task1-infection-2d")


def test_all_three_axes_are_both_of_a_plane():
    plan_of("--augmentation.mirror_axes=[0,1,2]", recipe="task1-infection-2d")
    plan_of("--augmentation.mirror_axes=[2]")
    plan_of("--augmentation.mirror_axes=[]")


STRIDES = ["--network.strides=[[1,1],[2,2],[2,2]]", "--network.features=[4,8,16]"]


def test_a_patch_that_the_stated_strides_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"\[42, 42\] by \[4, 4\].* patch.size \[44, 44\]"):
        plan_of(*STRIDES, "--patch.size=[42,42]", recipe="task1-infection-2d")
    thirds = "--network.strides=[[1,1],[3,3],[2,2]]"
    with pytest.raises(ConfigError, match=r"\[512, 512\] by \[6, 6\]"):
        plan_of(*STRIDES, thirds, recipe="task1-infection-2d")
    found = plan_of(*STRIDES, "--patch.size=[44,44]", recipe="task1-infection-2d")
    assert found.patch.size == (44, 44)
    assert found.network.strides == ((1, 1), (2, 2), (2, 2))


def test_patches_of_the_librarys_networks_are_asked_of_these():
    words = ["--network.family=smp", "--network.deep_supervision=false"]
    words += ["--network.encoder=resnet18"]
    for size in ("[50,50]", "[51,37]"):  # which a U-Net of that library takes
        plan_of(*words, f"--patch.size={size}", recipe="task1-infection-2d")
    words += ["--network.architecture=PAN"]
    with pytest.raises(ConfigError, match=r"PAN .* no patch of \[64, 96\] \(RuntimeError: Given"):
        plan_of(*words, "--patch.size=[64,96]", recipe="task1-infection-2d")
    plan_of(*words, "--patch.size=[128,160]", recipe="task1-infection-2d")


@pytest.mark.parametrize("family", ["plain", "smp"])
def test_images_have_one_channel(family):
    words = [f"--network.family={family}", "--network.deep_supervision=false"]
    plan_of(*words, "--patch.size=[64,64]", recipe="task1-infection-2d")
    with pytest.raises(ConfigError, match=r"in_channels is 3; expected 1"):
        plan_of(*words, "--network.in_channels=3", recipe="task1-infection-2d")


@pytest.mark.parametrize("recipe", ["task1-infection-2d", "task1-infection-3d", "semiseg-2d"])
@pytest.mark.parametrize("words", [[], ["--network.features=[4,8]", "--patch.batch_size=3"]])
def test_what_is_left_open_is_as_a_begun_run_has_it(recipe, words, tmp_path):
    """Without a case being measured, and nothing else is taken from the run."""
    if recipe == "semiseg-2d":
        words = [word for word in words if "network" not in word]
    whole = plan_of(*words, recipe=recipe)
    loaded = load_recipe(recipe, None, words, SegmentationRecipe)
    assert planned_as_before(loaded, tmp_path) == loaded
    checkpoint = tmp_path / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    described = {"format": 1, "config": as_mapping(whole)}
    (checkpoint / "checkpoint.json").write_text(json.dumps(described))
    assert as_mapping(planned_as_before(loaded, tmp_path)) == as_mapping(whole)
    changed = ["--train.clip_norm=null", "--loss.dice_weight=3", "--patch.foreground_share=0.1"]
    other = load_recipe(recipe, None, [*words, *changed], SegmentationRecipe)
    found = differences(as_mapping(whole), as_mapping(planned_as_before(other, tmp_path)))
    assert {line.split(":")[0] for line in found} == {
        "train.clip_norm", "loss.dice_weight", "patch.foreground_share",
    }  # fmt: skip
