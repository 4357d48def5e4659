from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from covidseg.core.parallel import map_cases


def double(number):
    if number == 3:
        raise ValueError("three")
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_comes_back_once_and_a_fault_hides_none(workers):
    results = dict(map_cases(double, [0, 1, 2, 3, 4, 6], workers=workers, progress=False))
    assert isinstance(results.pop(3), ValueError)
    assert results == {0: 0, 1: 2, 2: 4, 4: 8, 6: 12}


def test_a_killed_worker_costs_only_its_own_item():
    results = dict(map_cases(double, list(range(12)), workers=2, progress=False))
    assert isinstance(results.pop(3), ValueError)
    assert isinstance(results.pop(5), Exception)
    assert results == {n: 2 * n for n in range(12) if n not in (3, 5)}


def test_what_is_kept_from_before_comes_first_and_is_not_done_again():
    def already(number):
        return 100 if number in (3, 5, 7) else None

    results = list(map_cases(double, range(9), already=already, workers=2, progress=False))
    assert results[:3] == [(3, 100), (5, 100), (7, 100)]
    assert sorted(results[3:]) == [(n, 2 * n) for n in (0, 1, 2, 4, 6, 8)]


def test_no_process_starts_for_what_is_kept():
    def never(number):  # could not go to a process either, being local
        raise AssertionError("nothing is left to do")

    results = list(map_cases(never, range(50), already=str, workers=2, progress=False))
    assert results == [(n, str(n)) for n in range(50)]


def test_no_items_no_processes():
    assert list(map_cases(double, [], progress=False)) == []


class InterruptedAsItGoes:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)  # raised here, Python prints it and goes on


def drop_one(number):
    _ = InterruptedAsItGoes() if number == 2 else None
    return number


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("last", [2, 9])
def test_an_interrupt_that_was_swallowed_is_raised_at_the_next_case(last):
    done = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        for item, _ in map_cases(drop_one, range(last + 1), workers=1, progress=False):
            done.append(item)
    assert done == [0, 1]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_swallowed_by_who_takes_the_results_is_raised_too():
    done = []
    with pytest.raises(KeyboardInterrupt):
        for item, _ in map_cases(double, [0, 1, 2, 4, 6], workers=1, progress=False):
            done.append(item)
            if item == 1:
                InterruptedAsItGoes()
    assert done == [0, 1]


CHILD = """
import os, sys, time
from pathlib import Path
from covidseg.core.parallel import map_cases

def wait(number):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(0.2)

if __name__ == "__main__":
    list(map_cases(wait, range(1000), workers=2, progress=False))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script, pids = tmp_path / "child.py", tmp_path / "pids"
    script.write_text(CHILD)
    pids.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(pids)])
    deadline = time.monotonic() + 60
    while len(list(pids.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    left = {int(path.name) for path in pids.iterdir()}
    assert len(left) == 2
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if os.path.exists(f"/proc/{pid}")}
        time.sleep(0.1)
    assert not left
