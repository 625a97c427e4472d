#!/usr/bin/env python
"""Show the first rows of a mixture exactly as a model will see them: `fm9g preview`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commands.preview import main
from fm9g.errors import run_command

if __name__ == "__main__":
    run_command(main)
