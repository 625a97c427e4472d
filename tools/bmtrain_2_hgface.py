#!/usr/bin/env python
"""Convert weights of FM9G to a Hugging Face folder: `fm9g convert to-huggingface`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commands.to_huggingface import main
from fm9g.errors import run_command

if __name__ == "__main__":
    run_command(main)
