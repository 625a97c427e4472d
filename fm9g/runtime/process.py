"""How the ranks of a run find each other, and how all of them end when one does.

Every rank announces itself in the rendezvous store (a mismatch is seen there and then), and a thread of
it beats in the store every few seconds. Rank 0 watches the beats and writes its verdict into the store,
where every rank reads it. So a rank that dies ends the others within a minute, with its name, whatever
collective they wait in. A rank also ends when the launcher that started it is gone.
"""

from __future__ import annotations

import atexit
import datetime
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any, NoReturn

import torch.distributed as dist

from fm9g.environment import seconds, whole_number
from fm9g.errors import UserError

BEAT_SECONDS = 3.0
FAILED = "fm9g/failed"  # the verdict that ends the run
_RENDEZVOUS_ERRORS = (RuntimeError, OSError)  # torch's DistStoreError is a RuntimeError


class _State:
    """What this process knows of the run it takes part in."""

    store: Any = None
    rank = 0
    size = 1
    cuda = False
    watch: Watch | None = None


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


def unique_name() -> bytes:
    """A name that no other group has."""
    return uuid.uuid4().bytes


def _describe(rank: int, claim: dict[str, Any]) -> str:
    return f"rank {rank} (process {claim['pid']} on {claim['host']})"


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
            launcher = int(os.environ.get("FM9G_LAUNCHER", os.getppid()))
            threading.Thread(target=_end_with_launcher, args=(launcher,), daemon=True).start()
        if world_size == 1:
            _State.store = dist.HashStore()
        else:
            address = os.environ["MASTER_ADDR"], whole_number("MASTER_PORT", 0, most=65535)
            _State.store = _connect(*address, rank, timeout)
            claims = announce(_State.store, rank, world_size)
            _State.watch = Watch(_connect(*address, -1, timeout), rank, claims)
            _State.watch.start()
        yield _State.store, rank, world_size


def _connect(host: str, port: int, rank: int, timeout: datetime.timedelta) -> Any:
    serve = _serves(rank)
    patience = datetime.timedelta(seconds=MISSING_AFTER_SECONDS)
    try:
        found = dist.TCPStore(host, port, is_master=serve, timeout=patience, wait_for_workers=False, multi_tenant=True)
        found.set_timeout(timeout)
        return found
    except _RENDEZVOUS_ERRORS as error:
        what = "serve the rendezvous at" if serve else "reach the rendezvous at"
        hint = "the port is in use: set another MASTER_PORT" if "EADDRINUSE" in str(error) else str(error)
        raise UserError(f"rank {max(rank, 0)} cannot {what} {host}:{port}: {hint}") from error


def announce(shared: Any, rank: int, size: int) -> dict[int, dict[str, Any]]:
    """Put this rank's claim into the store and wait for those of all the others: {rank: claim}.

    A claim of another world size, a rank claimed twice, or none new for MISSING_AFTER_SECONDS is a UserError
    that names the rank.
    """
    mine = {"rank": rank, "size": size, "host": socket.gethostname(), "pid": os.getpid()}
    ticket = shared.add("fm9g/tickets", 1)
    shared.set(f"fm9g/claim/{ticket}", json.dumps(mine))
    claims: dict[int, dict[str, Any]] = {}
    read, last_arrival, last_report = 0, time.monotonic(), time.monotonic()
    while len(claims) < size:
        tickets = shared.add("fm9g/tickets", 0)
        for number in range(read + 1, tickets + 1):
            claim = json.loads(shared.get(f"fm9g/claim/{number}"))
            _check_claim(claim, claims, rank, size)
            claims[claim["rank"]] = claim
            last_arrival = time.monotonic()
        read = tickets
        missing = sorted(set(range(size)) - set(claims))
        if missing and time.monotonic() - last_arrival > MISSING_AFTER_SECONDS:
            _give_up(
                f"rank {rank} of {size}: no sign of rank(s) {_listed(missing)} for {MISSING_AFTER_SECONDS:.0f} s. "
                "Check that every node runs, with the same NNODES and GPUS_PER_NODE and a RANK of its own "
                "(FM9G_RENDEZVOUS_SECONDS waits longer)"
            )
        if missing and time.monotonic() - last_report > 10:
            print(f"rank {rank}: waiting for rank(s) {_listed(missing)} of {size}", file=sys.stderr, flush=True)
            last_report = time.monotonic()
        time.sleep(0.02 if missing else 0)
    return claims


def _check_claim(claim: dict[str, Any], claims: dict[int, dict[str, Any]], rank: int, size: int) -> None:
    other = claim["rank"]
    problem = ""
    if claim["size"] != size:
        problem = (
            f"{_describe(other, claim)} was started for {claim['size']} ranks, rank {rank} for {size}: "
            "NNODES and GPUS_PER_NODE must be the same on every node"
        )
    elif other in claims and claims[other] != claim:
        problem = (
            f"{_describe(other, claim)} and {_describe(other, claims[other])} both claim rank {other}: "
            "every node needs a RANK of its own"
        )
    if problem:
        _give_up(problem)


