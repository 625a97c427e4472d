"""Programs as they run on the cpu backend, rewritten, in this process."""

from __future__ import annotations

from typing import Any

import torch

from fm9g.runtime.retarget import retargeted_code


def run(program: str, **given: Any) -> dict[str, Any]:
    """The globals of a rewritten program."""
    names = {"torch": torch, **given}
    exec(retargeted_code(program, "program.py"), names)
    return names


def value_of(expression: str, **given: Any) -> Any:
    return run(f"value = {expression}", **given)["value"]
