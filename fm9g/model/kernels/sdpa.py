"""torch's scaled_dot_product_attention over packed documents, short ones together in padded batches.

Causal attention lets no token see what follows it, so padding at a document's end changes nothing before it.
A call for every short document costs several times as much as one for all (measured on a CPU: 4x at 48 tokens).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.context import Context, Documents
from fm9g.model.kernels.kernel import Kernel, everywhere, for_every_head

LONGEST_BATCHED = 512


def _padded_length(length: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, …: at most half as long again."""
    size = 16
    while size < length:
        size += size // 2 if size & (size - 1) == 0 else size // 3
    return size


def _batches(queries: Documents, keys: Documents) -> list[list[int]]:
    """The numbers of the documents of each batch; a long document is one of its own."""
    batches: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, lengths in enumerate(zip(queries.lengths, keys.lengths, strict=True)):
        alone = (number,) if lengths[1] > LONGEST_BATCHED else ()
        batches[(*map(_padded_length, lengths), *alone)].append(number)
    return list(batches.values())


def _places(documents: Documents, members: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The token at each place [documents, padded length] of a batch, and which places are not padding.

    A batch of equals needs no padding.
    """
    sizes = torch.tensor([documents.lengths[n] for n in members]).unsqueeze(1)
    starts = torch.tensor([0, *documents.lengths]).cumsum(0)[members].unsqueeze(1)
    offsets = torch.arange(int(sizes.max()))
    return (starts + torch.minimum(offsets, sizes - 1)).to(device), (offsets < sizes).to(device)


def _visible(context: Context, members: list[int], device: torch.device) -> Tensor:
    """[documents, 1, queries, keys]: whether a query sees a key; a document's queries are those of its last keys."""
    lengths = [(context.queries.lengths[n], context.keys.lengths[n]) for n in members]
    before = torch.tensor([keys - queries for queries, keys in lengths])
    last_nq = before.unsqueeze(1) + torch.arange(max(queries for queries, _ in lengths))
    return (torch.arange(max(keys for _, keys in lengths)) <= last_nq.unsqueeze(2)).unsqueeze(1).to(device)


def batched_attention(query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
    """The same for documents of one length, as a batch: on Hopper, torch has faster kernels for those (cuDNN's)."""
    key, value = (for_every_head(x, query.size(1)) for x in (key, value))
    q, k, v = (x.unflatten(0, (len(context.queries.lengths), -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(0, 1)


def sdpa_attention(query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
    """query [T, heads, dim_head], key and value [S, kv_heads, dim_head] -> [T, heads, dim_head]."""
    whole = context.queries is context.keys or context.queries.lengths == context.keys.lengths
    if whole and context.queries.equal:
        return batched_attention(query, key, value, context)
    key, value = (for_every_head(x, query.size(1)) for x in (key, value))
    outputs, order = [], []
    for members in _batches(context.queries, context.keys):
        of_queries, valid_nL = _places(context.queries, members, query.device)
        of_keys = of_queries if whole else _places(context.keys, members, query.device)[0]
        q, k, v = (
            x.index_select(0, places.flatten()).view(*places.shape, *x.shape[1:]).transpose(1, 2)
            for x, places in ((query, of_queries), (key, of_keys), (value, of_keys))
        )
        seen: dict[str, Any] = {"is_causal": True} if whole else {"attn_mask": _visible(context, members, query.device)}
        output_nLHd = F.scaled_dot_product_attention(q, k, v, **seen).transpose(1, 2)
        kept = valid_nL.flatten().nonzero().squeeze(1)
        outputs.append(output_nLHd.flatten(0, 1).index_select(0, kept))
        order.append(of_queries.flatten()[kept])
    return torch.cat(outputs).index_select(0, torch.cat(order).argsort())


KERNEL = Kernel("torch sdpa", everywhere, sdpa_attention)
