"""torchrun in this process: what signals do to it, when it starts ranks anew, and what it says of its end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from fm9g import launcher
from fm9g.errors import UserError
from fm9g.signals import STOPPING

if TYPE_CHECKING:  # torch is imported late here, after the settings have been checked
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def launch(arguments: list[str]) -> None:
    """Run torchrun; its report of a failure, a page long, becomes a line. Exits with STOPPED where the run was asked to
    stop and did."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import api
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    handler = _Handler()
    signal.signal(signal.SIGUSR1, handler)  # of which torchrun knows nothing
    # what torchrun gives the others to: its own kills ranks after 30 s
    api._terminate_process_handler = handler.__call__
    with launcher.launching():
        try:
            torchrun(arguments)
        except ChildFailedError as failed:
            _report(failed)
        except api.SignalException:
            print("the run was ended at once: what it did since its last checkpoint is lost", file=sys.stderr)
            sys.exit(128 + handler.last)
        except DistError as error:
            why = str(error).partition("Exception raised from")[0].strip()
            raise UserError(launcher.blamed(launcher.FAULT) or f"the launcher of node 0 is lost: {why}") from None
        if launcher.left(launcher.HAS_STOPPED) is not None:
            sys.exit(launcher.STOPPED)


class _Handler:
    """Of a first signal the ranks are told, which stop when they have saved; a second ends them at once."""

    def __init__(self) -> None:
        self.last = 0
        self._ignored = {number for number in (*STOPPING, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN}

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if signum in self._ignored:  # as of a shell's background, or nohup
            return
        from torch.distributed.elastic.multiprocessing.api import SignalException

        first, self.last = not self.last, signum
        if not first:
            raise SignalException("a second signal", signal.SIGKILL)
        name = signal.Signals(signum).name
        try:
            launcher.leave(launcher.STOP, f"{name} of the launcher (a second signal ends it at once)")
        except OSError:  # the ranks cannot be told: torchrun's own way is left
            raise SignalException("no way to tell the ranks", signal.Signals(signum)) from None
        with contextlib.suppress(OSError):  # nobody may read it any more; print might be inside of another print
            said = f"{name}: the run stops when its step is done and saved; a second signal ends it at once\n"
            os.write(sys.stdout.fileno(), said.encode())


def _report(failed: ChildFailedError) -> NoReturn:
    first = failed.get_first_failure()
    if first[1].exitcode == launcher.STOPPED:
        sys.exit(launcher.STOPPED)
    killed = [found for found in failed.failures.items() if found[1].exitcode not in (-signal.SIGTERM, *range(256))]
    rank, failure = killed[0] if killed else first
    status = f"signal {failure.signal_name()}" if failure.exitcode < 0 else f"exit status {failure.exitcode}"
    ended, verdict = f"rank {rank} ended first, with {status}", launcher.blamed(launcher.VERDICT)
    if verdict:  # others know whom they waited for in vain; torchrun kills one that does not end, too
        ended = f"{verdict} (rank {rank} ended with {status})" if killed else verdict
    fault = launcher.blamed(launcher.FAULT) or ended  # who says itself what is wrong knows best
    print(f"the run failed: {fault}; what it said stands above", file=sys.stderr)
    sys.exit(1)
