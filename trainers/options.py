"""The options that every trainer has besides its recipe's own."""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from covidseg.core.errors import ConfigError, CovidsegError
from covidseg.engine.recipes import load_recipe
from covidseg.engine.segmentation import SegmentationRecipe

SomeRecipe = TypeVar("SomeRecipe", bound=SegmentationRecipe)


def parse(
    description: str, arguments: Sequence[str] | None, schema: type[SomeRecipe]
) -> tuple[SomeRecipe, Path, bool]:
    """Recipe with its profile and overrides, run folder, and whether to resume."""
    options, recipe = parsed(trainer_parser(description), arguments, schema)
    return recipe, options.out, options.resume


def recipe_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser beside whose options a recipe's values are given."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a recipe's value may be the beginning of an option
        epilog="Every value of the recipe can be given too: --train.epochs 5 --optim.lr=0.001; "
        "docs/recipes.md lists them.",
    )


class Once(argparse.Action):
    """The values of an option of several, each once: a training asked for twice is one."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, list(dict.fromkeys(values)))


def refuse_fixed(overrides: Sequence[str], fixed: Mapping[str, str]) -> None:
    """Raise ConfigError for a recipe's value, among words of a command line, that a driver sets.

    ``fixed`` maps names such as ``data.fold`` to what to do instead.
    """
    for word in overrides:
        name = word.removeprefix("--").split("=")[0]
        if word.startswith("--") and name in fixed:
            raise ConfigError(f"--{name} is not for this command", remedy=fixed[name])


def trainer_parser(description: str) -> argparse.ArgumentParser:
    """The options of every trainer; one with further ones adds them."""
    parser = recipe_parser(description)
    parser.add_argument(
        "--recipe", required=True, help="a YAML file, or the name of one in recipes/"
    )
    parser.add_argument("--profile", help="a profile of the recipe: demo, full, ...")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="RUN", help="folder of the run, made here"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the run's last checkpoint, if it has one"
    )
    return parser


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, schema: type[SomeRecipe]
) -> tuple[argparse.Namespace, SomeRecipe]:
    """The options of `trainer_parser` as given, and the recipe they name."""
    options, overrides = parser.parse_known_args(arguments)
    return options, load_recipe(options.recipe, options.profile, overrides, schema)


def _interrupt(process: int, number: int, frame: object) -> None:
    if os.getpid() != process:  # a forked one, that nothing waits for
        os._exit(128 + number)
    raise KeyboardInterrupt


def run_main(main) -> None:
    """Call a trainer's ``main`` as a script: a user's mistake ends in one line, not a traceback.

    SIGTERM, by which a batch system ends a job, is taken as Ctrl-C is: the manifest says so.
    """
    signal.signal(signal.SIGTERM, functools.partial(_interrupt, os.getpid()))
    try:
        main()
    except CovidsegError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "interrupted; what is done is kept: the same command goes on, one training alone with "
            "--resume",
            file=sys.stderr,
        )
        sys.exit(130)
