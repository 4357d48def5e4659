"""Who may import whom: the rule of docs/architecture.md, held by reading every import."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("rooms", Path(__file__).with_name("rooms.py"))
rooms = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rooms)

FLOOR_OF = {room: number for number, floor in enumerate(rooms.FLOORS) for room in floor}


def rooms_imported(source: str) -> set[str]:
    """Rooms named by the import statements of ``source``, at the top and inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
            if node.module == "covidseg":
                names = [f"covidseg.{alias.name}" for alias in node.names]
        found |= {
            name.split(".")[1] for name in names if name.startswith("covidseg.") and "." in name
        }
    return found


def violations(room: str, imported: set[str]) -> list[str]:
    return sorted(
        f"{room} imports {other}"
        for other in imported
        if other != room and not FLOOR_OF[other] < FLOOR_OF[room]
    )


@pytest.mark.parametrize("room", rooms.rooms())
def test_a_room_imports_only_rooms_below_it(room):
    found = []
    for file in (rooms.REPOSITORY / room).rglob("*.py"):
        imported = rooms_imported(file.read_text())
        assert imported <= FLOOR_OF.keys(), f"{file} imports a room that is on no floor"
        found += [f"{file.name}: {fault}" for fault in violations(room, imported)]
    assert not found


def test_the_rule_sees_an_import_upwards_and_sideways():
    assert violations("imaging", rooms_imported("import covidseg.registry.find")) == [
        "imaging imports registry"
    ]
    assert violations("imaging", rooms_imported("from covidseg import splits")) == [
        "imaging imports splits"
    ]
    assert violations("scoring", rooms_imported("def f():\n from covidseg.imaging import x")) == []


def test_setup_maps_every_room_and_nothing_else():
    setup = configparser.ConfigParser()
    setup.read(rooms.REPOSITORY / "setup.cfg")
    packages = set(setup["options"]["packages"].split())
    expected = {
        "covidseg." + ".".join(file.parent.relative_to(rooms.REPOSITORY).parts)
        for room in rooms.rooms()
        for file in (rooms.REPOSITORY / room).rglob("__init__.py")
    }
    assert packages == expected
    mapped = dict(
        line.split(" = ") for line in setup["options"]["package_dir"].strip().splitlines()
    )
    assert mapped == {name: name.removeprefix("covidseg.").replace(".", "/") for name in packages}


@pytest.mark.parametrize("room", ["core", "imaging", "splits", "registry", "scoring"])
def test_data_and_scoring_rooms_do_not_wait_for_torch(room):
    modules = [
        "covidseg." + ".".join(file.relative_to(rooms.REPOSITORY).with_suffix("").parts)
        for file in (rooms.REPOSITORY / room).rglob("*.py")
        if file.name != "__init__.py"
    ]
    code = "import sys, importlib\n" + "\n".join(
        f"importlib.import_module({name!r})" for name in modules
    )
    code += "\nassert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
