"""What a checkpoint holds, copied to the host, so that training can go on while it is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.checkpoint.contents import Contents
from fm9g.runtime.log import log


def with_tensors(value: Any, change: Callable[[tuple[Any, ...], Tensor], Tensor], place: tuple[Any, ...] = ()) -> Any:
    """`value` with each tensor in its dicts, lists and tuples changed; `change` is told where it is, too."""
    if isinstance(value, Tensor):
        return change(place, value)
    if isinstance(value, dict):
        return {key: with_tensors(item, change, (*place, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(with_tensors(item, change, (*place, number)) for number, item in enumerate(value))
    return value


class HostCopies:
    """Copies of one checkpoint's contents; their memory is kept for the next."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Tensor] = {}

    def take(self, contents: Contents) -> Contents:
        """The same contents, which nothing changes any more until the next are taken."""
        first, weights = not self._kept, contents.weights
        if weights is not None:
            pieces = [
                piece._replace(values=self._copy(("weights", piece.name, piece.start), piece.values))
                for piece in weights.pieces
            ]
            weights = weights._replace(pieces=pieces)
        files = with_tensors(contents.files, self._copy)
        state = json.loads(json.dumps(contents.state))
        runtime.synchronize_device()
        if first:
            held = sum(copy.numel() * copy.element_size() for copy in self._kept.values())
            log(f"async_save: copies of what a checkpoint holds take {held / 1e9:.2f} GB of memory, on rank 0's host")
        return contents._replace(files=files, state=state, weights=weights)

    def _copy(self, place: tuple[Any, ...], tensor: Tensor) -> Tensor:
        kept = self._kept.get(place)
        if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
            kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=runtime.backend.on_cuda)
            self._kept[place] = kept
        return kept.copy_(tensor.detach(), non_blocking=True)
