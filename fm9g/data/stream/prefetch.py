"""What a loader's threads do before it is needed: they tokenize, and ask the kernel for records."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fm9g.data.index.dataset import IndexedDataset

Result = TypeVar("Result")


class Prefetcher:
    """`threads` threads that tokenize and as many that have records brought into the page cache; 0 for none.

    `depth` is how many records are asked for ahead of those that a lane's next row is likely to take.
    """

    def __init__(self, threads: int, depth: int) -> None:
        self._threads, self.depth = threads, depth if threads else 0
        self._wanted: list[tuple[IndexedDataset, int]] = []
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self.waited = 0.0

    def _pool(self, name: str) -> ThreadPoolExecutor:
        if name not in self._pools:  # made here, since threads do not survive a fork
            self._pools[name] = ThreadPoolExecutor(self._threads, thread_name_prefix=f"fm9g-{name}")
        return self._pools[name]

    def tokenize(self, make: Callable[[], Result]) -> Future[Result]:
        """What `make` returns, once a thread has called it; without threads it is called at once."""
        if self._threads:
            return self._pool("tokenize").submit(make)
        made: Future[Result] = Future()
        made.set_result(make())
        return made

    def wait(self, made: Future[Result]) -> Result:
        """What has been made; `waited` adds up the seconds."""
        started = time.perf_counter()
        result = made.result()
        self.waited += time.perf_counter() - started
        return result

    def want(self, records: list[tuple[IndexedDataset, int]]) -> None:
        """Note records of datasets, by their numbers, to be asked for at the next `start`."""
        self._wanted += records

    def start(self) -> None:
        """Ask for what is wanted; returns at once. Called once a step: to wake a thread stops this one for a while."""
        for thread in range(min(self._threads, len(self._wanted))):
            self._pool("read").submit(_will_need, self._wanted[thread :: self._threads])
        self._wanted = []


def _will_need(wanted: list[tuple[IndexedDataset, int]]) -> None:
    for dataset, record in wanted:
        dataset.will_need(record)
