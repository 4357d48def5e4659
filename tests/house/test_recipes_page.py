"""docs/recipes.md has every value of every recipe."""

import importlib.util
from pathlib import Path

import pytest

from covidseg.engine.recipes import recipe_keys
from covidseg.engine.segmentation import SegmentationRecipe
from covidseg.generalization.config import GeneralizationRecipe
from covidseg.pseudolabel.recipe import PseudolabelRecipe
from covidseg.trainers.phantoms import PhantomsRecipe
from covidseg.trainers.transfer import TransferRecipe

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(
    "schema",
    [SegmentationRecipe, PseudolabelRecipe, GeneralizationRecipe, TransferRecipe, PhantomsRecipe],
)
def test_every_value_is_listed(schema):
    page = (DOCS / "recipes.md").read_text()
    names = [name for name, holds in recipe_keys(schema).items() if not holds]
    missing = [name for name in names if f"`{name}`" not in page]
    assert missing == [], "run `python docs/recipes_tables.py`"


def test_the_tables_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("recipes_tables", DOCS / "recipes_tables.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.page() == script.PAGE.read_text(), "run `python docs/recipes_tables.py`"
