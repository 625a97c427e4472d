"""A new token of each row, and all that the row has so far."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.kernels.kernel import Scores
from fm9g.model.softcap import capped


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
    scored = capped((q_RGqd @ keys_RGLd.transpose(2, 3)).float() * scores.scale, scores.softcap)
    if mask is not None:
        scored = scored.masked_fill(~mask, float("-inf"))
    return (torch.softmax(scored, -1).to(q_RHd.dtype) @ values_RGLd).flatten(1, 2)
