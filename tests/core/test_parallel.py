from __future__ import annotations

import os
import signal

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


def test_no_items_no_processes():
    assert list(map_cases(double, [], progress=False)) == []
