"""How the launchers of several nodes meet, before anything of torch does: who does not come, and what differs, is said.

The launcher of node 0 listens at MASTER_ENDPOINT and MASTER_PORT; each of the others connects there and sends its
claim, a line of JSON. When all have come, or the time is over, each gets a line back: what is wrong, or nothing. Node 0
knocks there too, as do all that take themselves for it: so the one at that address learns of the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from fm9g.errors import UserError, say

_TOLD_EVERY = 10.0  # seconds between the lines of who waits
_STAYS = 3.0  # seconds
_LONGEST = 4096  # bytes of a claim
_ALIKE = {"nodes": "NNODES", "ranks": "n_gpus (GPUS_PER_NODE)", "version": "the version of fm9g"}


@dataclass(frozen=True)
class Claim:
    """What a launcher says of itself."""

    node: int
    nodes: int
    ranks: int  # that it starts
    version: str
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"node {self.node} (launcher {self.process} on {self.host})"


def meet(mine: Claim, address: str, port: int, patience: float) -> None:
    """Return when the launchers of all nodes are here and agree; a UserError on each of them after `patience` seconds,
    or as soon as something is wrong."""
    deadline = time.monotonic() + patience
    wrong = _serve(mine, address, port, deadline, patience) if mine.node == 0 else _ask(mine, address, port, deadline)
    if wrong:
        raise UserError(wrong)


class _Teller:
    """Says something when `_TOLD_EVERY` seconds have passed since it last did."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, what: str) -> None:
        if time.monotonic() - self._told > _TOLD_EVERY:
            self._told = time.monotonic()
            say(what)


class _Meeting:
    """The claims that have come, on node 0."""

    def __init__(self, mine: Claim) -> None:
        self._mine, self._came = mine, {0: mine}

    def add(self, claim: Claim) -> str:
        """Take in a claim; what is wrong with it."""
        mine, other = self._mine, self._came.get(claim.node)
        if claim.token == mine.token:
            return ""
        for name, words in _ALIKE.items():
            if getattr(claim, name) != getattr(mine, name):
                return f"{claim} has {words} {getattr(claim, name)}, {mine} {getattr(mine, name)}: they must be alike"
        if other is not None and other != claim:
            return f"{claim} and {other} both have RANK={claim.node}: every node needs a RANK of its own"
        if not 0 <= claim.node < mine.nodes:
            return f"{claim} has no RANK below NNODES={mine.nodes}"
        self._came[claim.node] = claim
        return ""

    def forget(self, claim: Claim) -> None:
        """The launcher has ended; it may be started again."""
        if self._came.get(claim.node) == claim and claim != self._mine:
            del self._came[claim.node]

    @property
    def missing(self) -> str:
        """The numbers of the nodes that have not come."""
        return ", ".join(map(str, sorted(set(range(self._mine.nodes)) - set(self._came))))


def _serve(mine: Claim, address: str, port: int, deadline: float, patience: float) -> str:
    """Node 0's part: what is wrong, "" if nothing; the others are told."""
    meeting, tell, wrong = _Meeting(mine), _Teller(), ""
    with _listening(port) as server, selectors.DefaultSelector() as ready:
        server.setblocking(False)
        ready.register(server, selectors.EVENT_READ)
        visitors = _Visitors(ready)
        own = _knock(mine, address, port)
        if own is not None:
            ready.register(own, selectors.EVENT_READ)
        end = 0.0  # some seconds after something is wrong: who comes a little later is told, too
        while meeting.missing and not (end and time.monotonic() > end):
            if wrong:
                end = end or time.monotonic() + _STAYS
            elif time.monotonic() > deadline:
                wrong = (
                    f"node(s) {meeting.missing} of {mine.nodes} did not come to {address}:{port} in {patience:g} s: "
                    "start them with this MASTER_ENDPOINT and MASTER_PORT (FM9G_RENDEZVOUS_SECONDS waits longer)"
                )
            tell(f"waiting at {address}:{port} for node(s) {meeting.missing}")
            for key, _ in ready.select(timeout=0.5):
                found = ""
                if key.fileobj is server:
                    visitors.accept(server)
                elif key.fileobj is own:  # another has answered before all have come
                    ready.unregister(own)
                    found = _answer_of_another(own, address, port)
                else:
                    found = visitors.hear(key.fileobj, meeting)  # type: ignore[arg-type]
                wrong = wrong or found
        visitors.answer(wrong)
        if own is not None:
            own.close()
    return wrong


