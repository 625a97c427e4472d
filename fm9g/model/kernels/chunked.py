"""Attention a chunk of queries at a time, its scores computed again in backward: for what no faster kernel knows.

No document's scores lie in memory at once, only those of CHUNK queries with the keys that they can see.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fm9g.model.context import Context
from fm9g.model.kernels.kernel import Kernel, Scores, everywhere, for_every_head
from fm9g.model.kernels.plain import attended

CHUNK = 256


def chunked_attention(query: Tensor, key: Tensor, value: Tensor, context: Context, scores: Scores) -> Tensor:
    """As the plain reference, of which each chunk is a part."""
    heads, bounds = query.size(1), (context.queries, context.keys, context.keys)
    parts = (x.split(of.lengths) for x, of in zip((query, key, value), bounds, strict=True))
    outputs = []
    for q, k, v in zip(*parts, strict=True):
        places = torch.arange(k.size(0), device=q.device)
        before = k.size(0) - q.size(0)
        for start in range(0, q.size(0), CHUNK):
            stop = min(start + CHUNK, q.size(0))
            first = max(0, before + start + 1 - scores.window) if scores.window else 0
            at = slice(first, before + stop)
            at_q = places[before + start : before + stop]
            outputs.append(
                checkpoint(_attended, q[start:stop], k[at], v[at], at_q, places[at], heads, scores, use_reentrant=False)
            )
    return torch.cat(outputs)


def _attended(q: Tensor, k: Tensor, v: Tensor, at_q: Tensor, at_k: Tensor, heads: int, scores: Scores) -> Tensor:
    k, v = (for_every_head(x.float(), heads) for x in (k, v))
    return attended(q.float(), k, v, at_q, at_k, scores).to(q.dtype)


KERNEL = Kernel("chunked", everywhere, chunked_attention)
