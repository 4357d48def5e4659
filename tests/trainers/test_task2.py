"""Task 2's driver: which trainings there are, and one of them from the repository to the table."""

from __future__ import annotations

import dataclasses
import json

import pytest

from covidseg.core.errors import ConfigError
from covidseg.engine.recipes import load_recipe
from covidseg.generalization.config import GeneralizationRecipe
from covidseg.scoring.scores import read_scores
from covidseg.trainers import domain_generalization
from covidseg.trainers.task2 import METHODS, Arm, Protocol, _recipe, arms, job, main, run_folder


def test_every_source_alone_and_all_together():
    found = arms(["lung", "infection"], None, None, [0])
    assert [(a.subtask, a.source, a.method) for a in found] == [
        ("lung", "structseg-lung", "plain"), ("lung", "nsclc-lung", "plain"),
        ("lung", "all", "plain"), ("lung", "structseg-lung", "gin"), ("lung", "nsclc-lung", "gin"),
        ("lung", "all", "gin"), ("lung", "structseg-lung", "lesioned-lungs"),
        ("lung", "nsclc-lung", "lesioned-lungs"), ("lung", "all", "lesioned-lungs"),
        ("infection", "msd-tumour", "plain"),
        ("infection", "structseg-target", "plain"), ("infection", "nsclc-effusion", "plain"),
        ("infection", "all", "plain"), ("infection", "all", "lesions"),
    ]  # fmt: skip
    # Seeds are repetitions of one algorithm.
    seeds = arms(["lung"], ["plain"], None, [0, 1, 2])
    assert len(seeds) == 9
    assert {a.algorithm for a in seeds} == {"plain, this source", "plain, all sources"}
    every = Arm("lung", "all", "gin", 0)
    assert every.learnt == every.tested == ["task2-structseg-lung", "task2-nsclc-lung"]
    painted = Arm("infection", "all", "lesions", 0)
    assert painted.learnt == ["task2-structseg-lung", "task2-nsclc-lung"]
    assert len(painted.tested) == 3
    for wrong in (["lung"], ["lesions"], None), (["infection"], ["lesioned-lungs"], None), (
        ["lung"], None, ["msd-tumour"]
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="no training of the chosen"):
            arms(*wrong, [0])
    # Sources that are chosen are all that is learnt from; lesions are painted into every lung.
    chosen = arms(["lung", "infection"], None, ["structseg-lung"], [0])
    assert {(a.subtask, a.source) for a in chosen} == {("lung", "structseg-lung")}
    assert [a.source for a in arms(["infection"], ["lesions"], ["msd-tumour"], [0])] == ["all"]
    # What `make task2-generalize` trains on phantoms.
    made = arms(["lung", "infection"], None, ["structseg-lung", "msd-tumour"], [0])
    assert [(a.source, a.method) for a in made] == [
        ("structseg-lung", "plain"), ("structseg-lung", "gin"),
        ("structseg-lung", "lesioned-lungs"), ("msd-tumour", "plain"), ("all", "lesions"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--generalization.name", "slaug"], "--methods"),
        (["--generalization.synthetic_lesions=true"], "--methods"),
        (["--seed=7"], "--seeds"),
        (["--data.hub", "/elsewhere"], "--hub"),
        (["--data.fold=1"], "--sources"),
    ],
)
def test_what_names_a_row_is_not_overridden(words, remedy):
    with pytest.raises(ConfigError, match=remedy):
        main(words)


DECIDED = ["--network.norm=instance", "--patch.by_source=false", "--sources.overlap=refuse"]


@pytest.mark.parametrize("word", DECIDED)
def test_a_value_that_a_training_would_drop_is_refused(word, tmp_path):
    """What all sources together, and batch normalisation's methods, decide, is not the caller's."""
    chosen = arms(["lung"], ["mixstyle"], ["all"], [0])
    name = word.split("=")[0]
    with pytest.raises(ConfigError, match=f"{name} contradicts .* mixstyle, all"):
        job(protocol(tmp_path, chosen, word), chosen[0])


def test_a_value_that_a_training_takes_is_the_callers(tmp_path):
    """Also one that says what the training has anyway, and one of a section that it decides of."""
    chosen = arms(["lung"], ["plain"], ["structseg-lung"], [0])
    assert _recipe(protocol(tmp_path, chosen, *DECIDED), chosen[0]).network.norm == "instance"
    chosen = arms(["lung"], ["mixstyle"], ["all"], [0])
    words = ["--network.norm", "batch", "--network={features: [4, 8]}", "--patch.by_source=true"]
    network = _recipe(protocol(tmp_path, chosen, *words), chosen[0]).network
    assert (network.norm, network.features) == ("batch", (4, 8))


