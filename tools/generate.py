#!/usr/bin/env python
"""Continue texts, answer questions, or talk: `fm9g generate`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commands.generate import main
from fm9g.errors import run_command

if __name__ == "__main__":
    run_command(main)
