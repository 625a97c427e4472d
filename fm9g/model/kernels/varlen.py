"""torch's own flash attention over documents of any length, in the torch versions that have it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fm9g.model.context import Context
from fm9g.model.kernels.kernel import Kernel, for_every_head, half_on_cuda
from fm9g.model.kernels.sdpa import batched_attention


@functools.cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _supports(dtype: torch.dtype, on_cuda: bool) -> bool:
    """Its first version, which has no window_size, has another setting for causal attention."""
    if not half_on_cuda(dtype, on_cuda):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "window_size" in _parameters(varlen_attn)


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
    """query [T, heads, dim_head], key and value [T, kv_heads, dim_head] -> [T, heads, dim_head]."""
    from torch.nn.attention.varlen import varlen_attn

    queries, keys = context.queries, context.keys
    if queries.equal and queries.lengths == keys.lengths:
        return batched_attention(query, key, value, context)
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in _parameters(varlen_attn) else {}
    if not grouped:
        key, value = (for_every_head(x, query.size(1)) for x in (key, value))
    output = varlen_attn(
        *(query, key, value, queries.cu_seqlens, keys.cu_seqlens, queries.longest, keys.longest),
        window_size=(-1, 0),
        **grouped,
    )
    assert isinstance(output, Tensor)
    return output


KERNEL = Kernel("torch varlen", _supports, varlen_attention)
