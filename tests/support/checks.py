"""For programs that run on ranks: functions named `check_…`, each a test that pytest reports by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fm9g import runtime


def run_checks(namespace: dict[str, Any]) -> None:
    """Run every `check_…` of a program's globals, and say which came to its end on all ranks.

    An exception ends the program on all ranks; the checks after it count as failed.
    """
    checks: list[tuple[str, Callable[[], None]]] = [
        (name.removeprefix("check_"), value) for name, value in namespace.items() if name.startswith("check_")
    ]
    for name, check in checks:
        check()
        runtime.barrier()
        if runtime.rank() == 0:
            print(f"passed {name}", flush=True)
