"""How far a long pass over a file is: percent, rate and time left, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

ProgressCallback = Callable[[int, int], None]
"""Called with (bytes done, bytes in all); the total is 0 where it is not known (a pipe)."""


def no_progress(done: int, total: int) -> None:
    """Report nothing: the default of the library's functions."""


class ProgressBar:
    """A ProgressCallback that prints once work has lasted longer than its interval, so short work stays silent.

    On a terminal one line is rewritten every second; in a log file a line is added every 30 seconds.
    Use as a context manager: leaving it ends the line.
    """

    def __init__(
        self,
        what: str,
        total: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        unit: str = "",
    ):
        """`unit`: what is counted, in the plural; bytes if it is empty."""
        self._unit = unit
        self._what, self._total, self._added = what, total, 0
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._interval = 1.0 if self._terminal else 30.0
        self._started = self._printed = clock()
        self._line_open = False

    def add(self, count: int) -> None:
        """Count so many more towards `total`."""
        self._added += count
        self(self._added, self._total)

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if now - self._printed < self._interval:
            return
        self._printed = now
        rate = done / (now - self._started)
        text = f"{self._what}: {done / 1e9:.2f} GB, {rate / 1e6:.0f} MB/s"
        if self._unit:
            text = f"{self._what}: {done} {self._unit}, {rate:.3g}/s"
        if total and rate:
            text += f", {done / total:.0%}, {_duration((total - done) / rate)} left"
        self._stream.write(f"\r{text}\x1b[K" if self._terminal else text + "\n")
        self._stream.flush()
        self._line_open = self._terminal

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._line_open:
            self._stream.write("\n")


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
