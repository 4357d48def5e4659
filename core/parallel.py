"""Doing the same thing to many cases on several processes, with bounded memory and no lost case."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

from covidseg.core.progress import progress_bar

# Starting processes takes seconds where torch is imported; so few cases are done sooner here.
FEW = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    already: Callable[[Item], Result | None] | None = None,
    workers: int | None = None,
    description: str = "",
    progress: bool = True,
) -> Iterator[tuple[Item, Result | Exception]]:
    """Yield ``(item, result)`` as results come in, in no particular order, none left out.

    An exception raised by ``function`` is yielded in the result's place, so that one bad case never
    hides the others. At most ``2 * workers`` items are in flight, which bounds memory. ``function``
    must be importable (no lambda) when ``workers`` is above 1; with ``workers`` of 1 everything
    runs in this process, as it does for up to `FEW` items. ``already`` gives the result of an item
    that was kept from before, None for others, sooner than a process starts; those come first.

    A worker that dies (killed for memory, say) breaks the pool for all that was in flight: those
    items are tried again one at a time in fresh processes, and the one that kills its worker again
    is yielded with the exception.
    """
    kept: list[tuple[Item, Result]] = []
    left: list[Item] = []
    for item in items:
        known = None if already is None else already(item)
        if known is None:
            left.append(item)
        else:
            kept.append((item, known))
    workers = max(1, min(workers or default_workers(), len(left) or 1))
    if len(left) <= FEW:
        workers = 1
    with progress_bar(
        total=len(items), desc=description, unit="case", disable=not progress or not items
    ) as bar:
        source = (
            _in_this_process(function, left) if workers == 1 else _in_pool(function, left, workers)
        )
        for item, result in chain(kept, source):
            bar.update()
            yield item, result


def _in_this_process(function, items):
    with _interrupts_noted() as raise_if_interrupted:
        for item in items:
            try:
                result = function(item)
            except Exception as fault:
                result = fault
            raise_if_interrupted()
            yield item, result
            raise_if_interrupted()


def _in_pool(function, items, workers):
    # Spawned, not forked: a fork of a process that has started threads (torch, OpenMP) can hang.
    context = multiprocessing.get_context("spawn")
    left = iter(items)
    broken = []
    with (
        _interrupts_held_back() as interrupted,
        ProcessPoolExecutor(workers, context, _leave_interrupts_to_the_parent) as pool,
    ):
        running: dict[Future, object] = {}
        try:
            _submit(pool, function, running, islice(left, 2 * workers))
            while running and not interrupted():
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    item = running.pop(future)
                    fault = future.exception()
                    if isinstance(fault, BrokenProcessPool):
                        broken.append(item)
                    elif isinstance(fault, Exception):
                        yield item, fault
                    elif fault is not None:
                        raise fault
                    else:
                        yield item, future.result()
                if broken:
                    broken.extend(running.values())
                    break
                _submit(pool, function, running, islice(left, len(done)))
            if interrupted():
                pool.shutdown(wait=True, cancel_futures=True)
        except BaseException:
            # Cases under way are waited for: an executor told not to wait can hang at exit.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for item in broken:
        with ProcessPoolExecutor(1, context, _leave_interrupts_to_the_parent) as pool:
            with _interrupts_blocked():
                future = pool.submit(function, item)
            fault = future.exception()
            yield item, fault if isinstance(fault, Exception) else future.result()
    if broken:
        yield from _in_pool(function, list(left), workers)


@contextlib.contextmanager
def _interrupts_noted() -> Iterator[Callable[[], None]]:
    """Within the block Ctrl-C does what it did before, and the function raises it once more.

    Raised within a destructor or a library's callback, it is printed or swallowed there, and a
    loop would go on as though nobody had asked it to stop.
    """
    before = signal.getsignal(signal.SIGINT)
    # Ignored (a worker, nohup) or left to the system, it raises nothing that could be lost.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: None
        return
    seen: list[int] = []

    def note(number, frame):
        seen.append(number)
        before(number, frame)

    def raise_if_interrupted():
        if seen:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C only makes the function true; it takes effect where the block ends.

    Raised at any line, it can find a lock of the pool held, and the pool then never ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
        if seen:
            signal.raise_signal(signal.SIGINT)


def _leave_interrupts_to_the_parent() -> None:
    # Ctrl-C reaches every process of the terminal. A worker ends its case, so that nothing is left
    # half-written, and prints no traceback; the parent hands out no more.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # A parent that was killed says nothing: its workers would wait for their next case for ever.
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Within the block Ctrl-C waits, also in worker processes that start in it.

    They inherit that, and are deaf before `_leave_interrupts_to_the_parent` runs too: while Python
    starts in them, an interrupt would be a traceback on the terminal.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _submit(pool, function, running: dict, items: Iterable) -> None:
    for item in items:
        try:
            with _interrupts_blocked():
                running[pool.submit(function, item)] = item
        except BrokenProcessPool as fault:
            future: Future = Future()
            future.set_exception(fault)
            running[future] = item
