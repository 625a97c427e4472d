"""Machines of a network, as network namespaces of this one: they have addresses of their own, and can be cut off.

with network(2) as machines:
    process = start([*machines[0].command, "bash", …], …)
    machines[1].cut_off()
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

_made = itertools.count()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=30)


@dataclass(frozen=True)
class Machine:
    """One of them."""

    name: str
    address: str

    @property
    def command(self) -> list[str]:
        """What a command begins with that is to run on it."""
        return ["ip", "netns", "exec", self.name]

    def cut_off(self) -> None:
        """From now on its packets reach nobody, and nobody is told."""
        ip("link", "set", f"v{self.name}", "nomaster")


@contextlib.contextmanager
def network(count: int) -> Iterator[list[Machine]]:
    """So many machines that reach each other."""
    mark = f"{os.getpid() % 100_000:x}{next(_made):x}"  # what was deleted may still be there
    bridge, machines = f"b{mark}", [Machine(f"n{mark}x{i}", f"10.77.0.{i + 1}") for i in range(count)]
    with contextlib.ExitStack() as undo:
        ip("link", "add", bridge, "type", "bridge")
        undo.callback(ip, "link", "del", bridge)
        ip("link", "set", bridge, "up")
        for machine in machines:
            ip("netns", "add", machine.name)
            undo.callback(ip, "netns", "del", machine.name)
            ip("link", "add", f"v{machine.name}", "type", "veth", "peer", "name", "eth0", "netns", machine.name)
            ip("link", "set", f"v{machine.name}", "master", bridge, "up")
            ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            ip("-n", machine.name, "link", "set", "eth0", "up")
            ip("-n", machine.name, "link", "set", "lo", "up")
        yield machines
