"""The reference: attention written out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fm9g.model.context import Context
from fm9g.model.kernels.kernel import Kernel, everywhere, for_every_head


def plain_attention(query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
    """softmax(q kᵀ / √d) v of each document, in float32; its queries are those of the last keys."""
    heads, bounds = query.size(1), (context.queries, context.keys, context.keys)
    parts = (x.float().split(of.lengths) for x, of in zip((query, key, value), bounds, strict=True))
    outputs = []
    for q, k, v in zip(*parts, strict=True):
        k, v = (for_every_head(x, heads) for x in (k, v))
        scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(q.size(-1))
        before = k.size(0) - q.size(0)  # keys before the first query
        future = torch.ones(q.size(0), k.size(0), dtype=torch.bool, device=q.device).triu(1 + before)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hts,shd->thd", weights, v))
    return torch.cat(outputs).to(query.dtype)


KERNEL = Kernel("plain", everywhere, plain_attention)
