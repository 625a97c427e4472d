"""Which rank the others wait for: the spread of what a step takes each rank without its collectives."""

from __future__ import annotations

import socket
import statistics

from fm9g import runtime
from fm9g.runtime.log import log

EVERY = 100  # iterations between those that are measured
_MUCH = 0.2  # of a step


def is_measured(iteration: int) -> bool:
    """Whether an iteration is; the first ones are like no other. The native backend's collectives are BMTrain's."""
    return runtime.world_size() > 1 and runtime.backend.name != "native" and iteration % EVERY == 0


def spread(own_seconds: float, step_seconds: float) -> dict[str, float]:
    """The median and the most of what the step took ranks, and which was the slowest; each tells its own seconds."""
    seconds: list[float] = runtime.gather(own_seconds)
    median, most = statistics.median(seconds), max(seconds)
    slowest = seconds.index(most)
    hosts = runtime.gather_bytes(socket.gethostname().encode())
    said = (
        f"ranks: a step takes {min(seconds):.3f} to {most:.3f} s without its collectives, the most on rank {slowest} "
        f"({hosts[slowest].decode()})"
    )
    late = most - median
    log(f"warning: {said}, {late:.3f} s more than others: they wait" if late > _MUCH * step_seconds else said)
    return {"median": median, "most": most, "slowest": slowest}
