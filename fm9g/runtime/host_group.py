"""All ranks, to exchange bytes on the host from another thread than the one that trains.

The collectives of training are in the order that training has them; those of a group of its own are not among them.
"""

from __future__ import annotations

import torch

from fm9g import runtime
from fm9g.runtime import collectives, process


class HostGroup:
    """Made by all ranks together."""

    def __init__(self) -> None:
        name = runtime.gather_bytes(process.unique_name())[0]
        self._group = collectives.host_communicator(name, runtime.world_size(), runtime.rank())

    def gather_bytes(self, value: bytes) -> list[bytes]:
        """Every rank's bytes, of any lengths, on every rank."""
        return collectives.gathered_bytes(value, self._gather)

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        gathered = tensor.new_empty((runtime.world_size(), *tensor.shape))
        collectives.allGather(tensor.storage(), gathered.storage(), self._group)
        return gathered

    def close(self) -> None:
        """Leave the group."""
        collectives.commDestroy(self._group)