def protocol(tmp_path, chosen, *words):
    return Protocol(
        arms=chosen, profile="demo", overrides=words, hub=tmp_path / "hub", out=tmp_path / "out"
    )


@pytest.mark.parametrize("subtask", ["lung", "infection"])
def test_every_arm_is_a_recipe(subtask):
    every = arms([subtask], list(METHODS), None, [3])
    chosen = [arm for arm in every if arm.source == "all" or arm.method == "plain"]
    for arm in chosen:
        recipe = load_recipe(f"task2-{subtask}", "full", arm.words(), GeneralizationRecipe)
        assert recipe.seed == 3
        assert [recipe.data.name, *recipe.sources.more] == arm.learnt
        assert recipe.patch.by_source == (len(arm.learnt) > 1)
        assert recipe.generalization.synthetic_lesions == arm.paints


@pytest.mark.slow
def test_from_training_to_the_table(sources_hub, tmp_path, capsys):
    arguments = [
        "--subtasks", "lung", "--sources", "structseg-lung", "--methods", "plain", "batch-norm",
        "--profile", "demo", "--hub", str(sources_hub), "--out", str(tmp_path / "out"),
        f"--data.cache={tmp_path / 'cache'}", "--patch.size=[32,32]", "--patch.batch_size=4",
        "--network.features=[4,8]", "--seeds", "3", "--train.epochs=1", "--train.steps_per_epoch=2",
        "--train.workers=0", "--train.mixed_precision=no",
    ]  # fmt: skip
    main(arguments)
    shown = capsys.readouterr().out
    assert "PHANTOM DATA" in shown
    assert "3D U-Net (published)" in shown
    assert "92.2" in shown  # the published left lung
    assert "batch-norm, this source" in shown
    assert "The gap between in-domain and unseen test" in shown
    scores = read_scores(tmp_path / "out" / "scores.csv")
    counts = scores.groupby(["algorithm", "part"])["case_id"].nunique()
    assert set(counts) == {10, 20}
    assert set(scores["fold"].astype(str)) == {"3"}
    assert "| Seed 3 |" in shown
    overlays = sorted(path.name for path in (tmp_path / "out" / "figures").glob("*overlays.png"))
    assert "lung-structseg-lung-plain-seed3-test_covid-overlays.png" in overlays
    assert len(overlays) == 4
    assert (tmp_path / "out" / "gap.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["plain", "bigaug"])
def test_a_run_of_another_recipe_is_refused_before_anything_is_trained(
    method, sources_hub, tmp_path, nothing_begins
):
    """Or the trainings that are not done would be run to their end with the new value."""
    words = [
        f"--data.cache={tmp_path / 'cache'}", "--patch.size=[32,32]", "--patch.batch_size=4",
        "--network.features=[4,8]", "--train.epochs=1", "--train.steps_per_epoch=1",
        "--train.workers=0", "--train.mixed_precision=auto",
    ]  # fmt: skip
    chosen = arms(["lung"], [method], ["structseg-lung"], [0])
    made = dataclasses.replace(protocol(tmp_path, chosen, *words), hub=sources_hub)
    run = run_folder(made, chosen[0])
    domain_generalization.run(_recipe(made, chosen[0]), run)

    def call(*more):
        main([
            "--subtasks", "lung", "--sources", "structseg-lung", "--methods", method, "gin",
            "--profile", "demo", "--hub", str(sources_hub), "--out", str(made.out), *words, *more,
        ])  # fmt: skip

    with pytest.raises(nothing_begins, match=rf"{method}-seed0.*gin-seed0"):
        call("--window.overlap=0.25")
    with pytest.raises(ConfigError, match=r"another configuration: optim.lr"):
        call("--optim.lr=0.1")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["data"]["train"]["sha256"] = "of other cases"
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="began to learn from other data"):
        call()
    assert [path.name for path in (made.out / "lung/structseg-lung").iterdir()] == [method]


def test_what_is_missing_is_said_before_anything_is_trained(sources_hub, tmp_path):
    with pytest.raises(ConfigError, match=r"nsclc.*covidseg build"):
        main(["--subtasks", "lung", "--hub", str(sources_hub), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
