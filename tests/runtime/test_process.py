"""How ranks find each other, and that no rank outlives a run that has failed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.ranks import environment, finish, free_port, run_ranks, start_rank

INITIALIZE = "import fm9g.runtime as runtime\nruntime.initialize()\n"

# Rank 1 does what its argument says once every rank is in a collective's reach; the others wait in one.
WAIT_IN_A_COLLECTIVE = """
import os, signal, sys
import fm9g.runtime as runtime
runtime.initialize()
runtime.barrier()
if runtime.rank() == 1:
    {event}
runtime.barrier()
print("went past the barrier")
"""


def test_ranks_that_were_started_for_different_worlds_end_and_name_each_other(tmp_path: Path) -> None:
    port = free_port()
    ranks = [start_rank(INITIALIZE, 0, 3, port, tmp_path), start_rank(INITIALIZE, 1, 2, port, tmp_path)]
    zero, one = (finish(process) for process in ranks)
    assert (zero.returncode, one.returncode) == (1, 1)
    assert f"rank 1 (process {ranks[1].pid} on {socket.gethostname()}) was started for 2 ranks, rank 0 for 3" in (
        zero.output
    )
    assert f"rank 0 (process {ranks[0].pid} on {socket.gethostname()}) was started for 3 ranks, rank 1 for 2" in (
        one.output
    )
    assert "NNODES and GPUS_PER_NODE must be the same on every node" in one.output


def test_a_rank_given_twice_ends_all_and_is_named(tmp_path: Path) -> None:
    port = free_port()
    ranks = [start_rank(INITIALIZE, rank, 3, port, tmp_path) for rank in (0, 1, 1)]
    for result in [finish(process) for process in ranks]:
        assert result.returncode == 1
        assert "both claim rank 1: every node needs a RANK of its own" in result.output
        assert all(str(process.pid) in result.output for process in ranks[1:])


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    impatient = {"FM9G_RENDEZVOUS_SECONDS": "3"}
    port = free_port()
    ranks = [start_rank(INITIALIZE, rank, 4, port, tmp_path, env=impatient) for rank in (0, 2)]
    for result in [finish(process) for process in ranks]:
        assert result.returncode == 1
        assert "no sign of rank(s) 1, 3 for 3 s" in result.output


def test_a_missing_rank_0_is_not_waited_for_either(tmp_path: Path) -> None:
    """It is the one that the others meet at."""
    port = free_port()
    result = finish(start_rank(INITIALIZE, 1, 2, port, tmp_path, env={"FM9G_RENDEZVOUS_SECONDS": "3"}))
    assert result.returncode == 1
    assert f"rank 1 cannot reach the rendezvous at localhost:{port}" in result.output


def test_a_rank_beyond_the_world_is_an_error(tmp_path: Path) -> None:
    result = finish(start_rank(INITIALIZE, 2, 2, free_port(), tmp_path))
    assert result.returncode == 1
    assert "RANK=2 is not below WORLD_SIZE=2" in result.output


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as other_program:
        other_program.bind(("", 0))
        other_program.listen()
        port = other_program.getsockname()[1]
        result = finish(start_rank(INITIALIZE, 0, 2, port, tmp_path))
    assert result.returncode == 1
    assert f"rank 0 cannot serve the rendezvous at localhost:{port}: the port is in use" in result.output


def test_one_process_alone_needs_no_port(tmp_path: Path) -> None:
    with socket.socket() as other_program:
        other_program.bind(("", 0))
        other_program.listen()
        taken = {"MASTER_PORT": str(other_program.getsockname()[1])}
        result = run_ranks(INITIALIZE + "print(runtime.all_reduce(5))", 1, tmp_path, env=taken)
    assert result.returncode == 0, result.output
    assert "5\n" in result.output


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1 (process {pid} on {host})"),
        ("raise LookupError('no more data')", "rank 1 (process {pid} on {host}) failed: LookupError: no more data"),
        ("runtime.fail('the disk is full'); sys.exit(3)", "rank 1 (process {pid} on {host}) failed: the disk is full"),
    ],
    ids=["killed", "exception", "fail"],
)
def test_a_rank_that_ends_early_ends_the_others_and_is_named(event: str, message: str, tmp_path: Path) -> None:
    """Started without a launcher, so that nothing but the ranks themselves can end them."""
    program = WAIT_IN_A_COLLECTIVE.format(event=event)
    port = free_port()
    ranks = [start_rank(program, rank, 3, port, tmp_path) for rank in range(3)]
    zero, one, two = (finish(process) for process in ranks)
    assert one.returncode != 0
    named = message.format(pid=ranks[1].pid, host=socket.gethostname())
    for survivor in (zero, two):
        assert survivor.returncode == 1, survivor.output
        assert named in survivor.output, survivor.output
        assert "went past" not in survivor.output


def test_a_program_that_fails_names_its_rank_to_the_others(tmp_path: Path) -> None:
    """Through `-m fm9g.runtime`, which must see every way in which the program can end: three runs at a time."""
    events = {
        "sys.exit('bad corpus')": "failed: exit status bad corpus",
        "open('absent.jsonl')": "failed: FileNotFoundError",
        "from fm9g.errors import UserError; raise UserError('no such task')": "failed: no such task",
    }
    runs = []
    for number, event in enumerate(events):
        program = tmp_path / f"program_{number}.py"
        program.write_text(WAIT_IN_A_COLLECTIVE.format(event=event))
        port = free_port()
        runs.append([start_rank(program, rank, 2, port, tmp_path, module="fm9g.runtime") for rank in range(2)])
    for reason, ranks in zip(events.values(), runs, strict=True):
        zero, one = (finish(process) for process in ranks)
        assert (zero.returncode, one.returncode) == (1, 1)
        assert f"rank 1 (process {ranks[1].pid} on {socket.gethostname()}) {reason}" in zero.output


def test_ranks_that_end_at_different_times_raise_no_alarm(tmp_path: Path) -> None:
    """Rank 0 is done long before rank 1: the store that it serves must not take rank 1 with it."""
    program = INITIALIZE + "import time\ntime.sleep(5 * runtime.rank())\nprint('end of rank', runtime.rank())"
    port = free_port()
    results = [finish(process) for process in [start_rank(program, rank, 2, port, tmp_path) for rank in range(2)]]
    for rank, result in enumerate(results):
        assert result.returncode == 0, result.output
        assert f"end of rank {rank}" in result.output


def test_a_rank_that_ends_while_it_beats_ends_well(tmp_path: Path) -> None:
    """A thread in the store aborts an interpreter that is torn down, so none is left. Here one mostly would be."""
    beating = "import fm9g.runtime.process as process\nprocess.BEAT_SECONDS = 0.0\n" + INITIALIZE
    result = run_ranks(beating, ranks=2, tmp_path=tmp_path)
    assert result.returncode == 0, result.output


def test_ranks_end_within_ten_seconds_of_their_launcher(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        INITIALIZE + "import os, pathlib, time\n"
        "pathlib.Path(f'started.{runtime.rank()}').write_text(str(os.getpid()))\n"
        "time.sleep(300)\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)],
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pids: list[int] = []
    try:
        files = [tmp_path / f"started.{rank}" for rank in range(2)]
        wait_until(lambda: all(file.exists() and file.read_text() for file in files), 100)
        pids = [int(file.read_text()) for file in files]
        launcher.kill()
        launcher.wait()
        wait_until(lambda: not any(map(lives, pids)), 10)
    finally:
        launcher.kill()
        for pid in filter(lives, pids):
            os.kill(pid, signal.SIGKILL)


def wait_until(condition, seconds: float) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
