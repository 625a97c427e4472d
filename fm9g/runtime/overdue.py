"""Nothing waits for ever: a process that has come no further for too long says where it stands, and ends.

Who does the work says what it does, again and again (`note`); a thread of its own looks how long ago that was.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_LOOKS = 20  # at the time that is left, within the time that there is
_STATES = {"T": "stopped", "t": "stopped", "D": "waiting for a disk", "Z": "dead"}


class Overdue(threading.Thread):
    """Calls `end(doing)` when nothing was noted for `seconds`."""

    def __init__(self, seconds: float, end: Callable[[str], None]) -> None:
        super().__init__(name="fm9g-overdue", daemon=True)
        self._seconds, self._end = seconds, end
        self._noted: tuple[str, float] | None = None
        self._over = threading.Event()

    def note(self, doing: str) -> None:
        """What this process begins to do now."""
        self._noted = doing, time.monotonic()

    def run(self) -> None:
        while not self._over.wait(min(self._seconds / _LOOKS, 1.0)):
            noted = self._noted
            if noted is not None and time.monotonic() - noted[1] > self._seconds:
                self._end(f"{noted[0]}, for more than {self._seconds:g} s")

    def close(self) -> None:
        """Look no more."""
        self._over.set()


def stacks() -> None:
    """Write to stderr where each thread of this process stands."""
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)


def stuck_children() -> str:
    """The processes that this one has started and that do nothing, for a message; "" where there are none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended meanwhile
            continue
        if int(parent) == os.getpid() and state in _STATES:
            found.append(f"process {entry.parent.name}, which it started, is {_STATES[state]}")
    return "".join(f"; {said}" for said in found)
