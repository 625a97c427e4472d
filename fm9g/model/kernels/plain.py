"""The reference: attention written out."""

from __future__ import annotations

import torch
from torch import Tensor

from fm9g.model.context import Context
from fm9g.model.kernels.kernel import Kernel, Scores, everywhere, for_every_head, visible
from fm9g.model.softcap import capped


def plain_attention(query: Tensor, key: Tensor, value: Tensor, context: Context, scores: Scores) -> Tensor:
    """softmax(q kᵀ · scale) v of each document, in float32; its queries are those of the last keys."""
    heads, bounds = query.size(1), (context.queries, context.keys, context.keys)
    parts = (x.float().split(of.lengths) for x, of in zip((query, key, value), bounds, strict=True))
    outputs = []
    for q, k, v in zip(*parts, strict=True):
        k, v = (for_every_head(x, heads) for x in (k, v))
        places = torch.arange(k.size(0), device=q.device)
        outputs.append(attended(q, k, v, places[-q.size(0) :], places, scores))
    return torch.cat(outputs).to(query.dtype)


def attended(q_qhd: Tensor, k_khd: Tensor, v_khd: Tensor, at_q: Tensor, at_k: Tensor, scores: Scores) -> Tensor:
    """[q, heads, dim_head] of queries and keys at these places of one document."""
    scored = capped(torch.einsum("thd,shd->hts", q_qhd, k_khd) * scores.scale, scores.softcap)
    seen = visible(at_q[:, None], at_k, scores.window)
    weights = scored.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hts,shd->thd", weights, v_khd)


KERNEL = Kernel("plain", everywhere, plain_attention)
