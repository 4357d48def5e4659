"""The example of docs/tables.md is what the code prints."""

import importlib.util
from pathlib import Path

import pytest

from covidseg.scoring.tables_benchmark import benchmark_tables

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("tables_example", DOCS / "tables_example.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.made_up_scores()


def test_rows_of_the_page_are_those_of_the_command(example):
    page = (DOCS / "tables.md").read_text("utf-8")
    start = page.index("**PHANTOM DATA")
    shown = page[start : page.index("\n\n| Box plot", start)].splitlines()
    printed = benchmark_tables(example)[0].markdown().splitlines()
    assert len(shown) > 10
    # The page leaves out lines, and invents none.
    assert [line for line in shown if line not in printed] == []


def test_pictures_of_the_page_are_there_and_small():
    page = (DOCS / "tables.md").read_text("utf-8")
    names = [part.split(")")[0] for part in page.split("](")[1:]]
    pictures = [DOCS / name for name in names if name.endswith(".png")]
    assert len(pictures) == 4
    assert all(picture.stat().st_size < 200_000 for picture in pictures)
