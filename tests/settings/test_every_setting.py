"""Every setting has an effect that a test sees, in the file of its group."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

from fm9g.settings import fields
from fm9g.training.settings import Settings
from tests.settings.helpers import SEEN


def test_every_setting_is_seen() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.settings.{path.stem}")
    importlib.import_module("tests.objectives.test_objectives")
    assert set(fields(Settings)) == SEEN


def test_settings_are_read_without_torch() -> None:
    """A mistake on the command line is answered at once."""
    code = "import sys, fm9g.training.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
