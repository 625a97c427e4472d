"""What surrounds the program: its repository, and numbers that a launcher or a person gives in the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fm9g.errors import UserError, say

REPOSITORY = Path(__file__).resolve().parents[1]  # of an installed fm9g, the folder that it is installed in


def whole_number(name: str, default: int, least: int = 0, most: int = 1_000_000_000) -> int:
    """The environment variable `name`, or `default` where it is unset or blank; UserError unless from least to most."""
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", value) or not least <= int(value) <= most:  # str.isdigit accepts ², too
        bounds = f"of at least {least}" if most == 1_000_000_000 else f"from {least} to {most}"
        raise UserError(f"{name}={value!r} must be a whole number {bounds}")
    return int(value)


def seconds(name: str, default: float) -> float:
    """The environment variable `name` in seconds, above 0; UserError otherwise."""
    value = os.environ.get(name, "").strip() or str(default)
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", value) or float(value) == 0:
        raise UserError(f"{name}={value!r} must be a number of seconds above 0")
    return float(value)


def check_ranks() -> None:
    """Refuse what a launcher, or a person in its place, has set and BMTrain cannot read as numbers."""
    whole_number("WORLD_SIZE", 1, least=1)
    whole_number("LOCAL_WORLD_SIZE", 1, least=1)
    whole_number("RANK", 0)
    whole_number("LOCAL_RANK", 0)
    whole_number("MASTER_PORT", 0, most=65535)


def tell(message: str) -> None:
    """Say something on stderr, once if a launcher started several ranks."""
    if os.environ.get("RANK", "0") in ("", "0"):
        say(message)
