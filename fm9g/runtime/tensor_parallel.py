"""The ranks of a tensor-parallel group: they hold the same rows, and each a part of their tokens and of the weights.

What a rank computes of what it was given whole is a part of a sum over the group, so gradients of what all ranks were
given add up. BMTrain's own ops take them for those of one rank alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fm9g.runtime import bmt

_apart = False


def size() -> int:
    """The ranks that compute together: those of a group, or one where each has all weights."""
    return 1 if _apart or not bmt.init.is_initialized() else int(bmt.config["tp_size"])


def rank() -> int:
    """This rank's number among them."""
    return int(bmt.config["tp_rank"]) if size() > 1 else 0


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Each rank has all weights, and computes by itself; which rows it is given (runtime.tp_rank) stays as it is."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def all_gather(part: Tensor) -> Tensor:
    """[n, ...] of each rank, one after another: [ranks * n, ...]; no gradient goes through it."""
    part = _own_storage(part)
    whole = part.new_empty((size() * part.shape[0], *part.shape[1:]))
    bmt.nccl.allGather(part.storage(), whole.storage(), bmt.config["tp_comm"])
    return whole


def all_reduce(value: Tensor) -> Tensor:
    """The sum over the ranks; no gradient goes through it."""
    total = value.detach().clone(memory_format=torch.contiguous_format)
    bmt.nccl.allReduce(total.storage(), total.storage(), "sum", bmt.config["tp_comm"])
    return total


def _reduce_scatter(whole: Tensor) -> Tensor:
    """This rank's [n, ...] of the sum of all ranks' [ranks * n, ...]."""
    whole = _own_storage(whole)
    part = whole.new_empty((whole.shape[0] // size(), *whole.shape[1:]))
    bmt.nccl.reduceScatter(whole.storage(), part.storage(), "sum", bmt.config["tp_comm"])
    return part


def _own_storage(value: Tensor) -> Tensor:
    """The value as all of a storage, which is what collectives take."""
    value = value.detach().contiguous()
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


class _GatheredForParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return all_gather(part)

    @staticmethod
    def backward(ctx: Any, of_whole: Tensor) -> Tensor:
        return _reduce_scatter(of_whole)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> Tensor:
        return _reduce_scatter(whole)

    @staticmethod
    def backward(ctx: Any, of_part: Tensor) -> Tensor:
        return all_gather(of_part)


class _GatheredForAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        ctx.start, ctx.length = rank() * part.shape[0], part.shape[0]
        return all_gather(part)

    @staticmethod
    def backward(ctx: Any, of_whole: Tensor) -> Tensor:
        return of_whole.narrow(0, ctx.start, ctx.length)


def gathered_for_parts(part: Tensor) -> Tensor:
    """[n, ...] of each rank, one after another, for ranks of which each computes something else with all of it: its
    gradient is the sum of theirs."""
    whole: Tensor = _GatheredForParts.apply(part)  # type: ignore[no-untyped-call]
    return whole


def summed(whole: Tensor) -> Tensor:
    """This rank's [n, ...] of the sum of all ranks' [ranks * n, ...]."""
    part: Tensor = _Summed.apply(whole)  # type: ignore[no-untyped-call]
    return part


def gathered_for_all(part: Tensor) -> Tensor:
    """[n, ...] of each rank, one after another, for ranks that all compute the same with it: its gradient is that of
    one of them."""
    whole: Tensor = _GatheredForAll.apply(part)  # type: ignore[no-untyped-call]
    return whole
