"""The benchmark's tasks: what a model of each predicts, and which annotations train and test it.

Keys of datasets: ``covid-ct-seg``, ``mosmed``, ``structseg``, ``nsclc``, ``msd``, ``covid1920``,
``semiseg``. A configuration is a subtask with its fold: ``task1-infection-fold0``,
``task2-nsclc-lung``, ``task3-msd-tumour-fold4``, ``covid1920-fold1``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from covidseg.core.errors import ConfigError

DATASETS = ("structseg", "nsclc", "msd", "covid-ct-seg", "mosmed", "covid1920", "semiseg")

# What the values of a prediction mean, by the last word of a subtask's name. "lesion" is what a
# model of Tasks 2 and 3 learns from tumours or effusions and is tested for on infections: a name of
# its own, so that nothing mistakes the one for the other (`Annotation.meaning` has the mapping).
TARGETS: dict[str, dict[int, str]] = {
    "lung": {1: "left_lung", 2: "right_lung"},
    "infection": {1: "infection"},
    "union": {1: "left_lung", 2: "right_lung", 3: "infection"},
    "lesion": {1: "lesion"},
}


@dataclass(frozen=True, eq=False)
class Annotation:
    """An annotation of a dataset as a part of a subtask uses it.

    ``cohort`` is the dataset's own part that the cases are of; cohort and case ID together name a
    case, since StructSeg has its scans twice and COVID-19-20's pool holds scans of its other parts.
    ``meaning`` maps the harmonised labels of the annotation that count here to names of the
    subtask's target; labels of the file that are not in it (the heart of StructSeg) are background.
    """

    dataset: str
    name: str
    meaning: dict[str, str]
    cohort: str = "labelled"


@dataclass(frozen=True)
class Subtask:
    """One line of the benchmark's tables.

    ``targets`` are the values of a prediction and their names. ``parts`` lists, for each part of
    the split, the annotations it is made of. ``folds`` is 0 where there is a single split.
    """

    name: str
    task: str
    title: str
    targets: dict[int, str]
    parts: dict[str, tuple[Annotation, ...]]
    folds: int = 0

    def configurations(self) -> list[str]:
        """Names of the subtask's configurations, one a fold."""
        return [f"{self.name}-fold{k}" for k in range(self.folds)] if self.folds else [self.name]

    def annotation(self, part: str, dataset: str) -> Annotation:
        """The annotation of ``dataset`` that ``part`` uses."""
        return next(a for a in self.parts[part] if a.dataset == dataset)


