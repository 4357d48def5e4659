import pytest

from covidseg.core.errors import ConfigError
from covidseg.registry.vocabulary import LABELS
from covidseg.splits.tasks import (
    DATASETS,
    SUBTASKS,
    TARGETS,
    configuration,
    configurations,
    target_labels,
)

SOURCES = ["structseg-lung", "nsclc-lung", "msd-tumour", "structseg-target", "nsclc-effusion"]


def test_configuration_names():
    expected = [
        *(f"task1-{t}-fold{k}" for t in ("lung", "infection", "union") for k in range(5)),
        *(f"task1-reverse-{t}-fold{k}" for t in ("lung", "infection", "union") for k in range(5)),
        *(f"task2-{source}" for source in SOURCES),
        *(f"task3-{source}-fold{k}" for source in [*SOURCES, "msd-lung"] for k in range(5)),
        "covid1920",
        *(f"covid1920-fold{k}" for k in range(5)),
        "semiseg",
        *(f"semiseg-fold{k}" for k in range(5)),
    ]
    assert sorted(configurations()) == sorted(expected)
    assert configurations("task2") == [f"task2-{source}" for source in SOURCES]


def test_configuration_gives_subtask_and_fold():
    subtask, fold = configuration("task3-msd-lung-fold4")
    assert (subtask.name, fold) == ("task3-msd-lung", 4)
    assert configuration("task2-nsclc-lung")[1] is None


def test_unknown_configuration_names_the_nearest():
    with pytest.raises(ConfigError, match="task1-infection-fold0"):
        configuration("task1-infections-fold0")


@pytest.mark.parametrize("subtask", SUBTASKS, ids=lambda s: f"{s.task}:{s.name}")
def test_every_annotation_means_a_target_and_has_a_harmonised_label(subtask):
    assert "train" in subtask.parts
    for annotations in subtask.parts.values():
        for annotation in annotations:
            assert annotation.dataset in DATASETS
            assert annotation.meaning.keys() <= LABELS.keys()
            assert set(annotation.meaning.values()) <= set(subtask.targets.values())
    trained = {m for a in subtask.parts["train"] for m in a.meaning.values()}
    assert trained == set(subtask.targets.values())


def test_a_tumour_is_never_silently_an_infection():
    for subtask in SUBTASKS:
        for annotations in subtask.parts.values():
            for annotation in annotations:
                for label, target in annotation.meaning.items():
                    assert label == target or target == "lesion"


def test_mosmed_has_no_lungs_to_test():
    for subtask in SUBTASKS:
        assert ("test_mosmed" in subtask.parts) == (
            subtask.task in ("task1", "task2", "task3")
            and bool({"infection", "lesion"} & set(subtask.targets.values()))
        )


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        ("task1-union", TARGETS["union"]),
        ("task1-union-fold3", TARGETS["union"]),
        ("task1-infection-fold2-clean", {1: "infection"}),
        ("task1-reverse-lung", {1: "left_lung", 2: "right_lung"}),
        ("task2-msd-tumour", {1: "lesion"}),
        ("task3-nsclc-lung-fold0", TARGETS["lung"]),
        ("covid1920", {1: "infection"}),
        ("semiseg-fold1", {1: "infection"}),
        ("union", TARGETS["union"]),
    ],
)
def test_target_labels(task, targets):
    assert target_labels(task) == targets


def test_target_labels_of_an_unknown_task():
    with pytest.raises(ConfigError, match="task9-lung"):
        target_labels("task9-lung")
