"""What an attention kernel is, and what kernels share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fm9g.model.context import Context

# query [T, heads, dim_head], key and value [T, kv_heads, dim_head] -> [T, heads, dim_head]
Attend = Callable[[Tensor, Tensor, Tensor, Context], Tensor]


class Kernel(NamedTuple):
    """Causal attention within each document of a strip, and where it can run."""

    name: str
    supports: Callable[[torch.dtype, bool], bool]  # (dtype, on_cuda)
    attend: Attend


def half_on_cuda(dtype: torch.dtype, on_cuda: bool) -> bool:
    """What flash attention is written for."""
    return on_cuda and dtype in (torch.float16, torch.bfloat16)


def everywhere(dtype: torch.dtype, on_cuda: bool) -> bool:
    """Of a kernel that is torch operations alone."""
    return True


def for_every_head(x_TGd: Tensor, heads: int) -> Tensor:
    """Keys or values of groups of queries, repeated: [T, kv_heads, dim_head] -> [T, heads, dim_head]."""
    groups = heads // x_TGd.size(1)
    return x_TGd.repeat_interleave(groups, dim=1) if groups > 1 else x_TGd
