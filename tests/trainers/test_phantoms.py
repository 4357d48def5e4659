"""Learning from phantoms first: what is drawn, what is learnt from, and that others start there."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from covidseg.core.errors import ConfigError, UnreadableFileError
from covidseg.engine.checkpoint import last_checkpoint
from covidseg.engine.recipes import load_recipe
from covidseg.engine.segmentation import new_network, planned
from covidseg.splits.tasks import configuration
from covidseg.trainers import phantoms, supervised
from covidseg.trainers.phantoms import PhantomsRecipe, draw, labelled_parts

TINY = [
    "--data.configuration=semiseg", "--data.fold=null", "--network.encoder=resnet18",
    "--grid.plane_size=[32,32]", "--patch.size=[32,32]", "--patch.batch_size=2",
    "--train.epochs=1", "--train.steps_per_epoch=1", "--train.workers=0", "--train.log_every=1",
    "--train.checkpoint_every=1", "--train.mixed_precision=no", "--optim.warmup_steps=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    place = tmp_path_factory.mktemp("drawn")
    return [*TINY, f"--data.cache={place / 'cache'}"]


@pytest.fixture(scope="module")
def drawn(words, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("phantoms")
    return [*words, "--phantoms.size=tiny", "--phantoms.seeds=2", f"--phantoms.folder={folder}"]


@pytest.fixture(scope="module")
def start(drawn, tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / "run"
    phantoms.main(["--recipe", "semiseg-phantoms", "--out", str(out), *drawn])
    return out


def test_parts_are_learnt_from_that_hold_all_labels():
    assert labelled_parts(configuration("semiseg")[0])[:2] == ["train", "test"]
    assert labelled_parts(configuration("task1-infection-fold0")[0]) == [
        "train", "test", "test_mosmed",
    ]  # fmt: skip
    # MosMed has no lungs: in a network of lungs and infection they would be background.
    assert labelled_parts(configuration("task1-union-fold0")[0]) == ["train", "test"]


def test_different_things_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="infection and tumour by one name"):
        labelled_parts(configuration("task3-msd-tumour-fold0")[0])


def test_every_case_is_drawn_by_each_seed(drawn, start):
    recipe = load_recipe("semiseg-phantoms", None, drawn, PhantomsRecipe)
    part = draw(recipe, progress=False)
    names = [case.case_id for case in part.cases]
    assert len(names) == len(set(names)) == 2 * (50 + 48)
    assert {name.split("@")[1] for name in names} == {"1", "2"}
    assert part.phantom
    assert all(case.label is not None for case in part.cases)
    # Another seed draws other patients.
    assert len({row.content for row in part.rows}) == len(part.rows)


def test_the_run_says_that_it_is_of_phantoms(start):
    manifest = json.loads((start / "manifest.json").read_text())
    assert manifest["phantom"] is True
    assert manifest["start"] is None
    assert manifest["data"]["train"]["phantom"] is True


def test_seeds_there_are_none_of(drawn):
    recipe = load_recipe("semiseg-phantoms", None, [*drawn, "--phantoms.seeds=0"], PhantomsRecipe)
    with pytest.raises(ConfigError, match=r"phantoms.seeds is 0"):
        draw(recipe, progress=False)


@pytest.fixture(scope="module")
def real_words(words, drawn, start):
    """What learns from one set of those phantoms as it would from real slices."""
    folder = next(word.split("=")[1] for word in drawn if word.startswith("--phantoms.folder"))
    return ["--recipe", "semiseg-2d", "--profile", "cpu", *words, f"--data.hub={folder}/tiny-1/hub"]


def test_another_training_starts_from_its_weights(real_words, start, tmp_path):
    out = tmp_path / "run"
    still = [f"--train.start={start}", "--optim.lr=1e-60"]
    supervised.main([*real_words, "--out", str(out), *still])
    before = safetensors.torch.load_file(last_checkpoint(start) / "model_ema.safetensors")
    after = safetensors.torch.load_file(last_checkpoint(out) / "model.safetensors")
    moving = ("running_mean", "running_var", "num_batches_tracked")
    weights = [name for name in before if not name.endswith(moving)]
    assert len(weights) > 50
    assert all(torch.equal(before[name], after[name]) for name in weights)
    said = json.loads((out / "manifest.json").read_text())["start"]
    assert said["run"] == str(start)
    assert said["phantom"] is True
    assert said["config_sha256"]


def test_a_second_network_starts_from_random_weights(real_words, start):
    values = [*real_words[4:], f"--train.start={start}"]
    recipe = load_recipe("semiseg-2d", "cpu", values, supervised.SegmentationRecipe)
    part = supervised.training_part(recipe.data)
    recipe = planned(recipe, part.cases, part.targets, progress=False)
    name = "encoder.conv1.weight"
    first, second, again = (new_network(recipe, place).state_dict()[name] for place in (0, 1, 1))
    assert not torch.equal(first, second)
    assert torch.equal(second, again)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("--network.encoder=resnet34", ConfigError, "weights of another network"),
        ("--train.start=/nowhere", UnreadableFileError, "holds no checkpoint"),
    ],
)
def test_a_start_of_another_kind_is_refused(real_words, start, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        supervised.main(
            [*real_words, "--out", str(tmp_path / "run"), f"--train.start={start}", change]
        )


def test_a_start_of_other_labels_is_refused(options, start, tmp_path):
    with pytest.raises(ConfigError, match=r"train.start names, predicts infection.*left_lung"):
        supervised.main(
            ["--recipe", "task1-lung-2d", "--out", str(tmp_path / "run"), *options,
             f"--train.start={start}"]
        )  # fmt: skip
