"""Every method through the loop: killed and resumed, and shared out over two processes."""

import csv
import functools
import multiprocessing
import os
import socket
from contextlib import closing
from pathlib import Path

import pytest
import tiny_methods
import torch

from covidseg.engine.method import Progress

HERE = Path(__file__).parent
TIMES = {"seconds_per_step", "data_share"}
STEPS = 6


def log(run_dir):
    with open(run_dir / "log.csv", newline="") as file:
        return [{k: v for k, v in r.items() if k not in TIMES} for r in csv.DictReader(file)]


def same(a, b):
    if torch.is_tensor(a):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class Stopped(Exception):
    """Thrown in the middle of a run."""


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A method's run by one process that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")

    @functools.cache
    def made(name, dimensions):
        tiny_methods.run(folder / f"{name}-{dimensions}d", name, dimensions)
        return folder / f"{name}-{dimensions}d"

    return made


@pytest.mark.parametrize("dimensions", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", tiny_methods.METHODS)
def test_stopped_and_resumed_it_ends_bit_for_bit_as_if_nothing_had_happened(
    whole_run, tmp_path, name, dimensions
):
    whole, broken = whole_run(name, dimensions), tmp_path / "broken"
    method = tiny_methods.method_of(tiny_methods.recipe_of(name, dimensions))
    go_on = method.on_step_start

    def stop(progress):
        if progress.step == 5:  # the last checkpoint is of step 4
            raise Stopped
        go_on(progress)

    method.on_step_start = stop
    with pytest.raises(Stopped):
        tiny_methods.run(broken, name, dimensions, method=method)
    tiny_methods.run(broken, name, dimensions, resume=True)
    assert log(broken) == log(whole)
    last = f"checkpoints/step-{STEPS:08d}"
    files = sorted(file.name for file in (whole / last).glob("*.safetensors"))
    assert files
    for file in files:
        assert (broken / last / file).read_bytes() == (whole / last / file).read_bytes()
    states = [torch.load(run / last / "training.pt", weights_only=True) for run in (broken, whole)]
    for state in states:
        for kind in ("seconds", "waited"):
            del state["interval"][kind]
    assert same(*states)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", tiny_methods.METHODS)
def test_half_precision_loses_no_gradient(name, dimensions):
    """Casts of weights that a teacher's pass leaves behind must not stand in for the student's."""
    method = tiny_methods.method_of(tiny_methods.recipe_of(name, dimensions))
    method.on_step_start(Progress(30, 40, 10))
    batch = tiny_methods.batch_of(name, dimensions)
    trained = [p for n in method.modules().values() for p in n.parameters() if p.requires_grad]
    norms = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = method.step(batch)
        assert all(value.dtype == torch.float32 for value in losses.values())
        gradients = torch.autograd.grad(losses["loss"], trained)
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


def launch(folder, processes):
    """All methods in ``processes`` real processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_methods", "torch.utils.tensorboard", "torch._dynamo"])
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    children = []
    for rank in range(processes):
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        child = context.Process(target=tiny_methods.as_child, args=(str(folder), environment))
        child.start()
        children.append(child)
    for child in children:
        child.join(300)
        if child.is_alive():
            child.kill()
    return [child.exitcode for child in children]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder of all methods' runs, made by two processes."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), before)))
    folder = tmp_path_factory.mktemp("two")
    assert launch(folder, 2) == [0, 0]
    yield folder
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", tiny_methods.METHODS)
def test_two_processes_with_half_the_batch_learn_what_one_learns(
    whole_run, two_processes, name, dimensions
):
    logs = log(whole_run(name, dimensions)), log(two_processes / f"{name}-{dimensions}d")
    assert len(logs[0]) == len(logs[1]) == STEPS
    for one, two in zip(*logs, strict=True):
        # The last digits differ, and sooner or later an activation falls on the other side of zero.
        tolerance = 1e-5 if int(one["step"]) <= 3 else 1e-3
        for column, value in one.items():
            if value:
                assert float(two[column]) == pytest.approx(float(value), rel=tolerance), column
