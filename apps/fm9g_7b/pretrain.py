"""Pretraining: the program that run_bmtrain.sh starts once for each rank."""

from __future__ import annotations

import os
import sys
from pathlib import Path

APP = Path(__file__).resolve().parent
sys.path.insert(0, str(APP.parents[1]))

from fm9g.errors import run_command
from fm9g.training.arguments import help_text, read_settings
from fm9g.training.inputs import open_inputs


def main() -> None:
    if "-h" in sys.argv or "--help" in sys.argv:
        print(help_text())
        return
    settings = read_settings(sys.argv[1:], os.environ.get("FM9G_ARGS_TABLE", ""))
    inputs = open_inputs(settings, APP)
    if settings.dry_run:
        from fm9g.training.dry_run import report

        print(report(inputs), flush=True)
        return
    from fm9g.training.trainer import run

    run(inputs)


if __name__ == "__main__":
    run_command(main)
