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
        self._buffers: dict[object, tuple[Tensor, Tensor]] = {}  # by layer, each [rows, kv_heads, capacity, dim_head]
        self._visible: dict[int, Tensor] = {}  # by window, in one forward pass
        self._places: tuple[Tensor, Tensor] | None = None  # (row, place) of each new token, on the device

    def begin(self, lengths: Sequence[int], device: torch.device) -> Tensor:
        """Make room for so many more tokens of each row: of all layers in the forward pass that follows. Returns where
        in its row each of them is, [tokens]."""
        self.begins = not any(self.lengths)
        assert self.begins or set(lengths) == {1}, "whole rows, or a token of each"
        rows, places = torch.arange(len(lengths)), torch.tensor(self.lengths)
        if self.begins:
            rows = rows.repeat_interleave(torch.tensor(lengths))
            places = torch.cat([torch.arange(length) for length in lengths])
        self._places = rows.to(device), places.to(device)
        self.lengths = [had + more for had, more in zip(self.lengths, lengths, strict=True)]
        self._visible.clear()
        return self._places[1]

    def visible(self, window: int) -> Tensor | None:
        """[rows, longest] bool: the places that hold one of a row's last `window` tokens, or any (0); None where all
        do."""
        longest, shortest = max(self.lengths), min(self.lengths)
        if shortest == longest and not 0 < window < longest:
            return None
        if window not in self._visible:
            assert self._places is not None
            places, ends = torch.arange(longest), torch.tensor(self.lengths).unsqueeze(1)
            seen = (places < ends) & (places >= (ends - window if window else 0))
            self._visible[window] = seen.to(self._places[0].device)
        return self._visible[window]

    def add(self, layer: object, key_TGd: Tensor, value_TGd: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a layer's new keys and values; all of its rows', each [rows, kv_heads, longest, dim_head]."""
        keys, values = self._room(layer, key_TGd)
        assert self._places is not None
        rows, places = self._places
        keys[rows, :, places], values[rows, :, places] = key_TGd, value_TGd
        longest = max(self.lengths)
        return keys[:, :, :longest], values[:, :, :longest]

    def _room(self, layer: object, like_TGd: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's buffers, as large as all lengths need."""
        held, longest = self._buffers.get(layer), max(self.lengths)
        if held is None or held[0].size(2) < longest:
            had = 0 if held is None else held[0].size(2)
            capacity = max(longest + _GRAIN - longest % _GRAIN, 2 * had)
            shape = (len(self.lengths), like_TGd.size(1), capacity, like_TGd.size(2))
            grown = like_TGd.new_zeros(shape), like_TGd.new_zeros(shape)
            for new, old in zip(grown, held or (), strict=False):
                new[:, :, :had] = old
            self._buffers[layer] = held = grown
        return held

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order; a row may come more than once."""
        self.lengths = [self.lengths[row] for row in rows]
        for layer, (keys, values) in self._buffers.items():
            at = torch.tensor(rows, device=keys.device)
            self._buffers[layer] = keys.index_select(0, at), values.index_select(0, at)
