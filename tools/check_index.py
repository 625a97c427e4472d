#!/usr/bin/env python
"""Verify every byte of an indexed dataset: `fm9g check`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commands.check import main
from fm9g.errors import run_command

if __name__ == "__main__":
    run_command(main)
