"""What every block needs to know of a packed strip of tokens: its documents, and where each token stands in its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fm9g.model.balance import Balance
from fm9g.model.cache import Cache
from fm9g.model.token_split import TokenSplit

# (position ids [T], a bound of theirs, dtype) -> what tells attention where each token stands, [T, 1, …] each: cos and
# sin of rotary angles, or ALiBi's places
Places = Callable[[Tensor, int, torch.dtype], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Documents:
    """Documents in a strip of T tokens: document i is [cu_seqlens[i], cu_seqlens[i + 1]).

    `lengths` holds the same bounds on the host, so that no kernel choice waits for the device.
    """

    cu_seqlens: Tensor  # [documents + 1] int32, on the device
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Documents:
        """Documents of these lengths, one after another."""
        bounds = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        torch.cumsum(torch.tensor(lengths, dtype=torch.int32), 0, out=bounds[1:])
        return cls(bounds.to(device, non_blocking=True), tuple(map(int, lengths)))

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def equal(self) -> bool:
        """Whether all documents are of one length, as rows that a long document fills are."""
        return self.longest * len(self.lengths) == sum(self.lengths)


@dataclass(frozen=True)
class Context:
    """The one argument that goes with the hidden states through blocks, branches and attention kernels.

    Queries and keys have bounds of their own: a document's queries are those of the last of its keys. Where every
    token of a document is at hand, as in training, they are the same. With a cache both are those of the new tokens,
    and what it holds is attended to besides.
    """

    queries: Documents
    keys: Documents
    position_ids: Tensor  # [T] int64, from 0 in each document
    places: tuple[Tensor, ...]  # cos and sin of the rotary angles at position_ids, [T, 1, rotated / 2], or ALiBi's
    split: TokenSplit  # how the tokens lie on the ranks that compute together
    cache: Cache | None = None  # of what the documents have before these tokens, which are taken into it
    groups: tuple[Documents, Documents] | None = (
        None  # within which heads attend, where not to whole documents: S²-Attn
    )
    balance: Balance | None = None  # of the routers of experts, where their loss is wanted

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        device: torch.device,
        table: Places,
        dtype: torch.dtype,
        cache: Cache | None = None,
    ) -> Context:
        """Documents of these lengths, one after another, each after what it has in `cache`; `dtype` is that of the
        hidden states."""
        queries, split = Documents.of(lengths, device), TokenSplit.of(sum(lengths))
        if cache is not None:
            places = cache.begin(lengths, device)
            return cls(queries, queries, places, table(places, max(cache.lengths), dtype), split, cache)
        counts = torch.tensor(lengths, dtype=torch.int32)
        starts = torch.cumsum(counts, 0, dtype=torch.int32) - counts
        positions = torch.arange(int(counts.sum())) - torch.repeat_interleave(starts, counts)
        position_ids = positions.to(device, non_blocking=True)
        return cls(queries, queries, position_ids, table(position_ids, queries.longest, dtype), split)
