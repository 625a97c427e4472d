"""Runs as users start them: `bash run_bmtrain.sh …`, and programs in place of pretrain.py.

process = start_app(place.words(tmp_path, n_gpus=2), tmp_path)
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.outputs import Output
from tests.support.processes import kill_all, wait_until
from tests.support.ranks import REPOSITORY, Finished, finish, start
from tests.support.runs_here import APP

SCRIPT = APP / "run_bmtrain.sh"


def _environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This Python for run_bmtrain.sh, and threads that do not spin while they wait, since tests share their cores."""
    return {"PYTHON": sys.executable, "OMP_WAIT_POLICY": "PASSIVE", **(changes or {})}


def start_app(
    words: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, script: Path = SCRIPT
) -> subprocess.Popen[str]:
    """`bash run_bmtrain.sh …` started from `folder`."""
    return start(["bash", str(script), *words], _environment(env), folder)


def run_app(words: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, timeout: float = 120) -> Finished:
    """`bash run_bmtrain.sh …` to its end."""
    return finish(start_app(words, folder, env), timeout)


def start_program(
    program: Path, words: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A program in place of pretrain.py, one process for each rank as n_gpus says."""
    return start([sys.executable, str(APP / "launch.py"), str(program), *words], _environment(env), folder)


def start_paused(
    words: Sequence[str], folder: Path, iteration: int, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A run that has written the metrics of an iteration and does nothing until it is asked to stop."""
    program = REPOSITORY / "tests/support/pausing_pretrain.py"
    process = start_program(program, words, folder, {"FM9G_TEST_PAUSE": str(iteration), **(env or {})})
    output = Output(Path(words[words.index("--output_dir") + 1]))
    wait_until(lambda: len(output.metrics()) == iteration or process.poll() is not None, f"iteration {iteration}", 120)
    if process.poll() is not None:
        raise AssertionError(f"the run ended by itself:\n{finish(process).output}")
    return process


def run_killed(words: Sequence[str], folder: Path, iteration: int) -> None:
    """A run whose processes are all killed right after it has written the metrics of an iteration."""
    kill_all(start_paused(words, folder, iteration))
    output = Output(Path(words[words.index("--output_dir") + 1]))
    assert [line["iteration"] for line in output.metrics()] == list(range(1, iteration + 1))
