"""How the ranks of a run find each other, and how all of them end when one does.

Every rank announces itself in the rendezvous store (a mismatch is seen there and then), and a thread of
it beats in the store every few seconds. Rank 0 watches the beats and writes its verdict into the store,
where every rank reads it. So a rank that dies ends the others within a minute, with its name, whatever
collective they wait in. A rank also ends when the launcher that started it is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import os
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any, NoReturn

import torch.distributed as dist

from fm9g import launcher
from fm9g.environment import seconds, whole_number
from fm9g.errors import UserError, say
from fm9g.runtime import rendezvous
from fm9g.runtime.overdue import Overdue, stacks, stuck_children
from fm9g.runtime.rendezvous import (
    ERRORS,
    announce,
    connect,
    describe,
    machine,
    of_this_attempt,
    rule_out_restart,
    takes_store_along,
)

BEAT_SECONDS = 3.0
FAILED = "fm9g/failed"  # the verdict that ends the run
_LATE = "fm9g/late"  # the ranks that others waited for in vain


class _State:
    """What this process knows of the run it takes part in."""

    store: Any = None
    rank = 0
    size = 1
    cuda = False
    watch: Watch | None = None
    overdue: Overdue | None = None
    waits_for_threads = False
    collectives = 0  # that this rank has come to


def store() -> Any:
    """The store that the ranks share; RuntimeError before initialisation."""
    if _State.store is None:
        raise RuntimeError("the runtime is not initialised: call fm9g.runtime.initialize() first")
    return _State.store


def use_cuda(cuda: bool) -> None:
    """Say whether new groups carry CUDA tensors."""
    _State.cuda = cuda


def on_cuda() -> bool:
    """Whether new groups carry CUDA tensors."""
    return _State.cuda


def own_address() -> str:
    """The address of this machine that the others reach it at."""
    return rendezvous.own_address(*_address())


def _address() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], whole_number("MASTER_PORT", 0, most=65535)


def unique_name() -> bytes:
    """A name that no other group has."""
    return uuid.uuid4().bytes


class Rendezvous:
    """Stands for torch.distributed in bmtrain.init: `rendezvous` gives the checked and watched store."""

    def __init__(self, original: ModuleType) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def rendezvous(
        self, init_method: str, rank: int, world_size: int, timeout: datetime.timedelta
    ) -> Iterator[tuple[Any, int, int]]:
        """Yield (store, rank, world_size) once every rank is here and agrees on the world's size."""
        if not 0 <= rank < world_size:
            raise UserError(f"RANK={rank} is not below WORLD_SIZE={world_size}: check how this process was started")
        _State.rank, _State.size = rank, world_size
        if "TORCHELASTIC_RUN_ID" in os.environ:
            # launch.py says who the launcher is: it may be gone by now, and with it the store to connect to
            started_by = int(os.environ.get(launcher.PROCESS, os.getppid()))
            threading.Thread(target=_end_with_launcher, args=(started_by,), daemon=True).start()
        if world_size == 1:
            _State.store = dist.HashStore()
        else:
            address = _address()
            shared = connect(*address, rank, timeout, MISSING_AFTER_SECONDS)
            _State.store = of_this_attempt(shared)
            again = 3 if launcher.attempt() else 1  # another node's launcher may have to end a rank that is stuck first
            claims = announce(_State.store, rank, world_size, again * MISSING_AFTER_SECONDS)
            _State.watch = Watch(connect(*address, -1, timeout, MISSING_AFTER_SECONDS), rank, claims)
            _State.watch.start()
        yield _State.store, rank, world_size


