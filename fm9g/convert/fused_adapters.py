"""Adapters of tensors of others that hold several of ours, or ours in another order of rows.

W + s B A of such a tensor is the same of each part of it: A as it is, and of B the part's rows. The way back, where
each part learned an A of its own, is one product of the As under each other and the Bs in blocks, of as many times the
rank; alpha grows with it, so that the scale stays.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.convert.layouts import Group, converted
from fm9g.errors import UserError
from fm9g.lora.kind import Kind
from fm9g.lora.merge import Adapter
from fm9g.tensors.lazy import LazyTensor, held


def is_renamed(group: Group) -> bool:
    """Whether each of its tensors is one of ours under another name."""
    return group.order is None and len(group.theirs) == len(group.ours)


def is_fused(group: Group) -> bool:
    """Whether it is one tensor of theirs, in an order of its own or of several of ours."""
    return len(group.theirs) == 1 and not is_renamed(group)


def parts(group: Group, adapter: Adapter) -> Iterator[tuple[str, Adapter]]:
    """(our weight's name, its adapter) of the adapter of a fused tensor."""
    of_b = _in_our_rows(group, adapter.b)
    lengths = None if adapter.magnitude is None else _in_our_rows(group, adapter.magnitude)
    for name, b in of_b.items():
        yield name, Adapter(adapter.a, b, None if lengths is None else lengths[name])


def _in_our_rows(group: Group, tensor: LazyTensor) -> dict[str, LazyTensor]:
    theirs, rows = group.theirs[0], sum(one.shape[0] for one in group.ours)
    if tensor.shape[0] != rows:
        raise UserError(f"{theirs.name}: its adapter has {tensor.shape[0]} rows, and must have {rows} here")
    return dict(converted([group], {theirs.name: held(_whole(tensor))}, "huggingface"))


def joined(group: Group, adapters: Mapping[str, Adapter], where: str) -> tuple[int, Adapter]:
    """How many of a fused tensor's parts have adapters, by our weights' names, and the one of them all."""
    there = [one.name for one in group.ours if one.name in adapters]
    matrices = [_whole(adapters[name].a) for name in there]
    rank, width = matrices[0].shape[0], sum(a.shape[0] for a in matrices)
    blocks = {}
    for one in group.ours:
        blocks[one.name] = matrices[0].new_zeros(one.shape[0], width)
        if one.name in there:
            start = there.index(one.name) * rank
            blocks[one.name][:, start : start + rank] = _whole(adapters[one.name].b)
    magnitude = None
    if adapters[there[0]].magnitude is not None:
        if len(there) < len(group.ours):
            raise UserError(
                f"{where}: DoRA of {', '.join(there)} alone, which are a part of {group.theirs[0].name} there, is no "
                "adapter of it: merge the adapters instead (without --adapter-only)"
            )
        magnitude = _in_their_rows(group, {name: _whole(_there(adapters[name].magnitude)) for name in there})
    return len(there), Adapter(held(torch.cat(matrices)), _in_their_rows(group, blocks), magnitude)


def padded(adapter: Adapter, rank: int, name: str) -> Adapter:
    """The same of a higher rank: more of B is zeros, of A what a new adapter has, since a rank of zeros in both has no
    gradient for ever. Drawn by `name`, so that a folder gives the same each time."""
    more = rank - adapter.a.shape[0]
    if not more:
        return adapter
    a, b = _whole(adapter.a), F.pad(_whole(adapter.b), (0, more))
    bound = a.shape[1] ** -0.5  # as in LowRank
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    drawn = torch.empty(more, a.shape[1]).uniform_(-bound, bound, generator=generator)
    return adapter._replace(a=held(torch.cat([a, drawn.to(a.dtype)])), b=held(b))


def scaled(kind: Kind, count: int) -> Kind:
    """What an adapter of `count` parts is, each of `kind`."""
    return kind._replace(r=count * kind.r, alpha=kind.alpha * (math.sqrt(count) if kind.rslora else count))


def _in_their_rows(group: Group, tensors: Mapping[str, Tensor]) -> LazyTensor:
    lazy = {name: held(tensor) for name, tensor in tensors.items()}
    return dict(converted([group], lazy, "ours"))[group.theirs[0].name]


def _there(tensor: LazyTensor | None) -> LazyTensor:
    assert tensor is not None, "adapters of one kind"
    return tensor


def _whole(tensor: LazyTensor) -> Tensor:
    return torch.cat(list(tensor.pieces())).view(tensor.shape)
