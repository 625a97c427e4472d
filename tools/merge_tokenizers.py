#!/usr/bin/env python
"""Add the pieces of a domain's tokenizer to a base's: `fm9g merge-tokenizers`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commands.merge_tokenizers import main
from fm9g.errors import run_command

if __name__ == "__main__":
    run_command(main)
