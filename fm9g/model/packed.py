"""Where the documents of a packed strip of tokens begin and end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Documents in a strip of T tokens: document i is [cu_seqlens[i], cu_seqlens[i + 1]).

    `lengths` holds the same bounds on the host, so that no kernel choice waits for the device.
    """

    cu_seqlens: Tensor  # [documents + 1] int32, on the device
    position_ids: Tensor  # [T] int64, from 0 in each document
    lengths: tuple[int, ...]

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def equal(self) -> bool:
        """Whether all documents are of one length, as rows that a long document fills are."""
        return self.longest * len(self.lengths) == sum(self.lengths)

    @classmethod
    def from_lengths(cls, lengths: list[int], device: torch.device) -> Packed:
        """Documents of these lengths, one after another."""
        counts = torch.tensor(lengths, dtype=torch.int32)
        bounds = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        torch.cumsum(counts, 0, out=bounds[1:])
        positions = torch.arange(int(bounds[-1])) - torch.repeat_interleave(bounds[:-1], counts)
        return cls(
            bounds.to(device, non_blocking=True), positions.to(device, non_blocking=True), tuple(map(int, lengths))
        )
