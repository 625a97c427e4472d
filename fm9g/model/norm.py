"""Normalisation: root mean squares (Zhang & Sennrich, https://arxiv.org/abs/1910.07467), or layers as they were first
(Ba et al., https://arxiv.org/abs/1607.06450). Computed in float32 and rounded once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.config import ModelConfig
from fm9g.model.linear import sharded_parameter
from fm9g.runtime import bmt


class RMSNorm(bmt.DistributedModule):
    """x / rms(x) * weight over the last dimension."""

    initialize: Callable[[Tensor], object] = staticmethod(torch.nn.init.ones_)

    def __init__(self, dim: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = sharded_parameter((dim,), dtype, self.initialize)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.dim,), self.weight, self.eps)


class RaisedRMSNorm(RMSNorm):
    """x / rms(x) * (1 + weight), as Gemma has it: weight decay draws towards 1, and 1 + weight is never rounded."""

    initialize = staticmethod(torch.nn.init.zeros_)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (self.dim,), 1 + self.weight.float(), self.eps).to(x.dtype)


class LayerNorm(RMSNorm):
    """(x - mean(x)) / std(x) * weight + bias."""

    def __init__(self, dim: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__(dim, eps, dtype)
        self.bias = sharded_parameter((dim,), dtype, torch.nn.init.zeros_)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.dim,), self.weight, self.bias, self.eps)


NORMS: dict[str, type[RMSNorm]] = {"rms": RMSNorm, "rms_1p": RaisedRMSNorm, "layer": LayerNorm}


def norm(config: ModelConfig, dtype: torch.dtype, dim: int = 0) -> RMSNorm:
    """The model's kind of norm, of hidden states unless `dim` says of what."""
    return NORMS[config.norm](dim or config.dim_model, config.eps, dtype)
