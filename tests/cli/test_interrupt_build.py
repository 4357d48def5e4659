"""Ctrl-C at random moments of a real parallel build: it ends, leaves whole files, and goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from covidseg.imaging.nifti import read_nifti

INTERRUPTED = 130
# The cases that workers are at are ended, which for tiny ones takes no time.
SECONDS_TO_END = 20
START = "import sys; from covidseg.cli.main import main; main(sys.argv[1:])"


def start(raw, out, log) -> subprocess.Popen:
    """The build as in a terminal: with its workers in a process group of its own."""
    command = [sys.executable, "-c", START, "build", str(raw), "--out", str(out), "-j", "2"]
    return subprocess.Popen(
        [*command, "--datasets", "covid-ct-seg"],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def group_has_ended(group: int) -> bool:
    """Whether no process of the group is left, given a moment."""
    until = time.monotonic() + SECONDS_TO_END
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    from covidseg.registry.phantom.generate import write_phantoms

    folder = tmp_path_factory.mktemp("raw")
    write_phantoms(folder, "tiny", datasets=["covid-ct-seg"], progress=False, workers=1)
    return folder


def wait_until_it_speaks(build: subprocess.Popen, log: Path) -> None:
    """Until it says something, it is Python that starts."""
    while not log.stat().st_size and build.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
def test_interrupted_at_random_it_ends_and_the_next_build_completes(raw, tmp_path):
    log = tmp_path / "log"
    with open(log, "wb") as stream:
        build = start(raw, tmp_path / "undisturbed", stream)
    wait_until_it_speaks(build, log)
    began = time.monotonic()
    assert build.wait(60) == 0, log.read_text()
    lasts = time.monotonic() - began

    rng = random.Random(0)
    endings = []
    for number in range(3):
        out, log = tmp_path / f"hub{number}", tmp_path / f"log{number}"
        with open(log, "wb") as stream:
            build = start(raw, out, stream)
        wait_until_it_speaks(build, log)
        time.sleep(rng.uniform(0, 0.6 * lasts))
        os.killpg(build.pid, signal.SIGINT)
        endings.append(build.wait(SECONDS_TO_END))
        said = log.read_text()
        assert "Traceback" not in said, said
        if endings[-1] == -signal.SIGINT:
            # Python itself ended thus, with all of the build done.
            assert "load_dataset(" in said, said
        elif endings[-1]:
            assert endings[-1] == INTERRUPTED, said
            assert "interrupted" in said
        assert group_has_ended(build.pid)
        for path in out.rglob("*.nii.gz"):
            read_nifti(path)
    assert INTERRUPTED in endings

    with open(log, "wb") as stream:
        assert start(raw, out, stream).wait(60) == 0, log.read_text()
    assert (out / "README.md").is_file()
    assert len(list(out.rglob("*.nii.gz"))) >= 40  # scans and masks
    assert not [path for path in out.rglob(".*") if path.name.startswith((".part-", ".old-"))]
