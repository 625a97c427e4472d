"""Adapters and the weights that they are for, as one: W + scale · B A, with rows of lengths m where that is DoRA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fm9g.errors import UserError
from fm9g.tensors.lazy import DTYPES, LazyTensor, as_dtype, rows_per_piece


class Adapter(NamedTuple):
    """The tensors for one layer: A [r, in], B [out, r], and the lengths of rows [out]."""

    a: LazyTensor
    b: LazyTensor
    magnitude: LazyTensor | None = None


def row_lengths(weight: Tensor) -> Tensor:
    """[out, in] -> [out] float32, the Euclidean length of each row."""
    return torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32)


def merged(name: str, weight: LazyTensor, adapter: Adapter, scale: float, dtype: str | None = None) -> LazyTensor:
    """The weight [out, in] of a layer with its adapter in it, in `dtype` (None: its own); computed in float32, some
    rows at once.

    UserError where the shapes are not those of that layer.
    """
    out, into = (*weight.shape, 0, 0)[:2]
    rank = adapter.a.shape[0]
    wanted: dict[str, tuple[LazyTensor, tuple[int, ...]]] = {
        "A": (adapter.a, (rank, into)),
        "B": (adapter.b, (out, rank)),
    }
    if adapter.magnitude is not None:
        wanted["magnitude"] = (adapter.magnitude, (out,))
    for what, (tensor, shape) in wanted.items():
        if tensor.shape != shape:
            raise UserError(f"{name}: {what} of its adapter is {list(tensor.shape)}, and must be {list(shape)} here")

    def read() -> tuple[Tensor, Tensor, Tensor | None]:
        a, b = (_whole(tensor) for tensor in adapter[:2])
        return a, b, None if adapter.magnitude is None else _whole(adapter.magnitude)

    def rows(start: int, stop: int, a: Tensor, b: Tensor, lengths: Tensor | None) -> Tensor:
        found = _rows(weight, start, stop).to(torch.float32) + scale * (b[start:stop] @ a)
        if lengths is not None:
            found *= (lengths[start:stop] / row_lengths(found))[:, None]
        return found.flatten()

    def pieces() -> Iterator[Tensor]:
        step, held = rows_per_piece(weight.shape, DTYPES["F32"].itemsize), read()
        for start in range(0, out, step):
            yield rows(start, min(start + step, out), *held)

    whole = LazyTensor("F32", weight.shape, pieces, lambda start, stop: rows(start, stop, *read()))
    return as_dtype(name, whole, dtype or weight.dtype)


def _rows(weight: LazyTensor, start: int, stop: int) -> Tensor:
    assert weight.read_rows is not None, "weights to merge lie in files"
    return weight.read_rows(start, stop).view(stop - start, -1)


def _whole(tensor: LazyTensor) -> Tensor:
    """All of a small tensor, in float32."""
    return torch.cat([piece.to(torch.float32) for piece in tensor.pieces()]).view(tensor.shape)
