"""Causal attention over packed documents, with the best kernel that is there."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fm9g.model.config import ModelConfig
from fm9g.model.linear import Linear
from fm9g.model.packed import Packed
from fm9g.model.rotary import rotate
from fm9g.model.sdpa import batched_attention, for_every_head, sdpa_attention
from fm9g.runtime import bmt

# query [T, heads, dim_head], key and value [T, kv_heads, dim_head] -> [T, heads, dim_head]
Kernel = Callable[[Tensor, Tensor, Tensor, Packed], Tensor]


def plain_attention(query: Tensor, key: Tensor, value: Tensor, packed: Packed) -> Tensor:
    """The reference: softmax(q kᵀ / √d) v of each document, in float32."""
    groups = query.size(1) // key.size(1)
    outputs = []
    for q, k, v in zip(*(x.float().split(packed.lengths) for x in (query, key, value)), strict=True):
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(q.size(-1))
        future = torch.ones(q.size(0), q.size(0), dtype=torch.bool, device=q.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hts,shd->thd", weights, v))
    return torch.cat(outputs).to(query.dtype)


def _flash_attention() -> Kernel | None:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None

    def attention(query: Tensor, key: Tensor, value: Tensor, packed: Packed) -> Tensor:
        bounds, longest = packed.cu_seqlens, packed.longest
        return flash_attn_varlen_func(query, key, value, bounds, bounds, longest, longest, causal=True)

    return attention


def _torch_varlen_attention() -> Kernel | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    takes = set(inspect.signature(varlen_attn).parameters)
    if "window_size" not in takes:
        return None
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in takes else {}

    def attention(query: Tensor, key: Tensor, value: Tensor, packed: Packed) -> Tensor:
        if packed.equal:
            return batched_attention(query, key, value, packed)
        bounds, longest = packed.cu_seqlens, packed.longest
        if not grouped:
            key, value = (for_every_head(x, query.size(1)) for x in (key, value))
        output = varlen_attn(query, key, value, bounds, bounds, longest, longest, window_size=(-1, 0), **grouped)
        assert isinstance(output, Tensor)
        return output

    return attention


def choose_kernel(flash: str, dtype: torch.dtype, on_cuda: bool) -> tuple[str, Kernel]:
    """The kernel for the setting `flash` (cuda or none) and its name.

    flash-attn 2 and torch's varlen attention take half types on CUDA only.
    """
    if flash == "none":
        return "plain", plain_attention
    assert flash == "cuda", flash
    if on_cuda and dtype in (torch.float16, torch.bfloat16):
        for name, find in (("flash-attn", _flash_attention), ("torch varlen", _torch_varlen_attention)):
            kernel = find()
            if kernel is not None:
                return name, kernel
    return "torch sdpa", sdpa_attention


class Attention(bmt.DistributedModule):
    """Multi-head (or grouped-query) self-attention: [T, dim_model] -> [T, dim_model]."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, kernel: Kernel) -> None:
        super().__init__()
        self.dim_head, self._kernel = config.dim_head, kernel
        heads, kv_heads = config.num_heads * config.dim_head, config.num_kv_heads * config.dim_head
        self.project_q = Linear(config.dim_model, heads, config.init_std, dtype)
        self.project_k = Linear(config.dim_model, kv_heads, config.init_std, dtype)
        self.project_v = Linear(config.dim_model, kv_heads, config.init_std, dtype)
        self.attention_out = Linear(heads, config.dim_model, config.init_std, dtype)

    def forward(self, x_TD: Tensor, cos: Tensor, sin: Tensor, packed: Packed) -> Tensor:
        query, key, value = (
            project(x_TD).unflatten(-1, (-1, self.dim_head))
            for project in (self.project_q, self.project_k, self.project_v)
        )
        output = self._kernel(rotate(query, cos, sin), rotate(key, cos, sin), value, packed)
        return self.attention_out(output.flatten(1))
