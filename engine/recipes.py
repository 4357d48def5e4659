"""Reading recipes: YAML, a profile of it, and values given on the command line."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from covidseg.core.errors import ConfigError, CovidsegError, UnreadableFileError
from covidseg.engine.config import Recipe, as_mapping

SomeRecipe = TypeVar("SomeRecipe", bound=Recipe)


def load_recipe(
    path_or_name: str | Path,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    schema: type[SomeRecipe] = Recipe,  # type: ignore[assignment]
    *,
    others: bool = False,
) -> SomeRecipe:
    """Read a recipe into its dataclass.

    Parameters
    ----------
    path_or_name
        A YAML file, or the name of one that comes with the package (``task1-infection-3d``).
    profile
        Name of an entry of the file's ``profiles`` section, whose values replace the others;
        ``None`` takes the file as it is without them.
    overrides
        Words as on a command line: ``["--optim.lr", "0.01", "--train.epochs=5"]``.
    schema
        The recipe's dataclass.
    others
        Pass over sections that the schema does not have: those of the trainer that wrote the file.

    Raises
    ------
    UnreadableFileError
        No such file or recipe, or not YAML.
    ConfigError
        Unknown keys (with the nearest known one), values of another type, no such profile, or
        something else where names with values belong.
    """
    path = find_recipe(path_or_name)
    values = _profiled(_read(path), profile, path)
    known = recipe_keys(schema)
    if others:
        values = {name: value for name, value in values.items() if name in known}
    _refuse_faulty(values, known, path, schema)
    options = [word for word in overrides if word.startswith("--")]
    _refuse_unknown_options(options, known)
    parser = recipe_parser(schema)
    try:
        text = json.dumps(_from_home(values))
        parsed = parser.parse_args(["--recipe", text, *map(_from_home, overrides)])
        del parsed["recipe"]
        built = parser.instantiate(parsed)
    except CovidsegError:  # a section's own check
        raise
    except Exception as fault:  # jsonargparse raises several kinds
        raise ConfigError(
            " ".join(str(fault).split()),
            path=path,
            remedy="see docs/recipes.md for every value and its type",
        ) from fault
    recipe = schema(**{one.name: built[one.name] for one in fields(schema)})
    if not others:
        _refuse_null(recipe, path)
    return recipe


def _from_home(value: Any) -> Any:
    """Values of a recipe, or a word of a command line, with a folder's ~ written out.

    No shell sees a file, nor the ~ of ``--data.cache=~/cache``: a folder named ~ would be made.
    """
    if isinstance(value, Mapping):
        return {name: _from_home(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_from_home(part) for part in value]
    if not isinstance(value, str):
        return value
    option, equals, given = value.partition("=") if value.startswith("--") else ("", "", value)
    return option + equals + (os.path.expanduser(given) if given.startswith("~/") else given)


def _refuse_null(section: Any, path: Path, prefix: str = "") -> None:
    """Raise ConfigError for a value left empty whose type has no null, which the parser lets by."""
    hints = get_type_hints(type(section))
    for one in fields(section):
        name, value = prefix + one.name, getattr(section, one.name)
        if is_dataclass(value):
            _refuse_null(value, path, name + ".")
        elif value is None and NoneType not in get_args(hints[one.name]):
            raise ConfigError(
                f"{name} is empty",
                path=path,
                expected=str(hints[one.name]).removeprefix("<class '").removesuffix("'>"),
                remedy=f"give it a value, or leave it out for its default, {one.default!r}",
            )


def recipe_parser(schema: type[Recipe] = Recipe):
    """The jsonargparse parser of a recipe: an option for every value, with its help."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False, prog="recipe")
    parser.add_argument("--recipe", action="config", help="recipe file, or its text")
    parser.add_class_arguments(schema, nested_key=None)
    return parser


def find_recipe(path_or_name: str | Path) -> Path:
    """The file of a recipe given by its path or by the name of one in the package."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    known = {found.stem: found for found in _packaged()}
    if path.stem in known and len(path.parts) == 1:
        return known[path.stem]
    near = difflib.get_close_matches(path.stem, known, n=1)
    raise UnreadableFileError(
        "no such recipe",
        path=path,
        expected="a YAML file or one of " + (", ".join(sorted(known)) or "none installed"),
        remedy=f"perhaps {near[0]}" if near else None,
    )


def _packaged() -> list[Path]:
    import covidseg.recipes

    return sorted(p for folder in covidseg.recipes.__path__ for p in Path(folder).glob("*.yaml"))


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe, profile and overrides resolved, as YAML that :func:`load_recipe` reads."""
    path.write_text(yaml.safe_dump(as_mapping(recipe), sort_keys=False, allow_unicode=True))


