"""What the drivers of whole protocols are told alike, and how each part of one is its own process.

A driver starts itself again for every training, with the hidden option ``--one`` and that
training's own choices; such a process trains, predicts and scores it, and reports nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from covidseg.trainers.options import recipe_parser, refuse_fixed
from covidseg.trainers.side_by_side import Job, is_alone, run_side_by_side, unfinished


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is the same for all trainings of a protocol.

    Parameters
    ----------
    profile
        Of the recipes; None is their plain values.
    overrides
        Values of the recipes, as on a command line.
    hub
        Dataset repository.
    out
        Folder of the runs.
    one
        Whether this is one of the processes that the protocol started.
    """

    profile: str | None
    overrides: tuple[str, ...]
    hub: Path
    out: Path
    one: bool = False

    @property
    def workers(self) -> int | None:
        """Processes that score: one beside others that train, else as many as there are cores."""
        return 1 if self.one else None

    def process(self, driver: str, choices: Mapping[str, object]) -> list[str]:
        """Arguments of the interpreter for one training: ``{"subtasks": "lung", "folds": 0}``."""
        profile = {"profile": self.profile} if self.profile else {}
        told = {**choices, **profile, "hub": self.hub, "out": self.out}
        words = [word for name, value in told.items() for word in (f"--{name}", str(value))]
        return ["-m", f"covidseg.trainers.{driver}", "--one", *words, *self.overrides]

    def run_unfinished(self, jobs: Sequence[Job]) -> None:
        """Run those not done side by side, unless this is one of several processes already."""
        if is_alone() and not self.one:
            run_side_by_side(unfinished(jobs), self.out / "logs")


def protocol_parser(description: str, profile: str, out: str) -> argparse.ArgumentParser:
    """A parser with the options of `Settings`; ``profile`` says which there are."""
    parser = recipe_parser(description)
    parser.add_argument("--profile", help=profile)
    parser.add_argument("--hub", type=Path, default=Path("data/hub"), help="dataset repository")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the runs")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser


# What a protocol's own options decide.
_FIXED = {
    "data.hub": "give --hub",
    "data.configuration": "choose the subtasks and sources by the command's own options",
}


def settings(
    options: argparse.Namespace, overrides: Sequence[str], fixed: Mapping[str, str]
) -> dict:
    """Keyword arguments of `Settings`, from what `protocol_parser` parsed.

    ``fixed`` are further values of the recipe that are not the caller's, `data.fold` among them,
    and what to do instead.

    Raises
    ------
    ConfigError
        One of them is among the ``overrides``.
    """
    refuse_fixed(overrides, _FIXED | dict(fixed))
    return {
        "profile": options.profile,
        "overrides": tuple(overrides),
        "hub": options.hub,
        "out": options.out,
        "one": options.one,
    }
