"""A tiny repository of phantoms and a run that was trained on it for a few steps."""

from __future__ import annotations

from pathlib import Path

import pytest

# A network and a patch for phantoms of size tiny: seconds on one core.
SMALL = [
    "--patch.size=[32,32]", "--patch.batch_size=4", "--network.features=[4,8]",
    "--optim.name=adamw", "--optim.lr=0.01", "--train.epochs=1", "--train.steps_per_epoch=6",
    "--train.checkpoint_every=3", "--train.validate_every=1", "--train.workers=0",
    "--train.log_every=3", "--window.mirror=false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_processes_for_a_few_cases(monkeypatch):
    """Phantoms are read sooner than processes start; tests/core has the processes."""
    from covidseg.core import parallel

    monkeypatch.setattr(parallel, "FEW", 1000)


class Begins(Exception):
    """What `nothing_begins` raises."""


@pytest.fixture
def nothing_begins(monkeypatch) -> type[Exception]:
    """The exception in whose raising a protocol ends that would now run what is not done."""
    from covidseg.trainers import kshot, protocol

    def begin(jobs, logs):
        raise Begins([job.name for job in jobs])

    for module in (kshot, protocol):
        monkeypatch.setattr(module, "run_side_by_side", begin)
    return Begins


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    from covidseg.registry.phantom.generate import write_phantoms

    folder = tmp_path_factory.mktemp("raw")
    write_phantoms(folder, "tiny", datasets=["covid-ct-seg", "mosmed"], progress=False, workers=1)
    return folder


@pytest.fixture(scope="session")
def hub(raw, tmp_path_factory) -> Path:
    from covidseg.registry.hub import build_hub

    out = tmp_path_factory.mktemp("hub") / "hub"
    report = build_hub(raw, out, workers=1, progress=False)
    assert report.sound
    return out


@pytest.fixture(scope="session")
def options(hub, tmp_path_factory) -> list[str]:
    cache = tmp_path_factory.mktemp("cache")
    return [*SMALL, f"--data.hub={hub}", f"--data.cache={cache}"]


@pytest.fixture(scope="session")
def run(options, tmp_path_factory) -> Path:
    from covidseg.trainers.supervised import main

    folder = tmp_path_factory.mktemp("runs") / "lung"
    main(["--recipe", "task1-lung-2d", "--out", str(folder), *options])
    return folder


@pytest.fixture(scope="session")
def sources_hub(tmp_path_factory) -> Path:
    """A repository with a source and a test of Task 2."""
    from covidseg.registry.hub import build_hub
    from covidseg.registry.phantom.generate import write_phantoms

    raw = tmp_path_factory.mktemp("sources")
    write_phantoms(raw, "tiny", datasets=["structseg", "covid-ct-seg"], progress=False, workers=1)
    out = tmp_path_factory.mktemp("hub2") / "hub"
    assert build_hub(raw, out, workers=1, progress=False).sound
    return out
