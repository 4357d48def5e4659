"""Recipes: profiles, overrides, and what is said of mistakes."""

from dataclasses import dataclass, field

import pytest

from covidseg.core.errors import ConfigError, UnreadableFileError
from covidseg.engine.config import Recipe, differences, fingerprint, free_keys
from covidseg.engine.recipes import load_recipe, recipe_keys, recipe_parser, write_recipe

TEXT = """
name: lungs
optim: {lr: 1e-3, name: adamw}
network:
  strides: [[1, 1, 1], [2, 2, 2]]
profiles:
  demo:
    train: {epochs: 3, steps_per_epoch: 5}
    optim: {lr: 0.5}
  full:
    train: {epochs: 1000}
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "lungs.yaml"
    path.write_text(TEXT)
    return path


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_profile_replaces_values_and_keeps_the_others(recipe_file):
    base = load_recipe(recipe_file)
    demo = load_recipe(recipe_file, "demo")
    assert base.optim.lr == 1e-3
    assert base.train == Recipe(name="").train
    assert (demo.optim.lr, demo.optim.name) == (0.5, "adamw")
    assert demo.train.steps == 15
    assert demo.network.strides == ((1, 1, 1), (2, 2, 2))


@pytest.mark.parametrize("words", [["--optim.lr", "0.1"], ["--optim.lr=0.1"], ["--optim.lr=1e-1"]])
def test_command_line_overrides_profile_and_file(recipe_file, words):
    assert load_recipe(recipe_file, "demo", words).optim.lr == 0.1


def test_overrides_have_the_types_of_the_fields(recipe_file):
    words = ["--network.features", "[4, 8]", "--train.ema", "0.99", "--train.clip_norm", "null"]
    found = load_recipe(recipe_file, None, words)
    assert found.network.features == (4, 8)
    assert found.train.ema == 0.99
    assert found.train.clip_norm is None


def test_resolved_recipe_reads_back_as_itself(recipe_file, tmp_path):
    found = load_recipe(recipe_file, "demo", ["--loss.ignore_label", "255"])
    write_recipe(found, tmp_path / "config.yaml")
    assert load_recipe(tmp_path / "config.yaml") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\noptim: {lrr: 1}", r"unknown key optim\.lrr.*mean optim\.lr\?"),
        ("name: x\ndata: {fold: 1}", r"unknown key data\. Pass the schema"),
        ("name: x\nlr: 1", r"unknown key lr\. Did you mean optim\.lr\?"),
        ("name: x\noptimizer: {lr: 1}", r"unknown key optimizer.*mean optim\?"),
        ("name: x\noptim: {lr: fast}", r"optim\.lr.*float.*fast"),
        ("name: x\noptim: {name: adam}", r"optim\.name.*adamw.*adam"),
        ("name: x\ntrain: {epochs: 2.5}", r"train\.epochs.*int.*2\.5"),
        ("seed: 3", "name"),
        ("name: x\nprofiles: {demo: {train: {epoch: 1}}}", r"unknown key train\.epoch\."),
        ("- a\n- b", "not a recipe"),
        ("name: x\n{{y}}: 1", r"line 2: a key is no name.*expected names.*quotes around it"),
        ("name: x\n? [a, b]\n: 1", "line 2: a key is no name"),
        ("name: x\nloss: {name: {{y}}}", "line 2: a key is no name"),
        ("name: x\nprofiles: 3", "profiles is 3; expected names.*below profiles"),
        ("name: x\nprofiles: [demo]", r"profiles is \['demo'\]; expected names"),
        ("name: x\nprofiles: {demo: 4}", r"profiles\.demo is 4; expected names"),
        ("name: x\nprofiles: {1: {}}", "no profile 'demo'; expected one of 1"),
        ("name: x\noptim: [1]", r"optim is \[1\]; expected names.*leave it out"),
        ("name: x\noptim:", "optim is empty; expected names"),
        ("name: x\nprofiles: {demo: {optim: 3}}", "optim is 3; expected names"),
        ("name: x\noptim: {lr: }", r"optim\.lr is empty; expected float.*its default, 0\.01"),
        ("name: x\nnetwork: {deep_supervision: null}", r"deep_supervision is empty; expected bool"),
        ("name: x\nprofiles: {demo: {train: {epochs: }}}", r"train\.epochs is empty"),
        ("name: x\nnetwork: {norm: }", r"norm is empty; expected .*'instance', 'batch'"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(write(tmp_path, text), "demo" if "profiles" in text else None)
    assert caught.value.path == tmp_path / "recipe.yaml"


def test_no_is_a_word_and_switches_may_be_yes_or_no(tmp_path):
    text = "name: on\ntrain: {mixed_precision: no, compile: %s}"
    for word, meant in (("yes", True), ("off", False), ("True", True), ("false", False)):
        found = load_recipe(write(tmp_path, text % word))
        assert (found.name, found.train.mixed_precision, found.train.compile) == ("on", "no", meant)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(UnreadableFileError, match="'name' stands twice"):
        load_recipe(write(tmp_path, "name: x\nname: y"))


def test_unknown_option_and_profile_and_recipe(recipe_file):
    with pytest.raises(ConfigError, match=r"--lr\. Did you mean optim\.lr\?"):
        load_recipe(recipe_file, None, ["--lr", "1"])
    with pytest.raises(ConfigError, match="no profile 'quick'; expected one of demo, full"):
        load_recipe(recipe_file, "quick")
    with pytest.raises(UnreadableFileError, match="no such recipe"):
        load_recipe("no-such-recipe")


def test_yaml_cannot_execute_code(tmp_path):
    path = write(tmp_path, "name: !!python/object/apply:os.getcwd []")
    with pytest.raises(UnreadableFileError, match="YAML"):
        load_recipe(path)


@dataclass(frozen=True)
class DataConfig:
    """Data.

    Parameters
    ----------
    fold
        Which fold.
    """

    fold: int = 0
    root: str = field(default="", metadata={"free": True})


@dataclass(frozen=True)
class FoldRecipe(Recipe):
    """A recipe with a section of its own."""

    data: DataConfig = field(default_factory=DataConfig)


def test_trainers_add_sections_by_a_subclass(tmp_path):
    path = write(tmp_path, "name: x\ndata: {fold: 2}")
    found = load_recipe(path, None, ["--data.root", "/there"], FoldRecipe)
    assert found.data == DataConfig(2, "/there")
    assert "data.fold" in recipe_keys(FoldRecipe)
    assert "Which fold." in recipe_parser(FoldRecipe).format_help()
    assert {"data.root", "train.workers"} <= set(free_keys(found))
    assert "data.fold" not in set(free_keys(found))


def test_a_folder_may_be_given_from_home_as_in_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    path = write(tmp_path, "name: x\ndescription: a ~ b\ntrain: {start: ~/runs/a}")
    found = load_recipe(path)
    assert (found.train.start, found.description) == ("/home/anna/runs/a", "a ~ b")
    found = load_recipe(path, None, ["--train.start=~/b", "--network.encoder_weights", "~/c.pt"])
    assert found.train.start == "/home/anna/b"
    assert found.network.encoder_weights == "/home/anna/c.pt"


def test_differences_name_both_values():
    found = differences({"a": {"b": 1, "c": 2}, "d": 0}, {"a": {"b": 1, "c": 3}, "e": 0})
    assert found == [
        "a.c: 2 before, now 3",
        "d: 0 before, now absent",
        "e: absent before, now 0",
    ]
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
