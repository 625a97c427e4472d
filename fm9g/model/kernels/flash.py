"""flash-attn 2 (https://arxiv.org/abs/2307.08691), where it is installed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fm9g.model.context import Context
from fm9g.model.kernels.kernel import Kernel, Scores, half_on_cuda, parameters_of


def _supports(dtype: torch.dtype, on_cuda: bool, scores: Scores) -> bool:
    """Softcaps since 2.6, windows since 2.3."""
    if not half_on_cuda(dtype, on_cuda):
        return False
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return False
    return set(_told(scores)) <= parameters_of(flash_attn_varlen_func)


def _told(scores: Scores) -> dict[str, Any]:
    """What is told of scores, where it is not as usual."""
    told: dict[str, Any] = {"softmax_scale": scores.scale}
    if scores.window:
        told["window_size"] = (scores.window - 1, 0)
    if scores.softcap:
        told["softcap"] = scores.softcap
    return told


def flash_attention(query: Tensor, key: Tensor, value: Tensor, context: Context, scores: Scores) -> Tensor:
    """query [T, heads, dim_head], key and value [T, kv_heads, dim_head] -> [T, heads, dim_head]."""
    from flash_attn import flash_attn_varlen_func

    queries, keys = context.queries, context.keys
    return flash_attn_varlen_func(
        *(query, key, value, queries.cu_seqlens, keys.cu_seqlens, queries.longest, keys.longest),
        causal=True,
        **_told(scores),
    )


KERNEL = Kernel("flash-attn", _supports, flash_attention)