class _Loader(yaml.SafeLoader):
    """YAML in which a key is a name that may stand once, 1e-3 a number, and no a word.

    It is a value of mixed_precision. Switches may still be yes or no: the parser reads that itself.
    """

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(
                    f"line {key.start_mark.line + 1}: a key is no name, but in braces or brackets",
                    expected="names with values",
                    remedy="put quotes around it, or fill in the template that it is from",
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in found if first in "tTfF" or not tag.endswith(":bool")]
    for first, found in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except ConfigError as fault:
        fault.path = path  # the loader does not know it
        raise
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        raise UnreadableFileError(
            f"cannot be read as YAML ({' '.join(str(fault).split())})", path=path
        ) from fault
    if not isinstance(values, dict):
        raise ConfigError("is not a recipe", path=path, expected="names with values")
    return values


def profiles_of(path_or_name: str | Path) -> tuple[str, ...]:
    """Names of the profiles that a recipe has; errors as `load_recipe`."""
    path = find_recipe(path_or_name)
    profiles = _read(path).get("profiles") or {}
    _require_names(profiles, "profiles", path)
    return tuple(map(str, profiles))


def _profiled(values: dict[str, Any], profile: str | None, path: Path) -> dict[str, Any]:
    profiles = values.pop("profiles", None)
    profiles = {} if profiles is None else profiles
    _require_names(profiles, "profiles", path)
    if profile is None:
        return values
    if profile not in profiles:
        raise ConfigError(
            f"has no profile {profile!r}",
            path=path,
            expected="one of " + ", ".join(map(str, profiles))
            if profiles
            else "no profile: the recipe has none",
        )
    chosen = {} if profiles[profile] is None else profiles[profile]
    _require_names(chosen, f"profiles.{profile}", path)
    return _merged(values, chosen)


def _require_names(part: Any, name: str, path: Path) -> None:
    if not isinstance(part, Mapping):
        raise ConfigError(
            f"{name} is {'empty' if part is None else repr(part)}",
            path=path,
            expected="names with values",
            remedy=f"write them below {name}, indented, or leave it out",
        )


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {
            key: _merged(base[key], over[key])
            if key in base and key in over
            else (over if key in over else base)[key]
            for key in dict.fromkeys((*base, *over))
        }
    return over


def recipe_keys(schema: type, prefix: str = "") -> dict[str, bool]:
    """Every dotted name a recipe may have; true for those that hold further names."""
    found: dict[str, bool] = {}
    hints = get_type_hints(schema)
    for one in fields(schema):
        name, kind = prefix + one.name, hints[one.name]
        found[name] = is_dataclass(kind)
        if is_dataclass(kind):
            found |= recipe_keys(kind, name + ".")  # type: ignore[arg-type]
    return found


def _refuse_faulty(
    values: Mapping[str, Any], known: dict[str, bool], path: Path, schema: type[Recipe]
) -> None:
    def visit(part: Mapping[str, Any], prefix: str) -> None:
        for key, value in part.items():
            name = f"{prefix}{key}"
            if name not in known:
                raise ConfigError(
                    f"unknown key {name}", path=path, remedy=_nearest(name, known, schema)
                )
            if known[name]:
                _require_names(value, name, path)
                visit(value, name + ".")

    visit(values, "")


def _refuse_unknown_options(options: Sequence[str], known: dict[str, bool]) -> None:
    for option in options:
        name = option[2:].split("=", 1)[0]
        if name not in known:
            raise ConfigError(f"unknown option --{name}", remedy=_nearest(name, known))


def _nearest(name: str, known: Mapping[str, bool], schema: type[Recipe] | None = None) -> str:
    # The same last word elsewhere (`lr` for `optim.lr`) is likelier meant than a similar spelling.
    same = [key for key in known if key.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    near = same or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    if schema is Recipe:
        return (
            "pass the schema that has such a section: "
            "schema=covidseg.engine.segmentation.SegmentationRecipe, or a trainer's own"
        )
    return "see docs/recipes.md for every value"
