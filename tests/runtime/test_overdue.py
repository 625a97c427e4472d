"""A rank that comes no further ends the run, is named, and says where it stands."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

from fm9g.runtime.overdue import Overdue, stuck_children
from tests.support.processes import wait_until
from tests.support.ranks import finish, free_port, run_ranks, start_rank

LATE = """
import time
import fm9g.runtime as runtime

def asleep():
    time.sleep(300)

runtime.initialize()
runtime.barrier()
runtime.expect_progress(2)
runtime.begin("step 7")
if runtime.rank() == 1:
    asleep()
runtime.barrier()
"""


def test_the_rank_that_others_wait_for_is_named_and_shows_its_stack(tmp_path: Path) -> None:
    port = free_port()
    ranks = [start_rank(LATE, rank, 3, port, tmp_path) for rank in range(3)]
    results = [finish(process) for process in ranks]
    named = f"rank 1 (process {ranks[1].pid} on {socket.gethostname()}) did not come to where the others wait"
    for result in results:
        assert result.returncode == 1
        assert f"{named} (stacks are in the log): step 7, for more than 2 s (step_timeout)" in result.output
    assert "in asleep" in results[1].output


def test_a_rank_alone_shows_where_it_stands(tmp_path: Path) -> None:
    result = run_ranks(LATE.replace("== 1", "== 0"), 1, tmp_path)
    assert result.returncode == 1
    assert "in asleep" in result.output
    assert "rank 0 ends: came no further: step 7, for more than 2 s (step_timeout)" in result.output


def test_who_goes_on_is_left_alone() -> None:
    ended: list[str] = []
    overdue = Overdue(0.4, ended.append)
    overdue.start()
    time.sleep(0.6)  # before anything begins there is no time
    for step in range(6):
        overdue.note(f"step {step}")
        time.sleep(0.1)
    assert not ended
    overdue.close()
    overdue.join()
    time.sleep(0.5)
    assert not ended


def test_a_process_that_was_stopped_is_named() -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        try:
            child.send_signal(signal.SIGSTOP)
            wait_until(stuck_children, "the child's stop")
            assert f"; process {child.pid}, which it started, is stopped" in stuck_children()
        finally:
            child.kill()
