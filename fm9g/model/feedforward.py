"""The gated feed-forward layer (Shazeer, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.config import ModelConfig
from fm9g.model.context import Context
from fm9g.model.linear import Linear
from fm9g.runtime import bmt

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu}


class GatedInput(bmt.DistributedModule):
    """act(w_0 x) * w_1 x: [T, dim_model] -> [T, dim_ff]."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.w_0 = Linear(config.dim_model, config.dim_ff, config.init_std, dtype, cut=0)
        self.w_1 = Linear(config.dim_model, config.dim_ff, config.init_std, dtype, cut=0)
        self._activate = ACTIVATIONS[config.activate_fn]

    def forward(self, x_TD: Tensor) -> Tensor:
        return self._activate(self.w_0(x_TD)) * self.w_1(x_TD)


class FeedForward(bmt.DistributedModule):
    """[T, dim_model] -> [T, dim_model], of each rank its share of tokens."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.w_in = GatedInput(config, dtype)
        self.w_out = Linear(config.dim_ff, config.dim_model, config.init_std, dtype, cut=1)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        return context.split.sum_of_parts(self.w_out(self.w_in(context.split.all_for_parts(x_TD))))
