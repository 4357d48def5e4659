"""The benchmark's tasks and what a model of each has to predict."""

from __future__ import annotations

from covidseg.core.errors import ConfigError

# What the values of a prediction mean, by the last word of a subtask's name.
TARGETS: dict[str, dict[int, str]] = {
    "lung": {1: "left_lung", 2: "right_lung"},
    "infection": {1: "infection"},
    "union": {1: "left_lung", 2: "right_lung", 3: "infection"},
}


def target_labels(task: str) -> dict[int, str]:
    """Values and harmonised label names of a prediction for ``task`` (``task1-union``, ...)."""
    target = task.split("-")[1] if "-" in task else task
    if task.startswith("covid1920"):
        target = "infection"
    if target not in TARGETS:
        raise ConfigError(
            f"task {task!r} is not known",
            expected="one of " + ", ".join(f"task1-{name}" for name in TARGETS) + ", covid1920",
        )
    return TARGETS[target]
