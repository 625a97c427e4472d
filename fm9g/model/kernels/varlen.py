"""torch's own flash attention over documents of any length, in the torch versions that have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fm9g.model.context import Context
from fm9g.model.kernels.kernel import Kernel, Scores, for_every_head, half_on_cuda, parameters_of
from fm9g.model.kernels.sdpa import batched_attention


def _supports(dtype: torch.dtype, on_cuda: bool, scores: Scores) -> bool:
    """Its first version, which has no window_size, has another setting for causal attention."""
    if scores.softcap or not half_on_cuda(dtype, on_cuda):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "scale"} <= parameters_of(varlen_attn)


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, context: Context, scores: Scores) -> Tensor:
    """query [T, heads, dim_head], key and value [T, kv_heads, dim_head] -> [T, heads, dim_head]."""
    from torch.nn.attention.varlen import varlen_attn

    queries, keys = context.queries, context.keys
    if queries.equal and queries.lengths == keys.lengths and not 0 < scores.window < queries.longest:
        return batched_attention(query, key, value, context, scores)
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in parameters_of(varlen_attn) else {}
    if not grouped:
        key, value = (for_every_head(x, query.size(1)) for x in (key, value))
    output = varlen_attn(
        *(query, key, value, queries.cu_seqlens, keys.cu_seqlens, queries.longest, keys.longest),
        window_size=(scores.window - 1, 0),  # -1: all
        scale=scores.scale,
        **grouped,
    )
    assert isinstance(output, Tensor)
    return output


KERNEL = Kernel("torch varlen", _supports, varlen_attention)
