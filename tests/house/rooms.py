"""The rooms from the ground up. A room imports only rooms on floors below its own."""

from __future__ import annotations

from pathlib import Path

FLOORS: list[set[str]] = [
    {"core"},
    {"imaging", "recipes", "splits"},
    {"registry"},
    {"scoring"},
    {"networks"},
    {"inference"},
    {"engine"},
    {"fewshot", "generalization", "pseudolabel"},
    {"trainers"},
    {"cli"},
]
REPOSITORY = Path(__file__).resolve().parents[2]


def rooms() -> list[str]:
    """The rooms that have code, from the ground up."""
    return [
        room
        for floor in FLOORS
        for room in sorted(floor)
        if (REPOSITORY / room).is_dir() and any((REPOSITORY / room).glob("*.py"))
    ]


if __name__ == "__main__":
    print(*rooms())
