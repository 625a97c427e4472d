"""Saves of checkpoints, one at a time: while training waits, or beside it from copies on the host."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from fm9g import runtime
from fm9g.checkpoint.contents import Contents
from fm9g.checkpoint.host_copies import HostCopies
from fm9g.checkpoint.writer import CheckpointWriter
from fm9g.runtime.host_group import HostGroup


class Outcome(NamedTuple):
    """How a save went: the same on all ranks but for the seconds."""

    step: int
    contents: Contents
    wrong: str  # why it could not be written, or ""
    seconds: float  # from its begin until it was on the disk
    paused: float  # seconds that training waited for it


class Saver:
    """All ranks begin the same saves, in the same order."""

    def __init__(self) -> None:
        self._outcome: Outcome | None = None

    def begin(self, folder: Path, step: int, contents: Contents) -> None:
        """Write a checkpoint; `ended` tells how that went, and is to be asked before the next one."""
        started = time.perf_counter()
        wrong = CheckpointWriter(folder, step, runtime.gather_bytes).write(contents)
        seconds = time.perf_counter() - started
        self._outcome = Outcome(step, contents, wrong, seconds, seconds)

    def ended(self, wait: bool) -> Outcome | None:
        """The save that has ended since the last call; None where there is none, or none yet and it does not `wait`."""
        outcome, self._outcome = self._outcome, None
        return outcome

    def close(self) -> None:
        """Begin no more."""


class BackgroundSaver(Saver):
    """Copies what is to be written, and writes it in another thread."""

    def __init__(self) -> None:
        super().__init__()
        self._group, self._copies = HostGroup(), HostCopies()
        self._thread = ThreadPoolExecutor(1, "fm9g-save")
        self._future: Future[Outcome] | None = None

    def begin(self, folder: Path, step: int, contents: Contents) -> None:
        """Begin to write a checkpoint."""
        assert self._future is None, "the save before has not been asked for its end"
        started = time.perf_counter()
        copied = self._copies.take(contents)
        self._future = self._thread.submit(self._write, folder, step, copied, started, time.perf_counter() - started)

    def _write(self, folder: Path, step: int, contents: Contents, started: float, paused: float) -> Outcome:
        wrong = CheckpointWriter(folder, step, self._group.gather_bytes).write(contents)
        return Outcome(step, contents, wrong, time.perf_counter() - started, paused)

    def ended(self, wait: bool) -> Outcome | None:
        """As that of all savers."""
        if self._future is None or not (wait or self._future.done()):
            return None
        future, self._future = self._future, None
        with runtime.waiting_for_threads():
            return future.result()

    def close(self) -> None:
        """Begin no more; what has been begun is written."""
        self._thread.shutdown()
        self._group.close()
