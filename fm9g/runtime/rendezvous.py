"""How the ranks of a run meet in the store that they share, and what they say of themselves there."""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from fm9g import launcher
from fm9g.errors import UserError, say

_FINAL = "fm9g/final"  # why no restart would help
ERRORS = (RuntimeError, OSError)  # of a store that cannot be reached; torch's DistStoreError is a RuntimeError


def machine() -> str:
    """What processes that see each other's numbers have in common: containers may share a host's name."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text().strip() if boot.exists() else socket.gethostname()
    return f"{started}/{os.readlink('/proc/self/ns/pid')}"


def describe(rank: int, claim: dict[str, Any]) -> str:
    """A rank and its process, for a message."""
    return f"rank {rank} (process {claim['pid']} on {claim['host']})"


def own_address(host: str, port: int) -> str:
    """The address of this machine on the way to that one; its name may stand for the machine itself alone."""
    family, kind, _, _, address = socket.getaddrinfo(host, port or 1, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])


def connect(host: str, port: int, rank: int, timeout: datetime.timedelta, patience: float) -> Any:
    """The store at that address, which rank 0 serves unless the launcher does; a UserError after `patience` seconds."""
    serve = serves(rank)
    try:
        wait = datetime.timedelta(seconds=patience)
        found = dist.TCPStore(host, port, is_master=serve, timeout=wait, wait_for_workers=False, multi_tenant=True)
        found.set_timeout(timeout)
        if found.check([_FINAL]):
            raise UserError(f"not started anew: {found.get(_FINAL).decode()}")
        return found
    except ERRORS as error:
        what = "serve the rendezvous at" if serve else "reach the rendezvous at"
        hint = "the port is in use: set another MASTER_PORT" if "EADDRINUSE" in str(error) else str(error)
        raise UserError(f"rank {max(rank, 0)} cannot {what} {host}:{port}: {hint}") from error


def of_this_attempt(shared: Any) -> Any:
    """The store without what ranks have put there before torchrun started them anew."""
    return dist.PrefixStore(f"fm9g-{launcher.attempt()}", shared)


def rule_out_restart(shared: Any, reason: str) -> None:
    """Have ranks that are started anew end with that reason; `shared` is the store of all attempts."""
    shared.set(_FINAL, reason)


def announce(shared: Any, rank: int, size: int, patience: float) -> dict[int, dict[str, Any]]:
    """Put this rank's claim into the store and wait for those of all the others: {rank: claim}.

    A claim of another world size, a rank claimed twice, or none new for `patience` seconds is a UserError
    that names the rank.
    """
    mine = {"rank": rank, "size": size, "host": socket.gethostname(), "machine": machine(), "pid": os.getpid()}
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
        if missing and time.monotonic() - last_arrival > patience:
            _give_up(
                f"rank {rank} of {size}: no sign of rank(s) {_listed(missing)} for {patience:.0f} s. "
                "Check that every node runs, with the same NNODES and GPUS_PER_NODE and a RANK of its own "
                "(FM9G_RENDEZVOUS_SECONDS waits longer)"
            )
        if missing and time.monotonic() - last_report > 10:
            say(f"rank {rank}: waiting for rank(s) {_listed(missing)} of {size}")
            last_report = time.monotonic()
        time.sleep(0.02 if missing else 0)
    return claims


def _check_claim(claim: dict[str, Any], claims: dict[int, dict[str, Any]], rank: int, size: int) -> None:
    other = claim["rank"]
    problem = ""
    if claim["size"] != size:
        problem = (
            f"{describe(other, claim)} was started for {claim['size']} ranks, rank {rank} for {size}: "
            "NNODES and GPUS_PER_NODE must be the same on every node"
        )
    elif other in claims and claims[other] != claim:
        problem = (
            f"{describe(other, claim)} and {describe(other, claims[other])} both claim rank {other}: "
            "every node needs a RANK of its own"
        )
    if problem:
        _give_up(problem)


def _give_up(problem: str) -> NoReturn:
    time.sleep(2)  # rank 0 serves the store: the others must read the same claims before it goes
    raise UserError(problem)


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


def serves(rank: int) -> bool:
    """Whether that rank holds the store, rather than the launcher."""
    return rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def takes_store_along(rank: int) -> bool:
    """Whether the store may end soon after that rank, which holds it or whose launcher does, for other nodes too."""
    several = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    return serves(rank) or (several and os.environ.get("GROUP_RANK") == "0")
