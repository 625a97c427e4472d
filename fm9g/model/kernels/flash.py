"""flash-attn 2 (https://arxiv.org/abs/2307.08691), where it is installed."""

from __future__ import annotations

import torch
from torch import Tensor

from fm9g.model.context import Context
from fm9g.model.kernels.kernel import Kernel, half_on_cuda


def _supports(dtype: torch.dtype, on_cuda: bool) -> bool:
    if not half_on_cuda(dtype, on_cuda):
        return False
    try:
        import flash_attn  # noqa: F401
    except ImportError:
        return False
    return True


def flash_attention(query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
    """query [T, heads, dim_head], key and value [T, kv_heads, dim_head] -> [T, heads, dim_head]."""
    from flash_attn import flash_attn_varlen_func

    queries, keys = context.queries, context.keys
    return flash_attn_varlen_func(
        query, key, value, queries.cu_seqlens, keys.cu_seqlens, queries.longest, keys.longest, causal=True
    )


KERNEL = Kernel("flash-attn", _supports, flash_attention)
