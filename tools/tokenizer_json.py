#!/usr/bin/env python
"""Write the tokenizer.json that a model comes without: `fm9g tokenizer-json`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commands.tokenizer_json import main
from fm9g.errors import run_command

if __name__ == "__main__":
    run_command(main)
