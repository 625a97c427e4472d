"""Pretraining: the program that run_bmtrain.sh starts once for each rank."""

from __future__ import annotations

import sys
from pathlib import Path

APP = Path(__file__).resolve().parent
sys.path.insert(0, str(APP.parents[1]))

from fm9g.commands import pretrain
from fm9g.errors import run_command


def main() -> None:
    pretrain.main(APP)


if __name__ == "__main__":
    run_command(main)