def _give_up(problem: str) -> NoReturn:
    time.sleep(2)  # rank 0 serves the store: the others must read the same claims before it goes
    raise UserError(problem)


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


class Watch(threading.Thread):
    """Beats in the store for this rank, and ends the process when another rank is found dead."""

    def __init__(self, shared: Any, rank: int, claims: dict[int, dict[str, Any]]) -> None:
        super().__init__(name="fm9g-watch", daemon=True)
        self._store, self._rank, self._claims = shared, rank, claims
        self._lock = threading.Lock()  # the store's connection takes one question at a time
        self._seen: dict[int, tuple[int, float]] = {}
        self._finished = threading.Event()

    def run(self) -> None:
        while not self._finished.wait(BEAT_SECONDS):
            try:
                verdict = self.look()
            except _RENDEZVOUS_ERRORS as error:
                verdict = f"lost the rendezvous store, so rank 0 or its node has ended ({error})"
            if verdict and not self._finished.is_set():
                _end(verdict)

    def look(self) -> str:
        """Beat, and return why the run must end, or an empty string."""
        with self._lock:
            self._store.add(f"fm9g/beat/{self._rank}", 1)
            if self._store.check([FAILED]):
                return str(self._store.get(FAILED).decode())
            watched = [rank for rank in self._claims if rank != self._rank] if self._rank == 0 else [0]
            dead = [rank for rank in watched if self._is_dead(rank)]
            if not dead:
                return ""
            verdict = ", ".join(_describe(rank, self._claims[rank]) for rank in dead) + " died or stopped answering"
            self._store.set(FAILED, verdict)
            return verdict

    def _is_done(self, rank: int) -> bool:
        return bool(self._store.check([f"fm9g/done/{rank}"]))

    def _is_gone(self, rank: int) -> bool:
        """Whether that rank's process was on this machine and is no more."""
        claim = self._claims[rank]
        return claim["host"] == socket.gethostname() and not _process_lives(claim["pid"])

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
                return f"{_describe(rank, self._claims[rank])} has ended"
            time.sleep(0.2)
        return ""

    def fail(self, reason: str) -> None:
        """Tell the other ranks that this one fails, unless it fails because another did."""
        with self._lock:
            if self._store.check([FAILED]):
                return
            self._store.set(FAILED, f"{_describe(self._rank, self._claims[self._rank])} failed: {reason}")

    def finish(self) -> None:
        """Tell the other ranks that this one has come to its end, so that its silence is no alarm.

        The rank that serves the store stays, and watches on, until the others need it no more.
        """
        try:
            with self._lock:
                self._store.set(f"fm9g/done/{self._rank}", "")
            while _serves(self._rank) and not self._others_have_ended():
                time.sleep(0.2)
        except _RENDEZVOUS_ERRORS as error:
            print(f"rank {self._rank}: the rendezvous store ended first ({error})", file=sys.stderr)
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


def _end(verdict: str) -> NoReturn:
    """End this process, which can do nothing about it, with a line that says what ended the run."""
    print(f"rank {_State.rank} ends: {verdict}", file=sys.stderr, flush=True)
    if _serves(_State.rank):
        time.sleep(BEAT_SECONDS + 1)  # the others read the verdict in the store that ends with this process
    os._exit(1)


def _serves(rank: int) -> bool:
    """Whether that rank holds the store, rather than the launcher."""
    return rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


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


def _end_with_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    _end(f"its launcher (process {launcher}) is gone")


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


def fail(reason: str) -> None:
    """Tell the other ranks, if there are any, that this one cannot go on."""
    if _State.watch is not None:
        _State.watch.fail(reason)


@atexit.register  # before fm9g.runtime.collectives registers its own: groups close first, so that no rank waits in one
def _finish() -> None:
    if _State.watch is not None:
        _State.watch.finish()


def _report_exception(
    kind: type[BaseException], value: BaseException, trace: TracebackType | None, previous: Any = sys.excepthook
) -> None:
    try:
        fail(f"{kind.__name__}: {value}")
    except _RENDEZVOUS_ERRORS as error:
        print(f"rank {_State.rank}: could not tell the other ranks ({error})", file=sys.stderr)
    if issubclass(kind, UserError):  # written for a person, who has no use for where it was raised
        print(f"error: {value}", file=sys.stderr, flush=True)
    else:
        previous(kind, value, trace)


sys.excepthook = _report_exception

# read now that a wrong one is shown as a line
DEAD_AFTER_SECONDS = seconds("FM9G_HEARTBEAT_SECONDS", 40)
MISSING_AFTER_SECONDS = seconds("FM9G_RENDEZVOUS_SECONDS", 50)
