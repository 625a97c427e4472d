"""Start a program once for each rank of this node: launch.py PROGRAM [--setting value ...]

Settings and inputs are checked here too, so that a bad one is reported once and before any process starts.
"""

from __future__ import annotations

import sys
from pathlib import Path

APP = Path(__file__).resolve().parent
sys.path.insert(0, str(APP.parents[1]))

from fm9g.commands.train import start
from fm9g.errors import run_command


def main() -> None:
    start([sys.argv[1]], sys.argv[2:], APP)


if __name__ == "__main__":
    run_command(main)
