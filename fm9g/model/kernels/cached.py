"""A new token of each row, and all that the row has so far."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.kernels.kernel import Scores
from fm9g.model.softcap import capped

_AT_ONCE = 2**24  # values of keys that are in memory as float32 at a time


def cached_attention(
    q_RHd: Tensor, keys_RGLd: Tensor, values_RGLd: Tensor, visible_RL: Tensor | None, scores: Scores
) -> Tensor:
    """query [rows, heads, dim_head], keys and values [rows, kv_heads, longest, dim_head] -> [rows, heads, dim_head].

    `visible`: which places hold a token that is seen; None where all do. The queries that share a head of keys go as
    if they were tokens of a row, so that no key is repeated.
    """
    q_RGqd = q_RHd.unflatten(1, (keys_RGLd.size(1), -1))
    mask = None if visible_RL is None else visible_RL[:, None, None]
    if not scores.softcap:
        found = F.scaled_dot_product_attention(q_RGqd, keys_RGLd, values_RGLd, attn_mask=mask, scale=scores.scale)
        return found.flatten(1, 2)
    rows = max(1, _AT_ONCE // keys_RGLd[0].numel())
    parts = [x.split(rows) for x in (q_RGqd, keys_RGLd, values_RGLd)]
    masks = [None] * len(parts[0]) if mask is None else mask.split(rows)
    outputs = [_attended(q, k, v, seen, scores) for q, k, v, seen in zip(*parts, masks, strict=True)]
    return torch.cat(outputs).flatten(1, 2)


def _attended(q_RGqd: Tensor, k_RGLd: Tensor, v_RGLd: Tensor, seen: Tensor | None, scores: Scores) -> Tensor:
    """Some of the rows, [rows, kv_heads, queries, dim_head]: in float32 until the end, as prompts are attended to, for
    scores that are rounded to half precision are further off than all that follows."""
    scored = capped(q_RGqd.float() @ k_RGLd.float().transpose(2, 3) * scores.scale, scores.softcap)
    if seen is not None:
        scored = scored.masked_fill(~seen, float("-inf"))
    return (scored.softmax(-1) @ v_RGLd.float()).to(q_RGqd.dtype)
