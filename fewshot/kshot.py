"""The k-shot protocol of Task 1: which scans are learnt from and which are tested, for every k.

Nothing is drawn at random: everything follows from the five folds that the benchmark published.
Draw ``d`` tests on the 4 training scans of fold ``d`` (as Task 1 reversed does), whatever k. It
learns from the training scans of the folds after it, ``d + 1``, ``d + 2``, ... in a ring, in the
published order; the support of k scans is the first k of them. So the supports of a draw are
nested, that of 4 scans is the training part of Task 1's fold ``d + 1``, and over the five draws
each of the 20 scans is tested once.

Scans that are, or may be, of a patient who is tested in the draw are passed over: in draws 2 and 4
the largest support therefore has 14 scans, not 16. (Draws 0, 1 and 3 have them all.)
"""

from __future__ import annotations

from dataclasses import dataclass

from covidseg.core.errors import ConfigError
from covidseg.splits.load import load_split
from covidseg.splits.records import CaseKey

DRAWS = 5
SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Draw:
    """A draw's test scans, and the scans that may be learnt from in the order that they are."""

    number: int
    test: tuple[CaseKey, ...]
    pool: tuple[CaseKey, ...]

    def support(self, shots: int) -> tuple[CaseKey, ...]:
        """The scans that a model of ``shots`` shots learns from; fewer where there are fewer."""
        if not 1 <= shots <= max(SHOTS):
            raise ConfigError(f"{shots} shots", expected=f"1 to {max(SHOTS)}")
        return self.pool[:shots]


def draw(number: int) -> Draw:
    """Draw ``number`` of the protocol, 0 to 4."""
    if not 0 <= number < DRAWS:
        raise ConfigError(f"there is no draw {number}", expected=f"0 to {DRAWS - 1}")
    clean = load_split(reverse(number), "patient-clean")
    allowed = set(clean.parts["train"])
    ring = [(number + step) % DRAWS for step in range(1, DRAWS)]
    listed = [
        case for fold in ring for case in load_split(f"task1-infection-fold{fold}").parts["train"]
    ]
    return Draw(number, clean.parts["test"], tuple(case for case in listed if case in allowed))


def reverse(number: int, subtask: str = "infection") -> str:
    """The configuration that holds all scans of a draw: its test part is the draw's."""
    return f"task1-reverse-{subtask}-fold{number}"
