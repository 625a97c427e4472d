"""What a run prints: once, not once a rank."""

from __future__ import annotations

import contextlib

from fm9g import runtime


def log(message: str) -> None:
    """Print a line on rank 0. Where it cannot be, on a full disk or with nobody who reads it, the run goes on: what
    counts is in its checkpoints and metrics."""
    if runtime.rank() == 0:
        with contextlib.suppress(OSError):
            print(message, flush=True)