def _same(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


_LUNGS = _same("left_lung", "right_lung")
_COVID = {
    "lung": Annotation("covid-ct-seg", "lung", _LUNGS),
    "infection": Annotation("covid-ct-seg", "infection", _same("infection")),
    "union": Annotation(
        "covid-ct-seg", "lung_and_infection", _same("left_lung", "right_lung", "infection")
    ),
    "lesion": Annotation("covid-ct-seg", "infection", {"infection": "lesion"}),
}
_MOSMED = {
    "infection": Annotation("mosmed", "infection", _same("infection")),
    "union": Annotation("mosmed", "infection", _same("infection")),
    "lesion": Annotation("mosmed", "infection", {"infection": "lesion"}),
}
# Source of Tasks 2 and 3: its title, its target, its annotation.
_SOURCES: dict[str, tuple[str, str, Annotation]] = {
    "structseg-lung": (
        "StructSeg lung",
        "lung",
        Annotation("structseg", "organs", _LUNGS, "organs"),
    ),
    "nsclc-lung": ("NSCLC lung", "lung", Annotation("nsclc", "lung", _LUNGS)),
    "msd-lung": ("MSD lung", "lung", Annotation("msd", "lung", _LUNGS)),
    "msd-tumour": ("MSD lung tumour", "lesion", Annotation("msd", "tumour", {"tumour": "lesion"})),
    "structseg-target": (
        "StructSeg gross target",
        "lesion",
        Annotation(
            "structseg", "target_volume", {"gross_target_volume": "lesion"}, "target_volume"
        ),
    ),
    "nsclc-effusion": (
        "NSCLC pleural effusion",
        "lesion",
        Annotation("nsclc", "pleural_effusion", {"pleural_effusion": "lesion"}),
    ),
}
_TITLES = {"lung": "lungs", "infection": "infection", "union": "lungs and infection"}


def _task1() -> list[Subtask]:
    subtasks = []
    for target, title in _TITLES.items():
        covid = (_COVID[target],)
        mosmed = {"test_mosmed": (_MOSMED[target],)} if target in _MOSMED else {}
        subtasks += [
            Subtask(
                f"task1-{target}",
                "task1",
                f"Task 1: {title} from 4 COVID-19 scans",
                TARGETS[target],
                {"train": covid, "test": covid, **mosmed},
                folds=5,
            ),
            Subtask(
                f"task1-reverse-{target}",
                "task1-reverse",
                f"Task 1 reversed: {title} from 16 COVID-19 scans",
                TARGETS[target],
                {"train": covid, "test": covid},
                folds=5,
            ),
        ]
    return subtasks


def _task2() -> list[Subtask]:
    return [
        Subtask(
            f"task2-{source}",
            "task2",
            f"Task 2: {target}s of COVID-19 scans from {title} alone",
            TARGETS[target],
            {
                "train": (annotation,),
                "test_in_domain": (annotation,),
                "test_covid": (_COVID[target],),
                **({"test_mosmed": (_MOSMED[target],)} if target in _MOSMED else {}),
            },
        )
        for source, (title, target, annotation) in _SOURCES.items()
        if source != "msd-lung"
    ]


def _task3() -> list[Subtask]:
    return [
        Subtask(
            f"task3-{source}",
            "task3",
            f"Task 3: {target}s from {title} and 4 COVID-19 scans",
            TARGETS[target],
            {
                "train": (annotation, _COVID[target]),
                "validation": (annotation,),
                "test": (_COVID[target],),
                **({"test_mosmed": (_MOSMED[target],)} if target in _MOSMED else {}),
            },
            folds=5,
        )
        for source, (title, target, annotation) in _SOURCES.items()
    ]


def _others() -> list[Subtask]:
    def infection(dataset: str, **cohorts: str) -> dict[str, tuple[Annotation, ...]]:
        return {
            part: (Annotation(dataset, "infection", _same("infection"), cohort),)
            for part, cohort in cohorts.items()
        }

    tests = {part: part for part in ("test_seen", "test_unseen", "unlabelled")}
    return [
        Subtask(
            "covid1920",
            "covid1920",
            "COVID-19-20: infection, the challenge's own parts",
            TARGETS["infection"],
            infection("covid1920", train="train", validation="validation", **tests),
        ),
        Subtask(
            "covid1920",
            "covid1920-folds",
            "COVID-19-20: infection, nnU-Net's folds of the training part",
            TARGETS["infection"],
            infection("covid1920", train="train", validation="train", **tests),
            folds=5,
        ),
        Subtask(
            "semiseg",
            "semiseg",
            "COVID-SemiSeg: infection in slices, the published parts",
            TARGETS["infection"],
            infection("semiseg", train="train", test="test", unlabelled="unlabelled"),
        ),
        Subtask(
            "semiseg",
            "semiseg-folds",
            "COVID-SemiSeg: infection in slices, folds of the 50 training slices",
            TARGETS["infection"],
            infection("semiseg", train="train", validation="train"),
            folds=5,
        ),
    ]


SUBTASKS: tuple[Subtask, ...] = (*_task1(), *_task2(), *_task3(), *_others())

# Configuration: its subtask and fold.
_CONFIGURATIONS: dict[str, tuple[Subtask, int | None]] = {
    name: (subtask, fold if subtask.folds else None)
    for subtask in SUBTASKS
    for fold, name in enumerate(subtask.configurations())
}


def configurations(task: str | None = None) -> list[str]:
    """Names of all configurations that a split exists for, or of those of ``task`` alone."""
    return [name for name, (subtask, _) in _CONFIGURATIONS.items() if task in (None, subtask.task)]


def configuration(name: str) -> tuple[Subtask, int | None]:
    """Subtask and fold of a configuration; ``fold`` is None where there is a single split.

    Raises
    ------
    ConfigError
        There is no such configuration.
    """
    if name not in _CONFIGURATIONS:
        raise ConfigError(
            f"configuration {name!r} is not known",
            expected="a name such as " + ", ".join(_nearest(name)),
            remedy="`covidseg splits list` prints all of them",
        )
    return _CONFIGURATIONS[name]


def _nearest(name: str) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, _CONFIGURATIONS, n=3, cutoff=0.4) or [
        "task1-infection-fold0",
        "task2-structseg-lung",
        "covid1920",
    ]


def target_labels(task: str) -> dict[int, str]:
    """Values and names of a prediction for ``task``: a subtask or a configuration.

    ``task1-union`` and ``task1-union-fold3`` give left lung, right lung and infection;
    ``task2-msd-tumour`` gives ``{1: "lesion"}``, which `Annotation.meaning` maps each part's own
    label to. The bare words ``lung``, ``infection``, ``union`` are known too.

    Raises
    ------
    ConfigError
        ``task`` is not known.
    """
    bare = re.sub(r"-fold\d+$", "", task.removesuffix("-clean"))
    for subtask in SUBTASKS:
        if subtask.name == bare:
            return subtask.targets
    if bare in TARGETS:
        return TARGETS[bare]
    raise ConfigError(
        f"task {task!r} is not known",
        expected="one of " + ", ".join(sorted({s.name for s in SUBTASKS})),
    )
