"""Starting programs on several ranks, and reading what all of them said.

result = run_ranks(PROGRAM, ranks=2, tmp_path=tmp_path)
assert result.returncode == 0, result.output
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_SET_BY_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Finished:
    """How a program ended: its exit status and what all its ranks wrote to stdout and stderr."""

    returncode: int
    output: str


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, with the repository importable, one thread a rank and no rank set."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _SET_BY_LAUNCHERS and not name.startswith("TORCHELASTIC_")
    }
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    ours = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    return {**inherited, **ours, **(changes or {})}


def script_file(script: str | Path, folder: Path) -> Path:
    """The script's file; program text is written into `folder`."""
    if isinstance(script, Path):
        return script
    path, text = folder / "program.py", textwrap.dedent(script)
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # another rank may be reading it already
        path.write_text(text, encoding="utf-8")
    return path


def run_ranks(
    script: str | Path,
    ranks: int,
    tmp_path: Path,
    args: Sequence[object] = (),
    env: Mapping[str, str] | None = None,
    module: str | None = None,
    timeout: float = 120,
) -> Finished:
    """Run a script (a file, or its text) on `ranks` ranks, under torchrun when there are several.

    `module` runs it, as in `-m fm9g.runtime SCRIPT`. AssertionError with the output after `timeout` seconds.
    """
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    if module is not None:
        command += ["-m", module]
    command += [str(script_file(script, tmp_path)), *map(str, args)]
    return finish(start(command, env, tmp_path), timeout, signal.SIGTERM if ranks > 1 else signal.SIGABRT)


def start(command: Sequence[str], env: Mapping[str, str] | None, folder: Path) -> subprocess.Popen[str]:
    """Start a command, stderr joined to stdout, in a process group of its own."""
    return subprocess.Popen(
        command,
        env=environment(env),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_as_from_a_terminal,
    )


def _as_from_a_terminal() -> None:
    """Whatever a shell starts in the background inherits that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str], timeout: float = 60, end_with: signal.Signals = signal.SIGABRT) -> Finished:
    """Wait for a process from `start`; past the timeout end it, and show its output in an AssertionError.

    SIGABRT makes Python's fault handler say where the process stood; SIGTERM makes torchrun end its ranks.
    """
    try:
        output, _ = process.communicate(timeout=timeout)
        return Finished(process.returncode, output)
    except subprocess.TimeoutExpired:
        process.send_signal(end_with)
        try:
            output, _ = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate(timeout=15)
        raise AssertionError(f"still running after {timeout} s:\n{output}") from None


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def start_rank(
    script: str | Path,
    rank: int,
    world_size: int,
    port: int,
    tmp_path: Path,
    env: Mapping[str, str] | None = None,
    module: str | None = None,
) -> subprocess.Popen[str]:
    """Start one rank as a launcher would, without a launcher that would end it."""
    places = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    runner = ["-m", module] if module else []
    return start([sys.executable, *runner, str(script_file(script, tmp_path))], {**places, **(env or {})}, tmp_path)


def names_of_checks(program: Path) -> list[str]:
    """The names of a program's `check_…` functions, without the prefix (see tests/support/checks.py)."""
    return re.findall(r"^def check_(\w+)\(", program.read_text(encoding="utf-8"), re.MULTILINE)


def assert_passed(result: Finished, name: str) -> None:
    """Assert that a program came to the end of its `check_<name>` on every rank."""
    assert f"passed {name}\n" in result.output, result.output
