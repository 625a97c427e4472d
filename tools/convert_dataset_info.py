#!/usr/bin/env python
"""Turn datasets of a dataset_info.json into a mixture: `fm9g mixture`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without fm9g being installed

from fm9g.commands.mixture import main
from fm9g.errors import run_command

if __name__ == "__main__":
    run_command(main)