class Watch(threading.Thread):
    """Beats in the store for this rank, and ends the process when another rank is found dead."""

    def __init__(self, shared: Any, rank: int, claims: dict[int, dict[str, Any]]) -> None:
        super().__init__(name="fm9g-watch", daemon=True)
        self._all_attempts = shared
        self._store, self._rank, self._claims = of_this_attempt(shared), rank, claims
        self._lock = threading.Lock()  # the store's connection takes one question at a time
        self._seen: dict[int, tuple[int, float]] = {}
        self._finished = threading.Event()

    def run(self) -> None:
        # a network that drops packets gives no error: a question to the store is not answered then
        contact = Overdue(DEAD_AFTER_SECONDS, lambda waited: _end(f"{waited}: is the network to rank 0's node cut?"))
        contact.start()
        while not self._finished.wait(BEAT_SECONDS):
            contact.note("no answer from the rendezvous store")
            try:
                verdict = self.look()
            except ERRORS as error:
                verdict = f"lost the rendezvous store, so rank 0 or its node has ended ({error})"
            if verdict and not self._finished.is_set():
                _end(verdict)
        contact.close()

    def look(self) -> str:
        """Beat, and return why the run must end, or an empty string."""
        with self._lock:
            self._store.add(f"fm9g/beat/{self._rank}", 1)
            self._store.set(f"fm9g/collectives/{self._rank}", str(_State.collectives))
            if self._store.check([FAILED]):
                if self._store.check([_LATE]) and self._rank in json.loads(self._store.get(_LATE)):
                    stacks()
                return str(self._store.get(FAILED).decode())
            watched = [rank for rank in self._claims if rank != self._rank] if self._rank == 0 else [0]
            dead = [rank for rank in watched if self._is_dead(rank)]
            if not dead:
                return ""
            verdict = ", ".join(describe(rank, self._claims[rank]) for rank in dead) + " died or stopped answering"
            self._store.set(FAILED, verdict)
            return verdict

    def _is_done(self, rank: int) -> bool:
        return bool(self._store.check([f"fm9g/done/{rank}"]))

    def _is_gone(self, rank: int) -> bool:
        """Whether that rank's process was on this machine and is no more."""
        claim = self._claims[rank]
        return claim["machine"] == machine() and not _process_lives(claim["pid"])

    def _is_dead(self, rank: int) -> bool:
        gone = self._is_gone(rank)  # asked first: a rank says that it is done, and then goes
        if self._is_done(rank):
            return False
        if gone:
            return True
        beats = self._store.add(f"fm9g/beat/{rank}", 0)
        before, since = self._seen.get(rank, (-1, 0.0))
        if beats != before:
            self._seen[rank] = (beats, time.monotonic())
            return False
        return time.monotonic() - since > DEAD_AFTER_SECONDS

    def culprit(self, patience: float) -> str:
        """Wait up to `patience` seconds for the reason that a collective failed, whichever rank finds it, or ""."""
        deadline = time.monotonic() + patience
        others = [rank for rank in self._claims if rank != self._rank]
        while time.monotonic() < deadline:
            with self._lock:
                ended = [rank for rank in others if self._is_done(rank) or self._is_gone(rank)]
                if self._store.check([FAILED]):  # asked last: a rank that fails says why before it ends
                    return str(self._store.get(FAILED).decode())
                killed = [rank for rank in ended if not self._is_done(rank)]
            for rank in killed or ended:
                return f"{describe(rank, self._claims[rank])} has ended"
            time.sleep(0.2)
        return ""

    def fail_for(self, doing: str) -> str:
        """Tell all ranks to end since this one has come no further for long; the reason, with those that are late.

        They have come to fewer collectives than others have.
        """
        time.sleep(BEAT_SECONDS + 1)  # all have said by then how far they are
        with self._lock:
            if not self._store.check([FAILED]):
                counts = {rank: int(self._store.get(f"fm9g/collectives/{rank}")) for rank in self._claims}
                late = [rank for rank, count in counts.items() if count < max(counts.values())]
                named = ", ".join(describe(rank, self._claims[rank]) for rank in late[:8] or [self._rank])
                stands = (
                    "did not come to where the others wait" if late else "came no further, and no rank is behind it"
                )
                self._store.set(_LATE, json.dumps(late))
                self._store.set(FAILED, f"{named} {stands} (stacks are in the log): {doing}")
            return str(self._store.get(FAILED).decode())

    def fail(self, reason: str, restart_helps: bool) -> None:
        """Tell the other ranks that this one fails, unless it fails because another did."""
        with self._lock:
            if self._store.check([FAILED]):
                return
            if not restart_helps:
                rule_out_restart(self._all_attempts, reason)
            self._store.set(FAILED, f"{describe(self._rank, self._claims[self._rank])} failed: {reason}")

    def finish(self) -> None:
        """Tell the other ranks that this one has come to its end, so that its silence is no alarm.

        The rank that serves the store stays, and watches on, until the others need it no more.
        """
        try:
            with self._lock:
                self._store.set(f"fm9g/done/{self._rank}", "")
            while takes_store_along(self._rank) and not self._others_have_ended():
                time.sleep(0.2)
        except ERRORS as error:
            say(f"rank {self._rank}: the rendezvous store ended first ({error})")
        self._finished.set()
        # a thread that is inside the store when the interpreter is torn down aborts the process
        self.join(DEAD_AFTER_SECONDS)

    def _others_have_ended(self) -> bool:
        with self._lock:
            failed = self._store.check([FAILED])
            ended = all(self._is_done(rank) or self._is_gone(rank) for rank in self._claims)
        if failed and not ended:
            time.sleep(BEAT_SECONDS + 1)  # they read it at their next beat
        return failed or ended