def _listening(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
    raise UserError(f"MASTER_PORT={port} cannot be used: {why}; set another one on all nodes")


def _knock(mine: Claim, address: str, port: int) -> socket.socket | None:
    """Knock at the address as the others do: if another machine answers there, that one learns of it."""
    try:
        connection = socket.create_connection((address, port), timeout=5)
        connection.sendall(json.dumps(asdict(mine)).encode() + b"\n")
    except OSError as error:
        say(f"warning: node 0 does not reach itself at {address}:{port} ({error}): is that its address?")
        return None
    return connection


class _Visitors:
    """The connections of who has come to node 0."""

    def __init__(self, ready: selectors.BaseSelector) -> None:
        self._selector = ready
        self._said: dict[socket.socket, bytes] = {}
        self._claims: dict[socket.socket, Claim] = {}

    def accept(self, server: socket.socket) -> None:
        """Let another in."""
        connection, _ = server.accept()
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        self._said[connection] = b""

    def hear(self, connection: socket.socket, meeting: _Meeting) -> str:
        """Take in what one says, or that it has left; what is wrong with its claim. Who makes none is left alone."""
        try:
            part = connection.recv(_LONGEST)
            self._said[connection] += part
            if part and (b"\n" not in self._said[connection] and len(self._said[connection]) < _LONGEST):
                return ""
            if not part or connection in self._claims:
                raise EOFError
            claim = self._claims[connection] = _read(json.loads(self._said[connection]))
            return meeting.add(claim)
        except (OSError, EOFError, ValueError, TypeError, KeyError):  # a scanner of ports, or a launcher that has ended
            self._selector.unregister(connection)
            del self._said[connection]
            connection.close()
            if left := self._claims.pop(connection, None):
                meeting.forget(left)
            return ""

    def answer(self, wrong: str) -> None:
        """Tell all that are there."""
        for connection in self._said:
            with contextlib.suppress(OSError):  # it has given up
                connection.setblocking(True)
                connection.sendall(json.dumps({"wrong": wrong}).encode() + b"\n")
            connection.close()


def _read(said: dict[str, Any]) -> Claim:
    """A claim; of other versions, which may say more, what all of them say."""
    node, nodes, ranks, process = (int(said[name]) for name in ("node", "nodes", "ranks", "process"))
    version, host, token = (str(said[name]) for name in ("version", "host", "token"))
    return Claim(node, nodes, ranks, version, host, process, token)


def _answer_of_another(connection: socket.socket, address: str, port: int) -> str:
    try:
        return _answer(connection, address, port)
    except (OSError, EOFError) as error:
        return f"what answers at {address}:{port} is not this launcher ({error}): check MASTER_ENDPOINT and MASTER_PORT"


def _ask(mine: Claim, address: str, port: int, deadline: float) -> str:
    """Another node's part: what node 0 finds wrong, "" if nothing."""
    tell, why = _Teller(), ""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((address, port), timeout=2) as connection:
                connection.sendall(json.dumps(asdict(mine)).encode() + b"\n")
                # it answers when all have come or its own time is over
                connection.settimeout(max(1.0, deadline - time.monotonic()) + 30)
                return _answer(connection, address, port)
        except (OSError, EOFError) as error:
            why = str(error)
        tell(f"waiting for node 0 at {address}:{port} ({why})")
        time.sleep(0.5)
    return (
        f"node 0 does not answer at {address}:{port} ({why}): start it, or check MASTER_ENDPOINT and MASTER_PORT (a "
        "higher FM9G_RENDEZVOUS_SECONDS waits longer)"
    )


def _answer(connection: socket.socket, address: str, port: int) -> str:
    with connection.makefile("rb") as file:
        line = file.readline()
    if not line:
        raise EOFError("node 0 closed the connection")  # it was killed, or is started again
    try:
        return str(json.loads(line)["wrong"])
    except (ValueError, TypeError, KeyError):
        return f"what answers at {address}:{port} is no launcher of fm9g: check MASTER_ENDPOINT and MASTER_PORT"
