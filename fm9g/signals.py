"""Signals that ask a run to stop: the first asks, the second ends the process at once.

Python runs its handlers between two steps of the main thread, which may be inside a collective for long. So numbers of
signals go to a pipe as they come, and a thread reads them there.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


_PR_SET_PDEATHSIG = 1  # of prctl(2)


class _State:
    heard = ""  # the name of the first


_ending = mmap.mmap(-1, 1)  # shared with the processes that are forked: whether this one comes to its end


@atexit.register
def _say_that_it_ends() -> None:
    _ending[0] = 1


def listen(at_second: Callable[[], None]) -> None:
    """From now on a first signal is `heard`, a second ends this process, after `at_second`; of those that a shell had
    it ignore, none is. The main thread must call it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _nothing)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_leave_to_the_parent)
    threading.Thread(target=_hear, args=(reading, at_second), name="fm9g-signals", daemon=True).start()


def heard() -> str:
    """The name of the signal that asks for a stop; "" where there was none."""
    return _State.heard


def serve() -> None:
    """In a process that serves this one, which forked it: go on until that ends, whatever signal goes to all processes
    of a job, and no longer, whatever it does then."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in STOPPING:
        signal.signal(number, _end_with_the_parent)


def _nothing(number: int, frame: FrameType | None) -> None:
    """The pipe has it; without a handler of Python's it would not."""


def _end_with_the_parent(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGTERM and _ending[0]:
        os._exit(0)


def _leave_to_the_parent() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


def _hear(reading: int, at_second: Callable[[], None]) -> None:
    while number := os.read(reading, 1):
        if number[0] not in STOPPING:
            continue
        name = signal.Signals(number[0]).name
        if _State.heard:
            with contextlib.suppress(OSError):
                print(f"a second signal ({name}): ending at once", file=sys.stderr, flush=True)
                at_second()
            os._exit(128 + number[0])
        _State.heard = name
