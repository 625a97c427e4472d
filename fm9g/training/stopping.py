"""Whether a run is to end before its last step: by a signal, by its launcher, or for the hours that it has."""

from __future__ import annotations

import time

from fm9g import launcher, runtime, signals
from fm9g.errors import say


class Stopping:
    """Asked after each step, and in an evaluation. What asks for a stop is said by the rank that learns of it, once."""

    def __init__(self, max_hours: float | None) -> None:
        self._hours = max_hours
        self._began = time.monotonic() - launcher.seconds_since_start()
        self._said = False

    def asked(self) -> bool:
        """Whether this rank knows of a reason to stop."""
        reason = self._reason()
        if reason and not self._said:
            self._said = True
            self._say(reason)
        return bool(reason)

    def _reason(self) -> str:
        if name := signals.heard():
            return f"{name} (a second signal ends it at once)"
        if (told := launcher.left(launcher.STOP)) is not None:
            return told
        if self._hours is not None and time.monotonic() - self._began >= self._hours * 3600:
            return f"max_hours {self._hours:g} have passed"
        return ""

    def _say(self, reason: str) -> None:
        if signals.heard() or runtime.local_rank() == 0:  # the launcher's word is the same on all ranks of a node
            say(f"rank {runtime.rank()}: {reason}: the run stops after this step")
