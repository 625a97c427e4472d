"""The repository's tools as users run them, from another folder: in this process where that shows the same."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ranks import REPOSITORY, Finished

TOOLS = REPOSITORY / "tools"


def run_tool(tool: str, words: list[str], folder: Path, variables: dict[str, str]) -> Finished:
    """In a process of its own, with these environment variables; without a traceback."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "NO_COLOR")}
    done = subprocess.run(
        [sys.executable, str(TOOLS / tool), *words],
        capture_output=True,
        cwd=folder,
        env={**environment, **variables},
        timeout=120,
        encoding="utf-8",
    )
    assert "Traceback" not in done.stderr
    return Finished(done.returncode, done.stderr if done.returncode else done.stdout)


def run_tool_here(tool: str, words: list[str], folder: Path) -> Finished:
    """In this process: what it prints, or says on stderr where it fails."""
    printed, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    status = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        patch.setattr(sys, "argv", [str(TOOLS / tool), *words])
        patch.chdir(folder)
        patch.delenv("NO_COLOR", raising=False)
        try:
            runpy.run_path(str(TOOLS / tool), run_name="__main__")
        except SystemExit as exit:
            status = int(exit.code or 0)
    shown = errors if status else printed
    shown.flush()
    return Finished(status, shown.buffer.getvalue().decode())  # type: ignore[attr-defined]