def expect_progress(seconds: float) -> None:
    """From now on end the run when this rank has begun nothing new (`begin`) for so long."""
    _State.overdue = Overdue(seconds, _end_overdue)
    _State.overdue.note("starting")
    _State.overdue.start()


def begin(doing: str) -> None:
    """Say what this rank does now."""
    counts = _State.waits_for_threads or threading.current_thread() is threading.main_thread()
    if _State.overdue is not None and counts:
        _State.overdue.note(doing)


def wait_for_threads(waits: bool) -> None:
    """Say whether the main thread waits for others, so that what they say counts."""
    _State.waits_for_threads = waits


def expect_nothing() -> None:
    """Let this rank take its time again."""
    if _State.overdue is not None:
        _State.overdue.close()
        _State.overdue = None


def come_to_collective() -> None:
    """Count one, so that it is known who is late."""
    _State.collectives += 1


def _end_overdue(doing: str) -> NoReturn:
    stacks()
    doing = f"{doing} (step_timeout){stuck_children()}"
    try:
        verdict = _State.watch.fail_for(doing) if _State.watch else f"came no further: {doing}"
    except ERRORS as error:
        verdict = f"came no further: {doing}; and the rendezvous store is gone ({error})"
    _end(verdict)


def _end(verdict: str) -> NoReturn:
    """End this process, which can do nothing about it, with a line that says what ended the run."""
    say(f"rank {_State.rank} ends: {verdict}")
    launcher.blame(verdict, launcher.VERDICT)
    if takes_store_along(_State.rank):
        time.sleep(BEAT_SECONDS + 1)  # the others read the verdict in the store that ends with this process
    os._exit(1)


def _process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"  # a zombie still has its number
    except FileNotFoundError:
        return False


def _end_with_launcher(started_by: int) -> None:
    while os.getppid() == started_by:
        time.sleep(1)
    _end(f"its launcher (process {started_by}) is gone")


def lost_worker(error: BaseException) -> str:
    """What to say where torch tells that a worker has ended, in whatever this process was doing; "" of other errors."""
    found = re.search(r"DataLoader worker \(pid\S* [\d, ]+\)[^.]*", str(error))
    if found is None:
        return ""
    return (
        f"{found[0]}: is the host short of memory? Resume the last checkpoint, with fewer dataloader_num_workers if so"
    )


def blame(collective: str, error: BaseException) -> RuntimeError:
    """The error to raise when a collective fails; where another rank is to blame, this process ends instead."""
    if lost_worker(error):  # no rank is to blame
        return RuntimeError(str(error))
    reason = _State.watch.culprit(DEAD_AFTER_SECONDS + BEAT_SECONDS) if _State.watch else ""
    if reason:
        _end(f"{collective} failed: {reason}")
    return RuntimeError(f"rank {_State.rank}: {collective} failed, and no rank is known to have died: {error}")


def fail(reason: str, restart_helps: bool = True) -> None:
    """Tell the launcher and the other ranks, if there are any, that this one cannot go on, and, where it is said, that
    this would be so again."""
    launcher.blame(f"rank {_State.rank}: {reason}", launcher.FAULT)
    if not restart_helps:
        with contextlib.suppress(OSError):  # it fails again then
            launcher.leave(launcher.FINAL, reason)
    if _State.watch is not None:
        try:
            _State.watch.fail(reason, restart_helps)
        except ERRORS as error:
            say(f"rank {_State.rank}: could not tell the other ranks ({error})")


@atexit.register  # before fm9g.runtime.collectives registers its own: groups close first, so that no rank waits in one
def _finish() -> None:
    if _State.watch is not None:
        _State.watch.finish()


def _report_exception(
    kind: type[BaseException], value: BaseException, trace: TracebackType | None, previous: Any = sys.excepthook
) -> None:
    fail(f"{kind.__name__}: {value}", restart_helps=not issubclass(kind, UserError))
    if issubclass(kind, UserError):  # written for a person, who has no use for where it was raised
        say(f"error: {value}")
    else:
        previous(kind, value, trace)


sys.excepthook = _report_exception

# read now that a wrong one is shown as a line
DEAD_AFTER_SECONDS = seconds("FM9G_HEARTBEAT_SECONDS", 40)
MISSING_AFTER_SECONDS = seconds("FM9G_RENDEZVOUS_SECONDS", 50)
