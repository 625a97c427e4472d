"""Keys and values of the tokens that rows have so far, so that each new token costs one token's work.

Rows lie side by side in buffers of one capacity, so that a new token is attended to without moving the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_GRAIN = 256  # tokens by which capacity grows at least, and it doubles


class Cache:
    """Of a batch of rows. `lengths` are the tokens of each that are in it.

    A forward pass brings either whole rows into an empty cache (`begins`), or one token of each row.
    """

    def __init__(self, rows: int) -> None:
        self.lengths = [0] * rows
        self.begins = True
        self.visible: Tensor | None = None  # [rows, longest] bool: which places hold a token; None where all do
        self._buffers: dict[object, tuple[Tensor, Tensor]] = {}  # by layer, each [rows, capacity, kv_heads, dim_head]
        self._places: tuple[Tensor, Tensor] | None = None  # (row, place) of each new token, on the device

    def begin(self, lengths: Sequence[int], device: torch.device) -> None:
        """Make room for so many more tokens of each row: of all layers in the forward pass that follows."""
        self.begins = not any(self.lengths)
        assert self.begins or set(lengths) == {1}, "whole rows, or a token of each"
        counts, before = torch.tensor(lengths), torch.tensor(self.lengths)
        rows = torch.arange(len(lengths)).repeat_interleave(counts)
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
        places = torch.arange(len(rows)) - starts + before[rows]
        self._places = rows.to(device), places.to(device)
        self.lengths = (before + counts).tolist()
        visible = torch.arange(max(self.lengths)) < torch.tensor(self.lengths).unsqueeze(1)
        self.visible = None if bool(visible.all()) else visible.to(device)

    def add(self, layer: object, key_TGd: Tensor, value_TGd: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a layer's new keys and values; all of its rows', each [rows, longest, kv_heads, dim_head]."""
        keys, values = self._room(layer, key_TGd)
        assert self._places is not None
        keys[self._places], values[self._places] = key_TGd, value_TGd
        longest = max(self.lengths)
        return keys[:, :longest], values[:, :longest]

    def _room(self, layer: object, like_TGd: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's buffers, as large as all lengths need."""
        held, longest = self._buffers.get(layer), max(self.lengths)
        if held is None or held[0].size(1) < longest:
            had = 0 if held is None else held[0].size(1)
            capacity = max(longest + _GRAIN - longest % _GRAIN, 2 * had)
            shape = (len(self.lengths), capacity, *like_TGd.shape[1:])
            grown = like_TGd.new_zeros(shape), like_TGd.new_zeros(shape)
            for new, old in zip(grown, held or (), strict=False):
                new[:, :had] = old
            self._buffers[layer] = held = grown
        return held

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; a row may come more than once."""
        self.lengths = [self.lengths[row] for row in rows]
        for layer, (keys, values) in self._buffers.items():
            at = torch.tensor(rows, device=keys.device)
            self._buffers[layer] = keys.index_select(0, at), values.index_select(0, at)
