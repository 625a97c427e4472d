"""Command lines in which `-` and `_` are the same in a flag's name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def _dashed(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def parse_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `argv` (by default the process's), reading ``--a_b`` as ``--a-b``; declare flags with dashes."""
    arguments = sys.argv[1:] if argv is None else argv
    return parser.parse_args([_dashed(argument) for argument in arguments])
