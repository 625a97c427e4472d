"""check_cluster: whether nodes are fit to train together: how fast they talk, what time they have, what they see.

All ranks have met and run the same when this begins. Pairs of nodes are measured in rounds of a tournament, in which
each node has one partner: as many rounds as there are nodes, each as slow as its slowest pair.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from fm9g import runtime
from fm9g.errors import UserError
from fm9g.runtime import bmt
from fm9g.runtime.log import log
from fm9g.training.inputs import Inputs

MEGABYTES, TIMES = 16, 3
_LOOKS = 60  # for a file of another node, a second apart
_MOST_SKEW = 1.0  # seconds, from which on times of files and logs mislead


class Speed(NamedTuple):
    """Gigabytes a second that each rank sends: bytes of a ring, over the seconds that all took."""

    all_gather: float
    all_reduce: float


def check_cluster(inputs: Inputs) -> None:
    """Print a table; a UserError where nodes are not fit. Every rank must call it."""
    nodes = _nodes()
    skews, hosts = _clock_skews(nodes), _hosts()
    log(f"{len(nodes)} node(s), {runtime.world_size()} rank(s)")
    for number, ranks in enumerate(nodes):
        log(f"node {number}: {hosts[ranks[0]]}, {len(ranks)} rank(s), its clock {skews[number]:+.3f} s to node 0's")
    _check_shared(inputs.folder.checkpoints, nodes)
    log(f"all nodes see {inputs.folder.checkpoints}")
    found = _pairs(nodes)
    log(f"{'nodes':>12} {'all-gather GB/s':>16} {'all-reduce GB/s':>16}   of each rank, {MEGABYTES} MB a time")
    for (first, second), speed in sorted(found.items()):
        log(f"{f'{first}, {second}':>12} {speed.all_gather:16.2f} {speed.all_reduce:16.2f}")
    everyone = _measured(list(range(runtime.world_size())))
    assert everyone is not None
    log(f"{'all':>12} {everyone.all_gather:16.2f} {everyone.all_reduce:16.2f}")
    if slow := _slow(found):
        log(f"warning: {slow}")
    late = [number for number, skew in enumerate(skews) if abs(skew) > _MOST_SKEW]
    if late:
        log(f"warning: the clock of node(s) {', '.join(map(str, late))} differs: let them keep time by NTP")


def _hosts() -> list[str]:
    return [name.decode() for name in runtime.gather_bytes(socket.gethostname().encode())]


def _nodes() -> list[list[int]]:
    """The ranks of each node, as its launcher numbers it."""
    numbers: list[int] = runtime.gather(int(os.environ.get("GROUP_RANK", "0")))
    return [[rank for rank, number in enumerate(numbers) if number == node] for node in sorted(set(numbers))]


def _clock_skews(nodes: list[list[int]]) -> list[float]:
    """Seconds that each node's clock is ahead of that of node 0, to the time that a barrier takes."""
    found: list[list[float]] = []
    for _ in range(5):
        runtime.barrier()
        found.append(runtime.gather(time.time()))
    return [statistics.median(times[ranks[0]] - times[0] for times in found) for ranks in nodes]


def _check_shared(folder: Path, nodes: list[list[int]]) -> None:
    """A UserError that names the nodes that do not see what rank 0 writes there."""
    token = runtime.gather_bytes(uuid.uuid4().hex.encode())[0].decode()
    path = folder / f".shared-{token}"
    if runtime.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(token)
    runtime.barrier()
    sees = _sees(path, token)
    seen: list[int] = runtime.gather(int(sees))
    if runtime.rank() == 0:
        path.unlink()
    blind = [number for number, ranks in enumerate(nodes) if not all(seen[rank] for rank in ranks)]
    if blind:
        raise UserError(
            f"node(s) {', '.join(map(str, blind))} do not see {folder} of node 0: output_dir must be shared by all"
        )


def _sees(path: Path, token: str) -> bool:
    """Whether a file that is there holds the token; a network's file system may know of it some time later."""
    for _ in range(_LOOKS):
        if path.parent.is_dir() and path.name in os.listdir(path.parent) and path.read_text() == token:
            return True
        time.sleep(1)
    return False


def _rounds(count: int) -> Iterator[list[tuple[int, int]]]:
    """Every pair of `count` nodes once, in rounds in which each has one partner at most (the circle method)."""
    places = [*range(count), *([-1] if count % 2 else [])]
    for _ in range(len(places) - 1):
        pairs = zip(places[: len(places) // 2], reversed(places[len(places) // 2 :]), strict=True)
        yield [(min(pair), max(pair)) for pair in pairs if -1 not in pair]
        places = [places[0], places[-1], *places[1:-1]]


def _pairs(nodes: list[list[int]]) -> dict[tuple[int, int], Speed]:
    """The speed between each two nodes, on all ranks."""
    found: dict[tuple[int, int], Speed] = {}
    for pairs in _rounds(len(nodes)):
        mine = next((pair for pair in pairs if any(runtime.rank() in nodes[node] for node in pair)), None)
        speed = _measured([rank for node in mine for rank in nodes[node]] if mine else [])
        for said in runtime.gather_bytes(json.dumps([mine, speed]).encode()):
            pair, speeds = json.loads(said)
            if pair and speeds:
                found[tuple(pair)] = Speed(*speeds)
    return found


def _measured(ranks: list[int]) -> Speed | None:
    """How fast these ranks talk, of which this one is one; None without any. All ranks must call it at a time."""
    names = runtime.gather_bytes(bmt.nccl.getUniqueId())
    if len(ranks) < 2:
        return Speed(0.0, 0.0) if ranks else None
    group = bmt.nccl.commInitRank(names[ranks[0]], len(ranks), ranks.index(runtime.rank()))
    values = torch.zeros(MEGABYTES << 18, dtype=torch.float32, device=runtime.device())
    share = values[: len(values) // len(ranks)].clone()
    whole = torch.zeros(len(share) * len(ranks), device=runtime.device())

    def gather() -> None:
        bmt.nccl.allGather(share.storage(), whole.storage(), group)

    def reduce() -> None:
        bmt.nccl.allReduce(values.storage(), values.storage(), "sum", group)

    travels = (len(ranks) - 1) / len(ranks) * values.nbytes / 1e9
    speed = Speed(travels / _seconds(gather), 2 * travels / _seconds(reduce))
    bmt.nccl.commDestroy(group)
    return speed


def _seconds(call: Callable[[], None]) -> float:
    """What a call takes, of a few the median; the first is not counted."""
    taken = []
    for _ in range(TIMES + 1):
        runtime.synchronize_device()
        started = time.perf_counter()
        call()
        runtime.synchronize_device()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def _slow(found: dict[tuple[int, int], Speed]) -> str:
    """The node whose pairs are much slower than those of others, if there is one."""
    if len(found) < 3:
        return ""
    nodes = sorted({node for pair in found for node in pair})
    best = {node: max(speed.all_gather for pair, speed in found.items() if node in pair) for node in nodes}
    usual = statistics.median(speed.all_gather for speed in found.values())
    slow = [str(node) for node in nodes if best[node] < 0.7 * usual]
    return f"node(s) {', '.join(slow)} are slower than the others with every partner" if slow else ""
