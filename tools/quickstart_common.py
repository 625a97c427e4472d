"""What the steps of tools/quickstart.py share: they say what they do, and run the commands of the README."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def step(title: str) -> None:
    """Announce a step."""
    print(f"\n== {title}", flush=True)


def shown(words: Sequence[str]) -> str:
    """A command as a user would type it."""
    return " ".join(os.path.relpath(word) if word.startswith("/") else word for word in words)


def tool(*words: str, asked: str | None = None) -> None:
    """Run a command of the workflow, shown as a user would type it; `asked`: what is typed into it."""
    print(f"$ python {shown(words)}", flush=True)
    subprocess.run([sys.executable, *words], check=True, input=asked, text=True)


def processes() -> int:
    """Two where there are two cores: faster than one process with two threads."""
    cores = len(os.sched_getaffinity(0))
    return max(count for count in (1, 2) if count <= cores)


def training(script: str, **settings: object) -> list[str]:
    """The command of a run, `script` one of apps/fm9g_7b/."""
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["bash", str(ROOT / "apps/fm9g_7b" / script), *words]
