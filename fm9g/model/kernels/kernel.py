"""What an attention kernel is, and what kernels share."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fm9g.model.config import ModelConfig
from fm9g.model.context import Context


class Scores(NamedTuple):
    """What becomes of the product of a query and a key before the softmax."""

    scale: float  # it is multiplied by this
    window: int = 0  # only the last so many keys, the token's own among them, are seen; 0: all of the document's
    softcap: float = 0.0  # and becomes softcap * tanh(score / softcap); 0: it stays

    @classmethod
    def of(cls, config: ModelConfig, layer: int) -> Scores:
        """Those of a layer."""
        return cls(
            config.attention_scale or 1 / math.sqrt(config.dim_head), config.windows[layer], config.attention_softcap
        )


class Attend(Protocol):
    """Causal attention within each document of a strip."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, context: Context, scores: Scores) -> Tensor:
        """query [T, heads, dim_head], key and value [T, kv_heads, dim_head] -> [T, heads, dim_head]."""


class Kernel(NamedTuple):
    """A way to attend, and where it can run."""

    name: str
    supports: Callable[[torch.dtype, bool, Scores], bool]  # (dtype, on_cuda, scores)
    attend: Attend


def half_on_cuda(dtype: torch.dtype, on_cuda: bool) -> bool:
    """What flash attention is written for."""
    return on_cuda and dtype in (torch.float16, torch.bfloat16)


@functools.cache
def parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    """What a function of another library can be told, which differs between its versions."""
    return frozenset(inspect.signature(function).parameters)


def capless(dtype: torch.dtype, on_cuda: bool, scores: Scores) -> bool:
    """Of a kernel that is torch operations alone, but knows no softcap."""
    return not scores.softcap


def everywhere(dtype: torch.dtype, on_cuda: bool, scores: Scores) -> bool:
    """Of a kernel that is torch operations alone."""
    return True


def for_every_head(x_TGd: Tensor, heads: int) -> Tensor:
    """Keys or values of groups of queries, repeated: [T, kv_heads, dim_head] -> [T, heads, dim_head]."""
    groups = heads // x_TGd.size(1)
    return x_TGd.repeat_interleave(groups, dim=1) if groups > 1 else x_TGd


def visible(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Places of queries [..., q, 1] and keys [k] in a document -> whether a query sees a key, [..., q, k]."""
    seen = keys <= queries
    return seen & (keys > queries - window) if window else seen
