"""A run that is killed and resumed ends bit for bit as if it had not been."""

import csv
import multiprocessing
import os
import random
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import tiny_run
import torch

HERE = Path(__file__).parent
TIMES = {"seconds_per_step", "data_share"}
STEPS = tiny_run.RECIPE.train.steps
KILLED = -9


@pytest.fixture(scope="module")
def server():
    """A process that has imported everything and forks one that trains when it is asked to."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), before)))
    context = multiprocessing.get_context("forkserver")
    # What a run imports as it starts; the compiler comes with every optimiser.
    context.set_forkserver_preload(
        ["tiny_run", "torch.utils.tensorboard", "torch._dynamo", "accelerate"]
    )
    yield context
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def launch(server, run_dir, *words, processes=1, **environment):
    """Run the tiny training in ``processes`` real processes; their exit statuses by rank."""
    shared = {"OMP_NUM_THREADS": "1", **environment}
    if processes > 1:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # As torchrun sets them.
        shared |= {
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    children = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        children.append(
            server.Process(
                target=tiny_run.as_child, args=([str(run_dir), *words], {**shared, **own})
            )
        )
        children[-1].start()
    children[int(environment.get("KILL_RANK", "0"))].join(120)
    for child in children:
        # One that died takes the others with it, as under every launcher.
        child.join(0 if KILLED in [c.exitcode for c in children] else 120)
        if child.is_alive():
            child.kill()
            child.join()
    return [child.exitcode for child in children]


@pytest.fixture(scope="module")
def reference(server, tmp_path_factory):
    """Runs that were never killed, by number of processes."""
    runs = {}
    for processes in (1, 2):
        runs[processes] = tmp_path_factory.mktemp("reference") / "run"
        assert launch(server, runs[processes], processes=processes) == [0] * processes
    return runs


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


def assert_same_run(run_dir, reference):
    assert log(run_dir) == log(reference)
    name = f"checkpoints/step-{STEPS:08d}"
    assert [p.name for p in (run_dir / "checkpoints").glob("[!l]*")] == [f"step-{STEPS:08d}"]
    for file in ("model.safetensors", "model_ema.safetensors"):
        assert (run_dir / name / file).read_bytes() == (reference / name / file).read_bytes()
    states = [
        torch.load(run / name / "training.pt", weights_only=True) for run in (run_dir, reference)
    ]
    for state in states:
        for kind in ("seconds", "waited"):
            del state["interval"][kind]
    assert same(*states)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("draw", range(2))
def test_killed_at_random_steps(server, tmp_path, reference, draw, processes):
    chance = random.Random(1000 * processes + draw)
    run = tmp_path / "run"
    for step in sorted(chance.sample(range(STEPS), 2)):
        rank = chance.randrange(processes)
        codes = launch(
            server,
            run,
            "--resume",
            processes=processes,
            KILL_AT_STEP=str(step),
            KILL_RANK=str(rank),
        )
        assert codes[rank] == KILLED
    assert launch(server, run, "--resume", processes=processes) == [0] * processes
    assert_same_run(run, reference[processes])


# Four files a checkpoint: the first one's, and those that replace an earlier one.
@pytest.mark.parametrize(("processes", "write"), [(1, 1), (1, 4), (1, 6), (1, 11), (2, 7)])
def test_killed_while_writing_a_checkpoint(server, tmp_path, reference, processes, write):
    run = tmp_path / "run"
    assert launch(server, run, processes=processes, KILL_AT_WRITE=str(write))[0] == KILLED
    assert list((run / "checkpoints").glob(".part-*"))
    assert launch(server, run, "--resume", processes=processes) == [0] * processes
    assert_same_run(run, reference[processes])


def test_killed_before_the_earlier_checkpoint_is_removed(server, tmp_path, reference):
    run = tmp_path / "run"
    assert launch(server, run, KILL_AT_REMOVAL="1") == [KILLED]
    assert len(list((run / "checkpoints").glob("step-*"))) == 2
    assert launch(server, run, "--resume") == [0]
    assert_same_run(run, reference[1])


def test_number_of_workers_changes_nothing(server, tmp_path, reference):
    run = tmp_path / "run"
    launch(server, run, "--workers", KILL_AT_STEP="7")
    assert launch(server, run, "--workers", "--resume") == [0]
    assert log(run) == log(reference[1])


def test_two_processes_with_half_the_batch_learn_what_one_learns(server, tmp_path):
    """Batch normalisation, Dice over the batch and an average of the weights among it."""
    logs = []
    for processes in (1, 2):
        run = tmp_path / str(processes)
        assert launch(server, run, "--plain", processes=processes) == [0] * processes
        logs.append(log(run))
    assert len(logs[0]) == STEPS
    for one, two in zip(*logs, strict=True):
        assert float(one["loss"]) == pytest.approx(float(two["loss"]), rel=2e-6)
        assert float(one["gradient_norm"]) == pytest.approx(float(two["gradient_norm"]), rel=2e-5)


@pytest.mark.slow
def test_accelerate_launch_resumes_what_was_killed(server, tmp_path, reference):
    """The launcher itself, and processes that start from nothing, end up in the same place."""
    run = tmp_path / "run"
    codes = launch(server, run, processes=2, KILL_AT_STEP="8", KILL_RANK="1")
    assert codes[1] == KILLED
    assert (run / "checkpoints" / "step-00000006").is_dir()
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += [str(HERE / "tiny_run.py"), str(run), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert_same_run(run, reference[2])


@pytest.mark.slow
def test_launchers_that_would_start_less_than_was_asked_for_are_refused(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", str(HERE / "tiny_run.py"), str(tmp_path / "run")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode != 0
    assert "several processes were asked for, but accelerate started one" in found.stderr
    assert not (tmp_path / "run").exists()
