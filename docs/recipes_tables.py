"""Write the tables of docs/recipes.md from the dataclasses: python docs/recipes_tables.py"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import docstring_parser

from covidseg.engine.segmentation import SegmentationRecipe
from covidseg.generalization.config import GeneralizationRecipe
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.trainers.phantoms import PhantomsRecipe
from covidseg.trainers.transfer import TransferRecipe

# What the trainers read besides; `trainers/supervised.py` reads the first alone.
MORE = {
    "trainers/pseudolabel.py": PseudolabelRecipe,
    "trainers/domain_generalization.py": GeneralizationRecipe,
    "trainers/transfer.py": TransferRecipe,
    "trainers/phantoms.py": PhantomsRecipe,
}
PAGE = Path(__file__).with_name("recipes.md")
MARK = "## All values\n"
INTRODUCTION = """
Written from the code by `python docs/recipes_tables.py`. A type such as `int | None` takes null.
"""


def tables(schema: type, prefix: str = "") -> Iterator[str]:
    """A Markdown table for a dataclass, then for each of the dataclasses that it holds."""
    hints, meanings, rows, sections = get_type_hints(schema), {}, [], []
    for cls in reversed(schema.__mro__):
        for one in docstring_parser.parse(cls.__doc__ or "").params:
            for name in one.arg_name.split(","):
                meanings[name.strip()] = one.description or ""
    for one in fields(schema):
        kind, name = hints[one.name], prefix + one.name
        if is_dataclass(kind):
            sections.append((kind, name + "."))
        else:
            cells = (f"`{name}`", type_name(kind), default(one), meanings.get(one.name, ""))
            rows.append("| " + " | ".join(cell(text) for text in cells) + " |")
    if rows:
        title = f"`{prefix[:-1]}`" if prefix else "At the top"
        summary = (schema.__doc__ or "").strip().split("\n")[0]
        head = "| name | type | default | meaning |\n|---|---|---|---|"
        yield "\n".join([f"### {title}\n\n{summary}\n\n{head}", *rows]) + "\n"
    for kind, inner in sections:
        yield from tables(kind, inner)


def further(trainer: str, schema: type) -> Iterator[str]:
    """Tables of the sections that a trainer's recipes have besides those of all recipes."""
    common = {one.name for one in fields(SegmentationRecipe)}
    hints = get_type_hints(schema)
    yield f"## Further values of `{trainer}`\n"
    for one in fields(schema):
        if one.name not in common:
            yield from tables(hints[one.name], one.name + ".")


def cell(text: str) -> str:
    """Text that does not end a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def type_name(kind: object) -> str:
    """A type as the page shows it: choices as words, others as in the code."""
    if isinstance(kind, type):
        return kind.__name__
    text = str(kind).replace("typing.", "")
    if text.startswith("Literal["):
        return ", ".join(word.strip(" '") for word in text[8:-1].split(","))
    return text


def default(one) -> str:
    """A field's default as YAML has it."""
    if one.default is MISSING and one.default_factory is MISSING:
        return "required"
    value = one.default if one.default is not MISSING else one.default_factory()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "" if value == "" else str(list(value) if isinstance(value, tuple) else value)


def page() -> str:
    """The page with its tables as the code has them now."""
    before = PAGE.read_text().partition(MARK)[0]
    parts = [*tables(SegmentationRecipe)]
    for trainer, schema in MORE.items():
        parts += further(trainer, schema)
    return before + MARK + INTRODUCTION + "\n" + "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
