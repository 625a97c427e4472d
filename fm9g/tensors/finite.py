"""Whether weights are finite numbers, looked at a piece at a time.

A conversion keeps every bit and says what it kept; training refuses weights that it cannot compute with.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fm9g.tensors.lazy import LazyTensor, rows_per_piece

MAX_NAMED = 5


def fault(values: Tensor, dtype: torch.dtype) -> str:
    """What keeps `values` (floats, of any shape) from being finite numbers in `dtype`; an empty string for nothing."""
    if not values.numel():
        return ""
    extremes = torch.stack(torch.aminmax(values.detach()))  # NaN wherever there is one
    if extremes.to(dtype).isfinite().all():
        return ""
    if extremes.isnan().any():
        return "NaN"
    if extremes.isinf().any():
        return "infinite values"
    return f"values beyond the range of {str(dtype).removeprefix('torch.')}"


def views(tensor: Tensor) -> Iterator[Tensor]:
    """`tensor`, of one axis or more, as views of about PIECE_BYTES: what looks at them makes no copy of the whole."""
    return iter(tensor.split(rows_per_piece(tuple(tensor.shape), tensor.element_size())))


def noting(tensors: Mapping[str, LazyTensor], found: dict[str, str]) -> dict[str, LazyTensor]:
    """The same tensors, which add their name and fault to `found` when they are read and are not finite."""

    def noted(name: str, tensor: LazyTensor) -> LazyTensor:
        def pieces() -> Iterator[Tensor]:
            for piece in tensor.pieces():
                if wrong := fault(piece, piece.dtype):
                    found.setdefault(name, wrong)
                yield piece

        return dataclasses.replace(tensor, pieces=pieces)

    return {name: noted(name, tensor) for name, tensor in tensors.items()}


def warn_of(found: Mapping[str, str], output: Path) -> None:
    """Say on stderr which tensors of `output` are not finite."""
    if not found:
        return
    listed = ", ".join(f"{name} ({wrong})" for name, wrong in list(found.items())[:MAX_NAMED])
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    print(f"warning: {output}: kept as they are, but no weights to train from: {listed}{more}", file=sys.stderr)
