"""torch's scaled_dot_product_attention over packed documents, short ones together in padded batches.

Causal attention lets no token see what follows it, so padding at a document's end changes nothing before it.
A call for every short document costs several times as much as one for all (measured on a CPU: 4x at 48 tokens).
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.context import Context
from fm9g.model.kernels.kernel import Kernel, Scores, capless, for_every_head, visible

LONGEST_BATCHED = 512


def _padded_length(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, …: at most half as long again."""
    size = 16
    while size < length:
        size += size // 2 if size & (size - 1) == 0 else size // 3
    return size


class _Places(NamedTuple):
    """Where T tokens stand among the P places of padded batches, which lie one after another; padding is places of a
    token that has its own before them."""

    shapes: list[tuple[int, int]]  # of each batch: documents, places of each
    tokens_P: Tensor
    places_T: Tensor
    padding: Tensor  # places, increasing

    @classmethod
    def of(cls, lengths: Sequence[int], batches: Sequence[Sequence[int]], device: torch.device) -> _Places:
        """`batches` holds numbers of documents. A batch of equals needs no padding."""
        starts = torch.tensor([0, *lengths]).cumsum(0)
        shapes, tokens, valid = [], [], []
        for members in batches:
            sizes_n1 = torch.tensor([lengths[number] for number in members]).unsqueeze(1)
            offsets_L = torch.arange(int(sizes_n1.max()))
            shapes.append((len(members), len(offsets_L)))
            tokens.append((starts[members].unsqueeze(1) + torch.minimum(offsets_L, sizes_n1 - 1)).flatten())
            valid.append((offsets_L < sizes_n1).flatten())
        tokens_P, valid_P = torch.cat(tokens), torch.cat(valid)
        kept_T = valid_P.nonzero().squeeze(1)
        places_T = kept_T[tokens_P[kept_T].argsort()]
        return cls(shapes, *(x.to(device) for x in (tokens_P, places_T, (~valid_P).nonzero().squeeze(1))))


class _Plan(NamedTuple):
    """The batches of a strip, and what a query sees in each, [documents, 1, queries, keys]: None where that is all
    until itself."""

    queries: _Places
    keys: _Places
    visible: list[Tensor | None]


@functools.lru_cache(maxsize=4)  # every layer, and a second forward of checkpointing, asks for the same; or every other
def _plan(queries: tuple[int, ...], keys: tuple[int, ...], window: int, device: torch.device) -> _Plan:
    """For documents of these numbers of queries and of keys; a long document is a batch of its own."""
    grouped: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, lengths in enumerate(zip(queries, keys, strict=True)):
        alone = (number,) if lengths[1] > LONGEST_BATCHED else ()
        grouped[(*map(_padded_length, lengths), *alone)].append(number)
    batches = list(grouped.values())
    of_queries = _Places.of(queries, batches, device)
    if queries == keys and not 0 < window < max(keys):
        return _Plan(of_queries, of_queries, [None] * len(batches))
    seen = [_visible([(queries[n], keys[n]) for n in members], window).to(device) for members in batches]
    return _Plan(of_queries, of_queries if queries == keys else _Places.of(keys, batches, device), [*seen])


def _visible(lengths: list[tuple[int, int]], window: int) -> Tensor:
    """[documents, 1, queries, keys]: whether a query sees a key; a document's queries are those of its last keys."""
    before = torch.tensor([keys - queries for queries, keys in lengths])
    last_nq = before.unsqueeze(1) + torch.arange(max(queries for queries, _ in lengths))
    return visible(last_nq.unsqueeze(2), torch.arange(max(keys for _, keys in lengths)), window).unsqueeze(1)


class _Pad(torch.autograd.Function):
    """[T, ...] -> [P, ...]. Nothing comes back from padding, which no query sees and whose outputs nobody takes: a
    gradient is taken from its place, and none are added, which on a CPU is as slow as a matrix product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: _Places) -> Tensor:
        ctx.places = places
        return x.index_select(0, places.tokens_P)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad.index_select(0, ctx.places.places_T), None


class _Unpad(torch.autograd.Function):
    """[P, ...] -> [T, ...]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: _Places) -> Tensor:
        ctx.places = places
        return x.index_select(0, places.places_T)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad.index_select(0, ctx.places.tokens_P).index_fill_(0, ctx.places.padding, 0), None


def _in_batches(x: Tensor, places: _Places) -> list[Tensor]:
    """[T, heads, dim_head] -> [documents, heads, places, dim_head] of each batch."""
    parts = _Pad.apply(x, places).split([documents * length for documents, length in places.shapes])
    return [part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, places.shapes, strict=True)]


def batched_attention(query: Tensor, key: Tensor, value: Tensor, context: Context, scores: Scores) -> Tensor:
    """The same for documents of one length, as a batch: on Hopper, torch has faster kernels for those (cuDNN's)."""
    key, value = (for_every_head(x, query.size(1)) for x in (key, value))
    q, k, v = (x.unflatten(0, (len(context.queries.lengths), -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scores.scale).transpose(1, 2).flatten(0, 1)


def sdpa_attention(query: Tensor, key: Tensor, value: Tensor, context: Context, scores: Scores) -> Tensor:
    """query [T, heads, dim_head], key and value [S, kv_heads, dim_head] -> [T, heads, dim_head]."""
    whole = context.queries is context.keys or context.queries.lengths == context.keys.lengths
    if whole and context.queries.equal and not 0 < scores.window < context.keys.longest:
        return batched_attention(query, key, value, context, scores)
    key, value = (for_every_head(x, query.size(1)) for x in (key, value))
    plan = _plan(context.queries.lengths, context.keys.lengths, scores.window, query.device)
    batches = (_in_batches(x, of) for x, of in ((query, plan.queries), (key, plan.keys), (value, plan.keys)))
    outputs = [
        F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None, scale=scores.scale)
        for q, k, v, seen in zip(*batches, plan.visible, strict=True)
    ]
    padded = torch.cat([output.transpose(1, 2).flatten(0, 1) for output in outputs])
    result = _Unpad.apply(padded, plan.queries)
    assert isinstance(result, Tensor)
    return result


KERNEL = Kernel("torch sdpa", capless, sdpa_attention)
