"""The folders of the Makefile's targets: phantoms of one size or of patients, never mixed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = ["task1-fewshot", "kshot", "task2-generalize", "task3-transfer", "covid1920",
           "compare-semi", "semiseg", "semiseg-pseudolabel", "compare-semiseg"]  # fmt: skip

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def folders(*arguments):
    """Every ``data/...`` and ``runs/...`` that a target's commands name."""
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"(?<=\s)(?:data|runs)/\S+", done.stdout))


@pytest.mark.parametrize("target", DRIVERS)
def test_phantoms_of_each_size_and_patients_have_folders_of_their_own(target):
    small, tiny, real = folders(target), folders(target, "SIZE=tiny"), folders(target, "DATA=/x")
    assert small
    assert all("phantom" in folder for folder in small | tiny)
    assert all(folder.endswith("-tiny") for folder in tiny)
    assert not any("phantom" in folder for folder in real)
    assert not small & tiny


def test_what_phantom_draws_hub_reads():
    assert folders("phantom", "SIZE=full") == {"data/phantom-full"}
    assert folders("hub", "SIZE=full") == {"data/phantom-full", "data/hub-phantom-full"}
