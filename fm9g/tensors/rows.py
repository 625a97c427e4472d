"""Rows of tensors in files, taken in any order, a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from fm9g.tensors.lazy import DTYPES, LazyTensor, rows_per_piece

RUNS = 16  # in a piece: more of them are read together with what lies between,
SPAN = 8  # where that is no more than so many times what is wanted


def rows_of(tensors: Sequence[LazyTensor], index: np.ndarray) -> LazyTensor:
    """Rows `index` of tensors of one dtype that lie one after another: [len(index), …]; each must be in a file.

    What is held at a time is a few pieces: rows near each other are read at once, others run by run.
    """
    first = tensors[0]
    bounds = np.cumsum([0, *(tensor.shape[0] for tensor in tensors)])
    shape = (len(index), *first.shape[1:])

    def pieces() -> Iterator[torch.Tensor]:
        step = rows_per_piece(shape, DTYPES[first.dtype].itemsize)
        for start in range(0, len(index), step):
            yield _taken(tensors, bounds, index[start : start + step])

    return LazyTensor(first.dtype, shape, pieces, lambda start, stop: _taken(tensors, bounds, index[start:stop]))


def _taken(tensors: Sequence[LazyTensor], bounds: np.ndarray, index: np.ndarray) -> torch.Tensor:
    low, high = int(index.min()), int(index.max()) + 1
    ends = np.flatnonzero(np.diff(index) != 1) + 1
    if len(ends) >= RUNS and high - low <= SPAN * len(index):
        span = _range(tensors, bounds, low, high).view(high - low, -1)
        return span[torch.from_numpy(index - low)].view(-1)
    runs = np.split(index, ends)
    return torch.cat([_range(tensors, bounds, int(run[0]), int(run[-1]) + 1) for run in runs])


def _range(tensors: Sequence[LazyTensor], bounds: np.ndarray, start: int, stop: int) -> torch.Tensor:
    """The rows from start to stop of all tensors, flat."""
    parts = []
    for tensor, begin in zip(tensors, bounds.tolist(), strict=False):
        low, high = max(start - begin, 0), min(stop - begin, tensor.shape[0])
        if low < high:
            assert tensor.read_rows is not None, "its rows can only be had in order"
            parts.append(tensor.read_rows(low, high))
    return torch.cat(parts) if len(parts) > 1 else parts[0]
