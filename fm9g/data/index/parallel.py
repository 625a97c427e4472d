"""A function over a sequence in several processes or threads, the results in order."""

from __future__ import annotations

import collections
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fm9g.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # items per process that are computed or wait, so that memory stays bounded
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, threads: bool = False
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, function(item)) in order, computed by `workers` processes (or threads); with one, by this thread.

    Items are drawn only as fast as results are taken. The processes end with this one, however it ends.
    """
    if workers <= 1:
        for item in items:
            yield item, function(item)
        return
    with _threads(workers) if threads else _processes(workers) as pool:
        pending: collections.deque[tuple[Item, Future[Result]]] = collections.deque()
        try:
            for item in items:
                pending.append((item, pool.submit(function, item)))
                if len(pending) >= AHEAD * workers:
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _threads(count: int) -> Executor:
    return ThreadPoolExecutor(count, thread_name_prefix="fm9g-map")


def _processes(count: int) -> Executor:
    return ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _begin_worker, (os.getpid(),))


def _finished(item: Item, future: Future[Result]) -> tuple[Item, Result]:
    try:
        return item, future.result()
    except BrokenProcessPool:
        raise UserError("a worker process was killed, for want of memory perhaps: try fewer --workers") from None


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of some megabytes: giving them back and taking them anew halves the speed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 64 << 20)
        mallopt(_M_TRIM_THRESHOLD, 512 << 20)


def _begin_worker(parent: int) -> None:
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to it
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
