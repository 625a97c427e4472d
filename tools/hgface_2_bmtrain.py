#!/usr/bin/env python
"""Convert a Hugging Face folder to a .pt file of FM9G: `fm9g convert from-huggingface`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commands.from_huggingface import main
from fm9g.errors import run_command

if __name__ == "__main__":
    run_command(main)
