"""How the launchers of several nodes meet: each learns who is missing, or what differs."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fm9g.commands.nodes import Claim, meet
from fm9g.errors import UserError
from tests.support.ranks import free_port


def outcome(claim, port, patience):
    try:
        meet(claim, "127.0.0.1", port, patience)
    except UserError as error:
        return str(error)
    return ""


def meeting(*claims, patience=20.0, port=None):
    """What each of these launchers is told."""
    port = port or free_port()
    with ThreadPoolExecutor(len(claims)) as pool:
        return list(pool.map(lambda claim: outcome(claim, port, patience), claims))


def claims(count, **changes):
    """Those of all nodes, and what the last has otherwise."""
    alike = [Claim(node, count, 8, "1.0", f"host-{node}", 100 + node) for node in range(count)]
    return [*alike[:-1], dataclasses.replace(alike[-1], **changes)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_go_on_when_all_have_come(order):
    found = claims(3)
    assert meeting(*(found[i] for i in order)) == ["", "", ""]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nodes": 4}, "node 2 (launcher 102 on host-2) has NNODES 4, node 0 (launcher 100 on host-0) 3"),
        ({"ranks": 4}, "node 2 (launcher 102 on host-2) has n_gpus (GPUS_PER_NODE) 4, node 0"),
        ({"version": "1.1"}, "node 2 (launcher 102 on host-2) has the version of fm9g 1.1, node 0"),
        ({"node": 1}, "both have RANK=1: every node needs a RANK of its own"),
    ],
)
def test_what_differs_is_told_to_all(changes, says):
    assert all(says in told for told in meeting(*claims(3, **changes)))


def test_who_does_not_come_is_named_to_all_others():
    told = meeting(*claims(4)[:2], patience=1.5)
    assert all("node(s) 2, 3 of 4 did not come to 127.0.0.1:" in said for said in told)


def test_a_node_0_that_does_not_come_is_named():
    (told,) = meeting(claims(2)[1], patience=0.6)
    assert told.startswith("node 0 does not answer at 127.0.0.1:")


def test_two_that_take_themselves_for_node_0(monkeypatch):
    """On two machines both can listen; only one does at the address."""
    port = free_port()
    first, second = Claim(0, 2, 8, "1.0", "host-a", 1), Claim(0, 2, 8, "1.0", "host-b", 2)
    from fm9g.commands import nodes

    listening = nodes._listening

    def on_its_machine(asked):
        return listening(asked if len(started) == 1 else free_port())

    started = []

    def start(claim):
        started.append(claim)
        return outcome(claim, port, 20.0)

    monkeypatch.setattr(nodes, "_listening", on_its_machine)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(start, first)
        time.sleep(0.5)
        two = pool.submit(start, second)
        for told in (one.result(), two.result()):
            assert "both have RANK=0: every node needs a RANK of its own" in told
            assert "host-a" in told
            assert "host-b" in told


def test_who_knocks_and_says_nothing_or_nonsense_is_left_alone():
    port, (first, second) = free_port(), claims(2)
    with ThreadPoolExecutor(2) as pool:
        node_0 = pool.submit(outcome, first, port, 20.0)
        strangers = []
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n", b"x" * 10_000, b"[1]\n", b'{"node": 1}\n'):
            stranger = knock(port)
            stranger.sendall(said)
            strangers.append(stranger)
        assert outcome(second, port, 20.0) == ""
        assert node_0.result() == ""
        for stranger in strangers:
            stranger.close()


def test_another_program_at_the_address_is_said():
    with socket.socket() as server, ThreadPoolExecutor(1) as pool:
        server.bind(("127.0.0.1", 0))
        server.listen()
        told = pool.submit(outcome, claims(2)[1], server.getsockname()[1], 10.0)
        connection, _ = server.accept()
        assert json.loads(connection.recv(4096))["node"] == 1
        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        connection.close()
        assert "is no launcher of fm9g: check MASTER_ENDPOINT and MASTER_PORT" in told.result()


def test_a_launcher_that_is_started_again_takes_its_place():
    port, (first, second, third) = free_port(), claims(3)
    with ThreadPoolExecutor(3) as pool:
        node_0 = pool.submit(outcome, first, port, 20.0)
        with ask(port, second):
            time.sleep(0.3)  # it is there, and then it is not
        again = dataclasses.replace(second, process=200, token="another")
        told = [pool.submit(outcome, claim, port, 20.0) for claim in (again, third)]
        assert [node_0.result(), *(one.result() for one in told)] == ["", "", ""]


def ask(port, claim):
    """A connection that has made a claim."""
    connection = knock(port)
    connection.sendall(json.dumps(dataclasses.asdict(claim)).encode() + b"\n")
    return connection


def knock(port):
    """A connection to node 0, which may only just begin to listen."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            assert time.monotonic() < deadline


def test_what_listens_at_the_address_and_hangs_up_is_no_launcher(monkeypatch):
    """As a service that does not know what is said to it; node 0 itself listens elsewhere."""
    from fm9g.commands import nodes

    listening, elsewhere = nodes._listening, free_port()
    monkeypatch.setattr(nodes, "_listening", lambda port: listening(elsewhere))
    with socket.socket() as server, ThreadPoolExecutor(1) as pool:
        server.bind(("127.0.0.1", 0))
        server.listen()
        told = pool.submit(outcome, claims(2)[0], server.getsockname()[1], 10.0)
        connection, _ = server.accept()
        connection.close()
        assert "is not this launcher" in told.result()
