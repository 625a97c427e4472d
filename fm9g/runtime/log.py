"""What a run prints: once, not once a rank."""

from __future__ import annotations

from fm9g import runtime


def log(message: str) -> None:
    """Print a line on rank 0."""
    if runtime.rank() == 0:
        print(message, flush=True)
