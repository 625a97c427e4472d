"""The feed-forward layer, gated (Shazeer, https://arxiv.org/abs/2002.05202) or as it was first."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.config import ModelConfig
from fm9g.model.context import Context
from fm9g.model.linear import Linear
from fm9g.runtime import bmt

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
}


class Input(bmt.DistributedModule):
    """act(w_0 x), times w_1 x where it is gated: [T, dim_model] -> [T, dim_ff]."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        shape = (config.dim_model, config.dim_ff, config.init_std, dtype, config.ffn_bias)
        self.w_0 = Linear(*shape, cut=0)
        self._gated, self._activate = config.ffn_gated, ACTIVATIONS[config.activate_fn]
        if self._gated:
            self.w_1 = Linear(*shape, cut=0)

    def forward(self, x_TD: Tensor) -> Tensor:
        activated = self._activate(self.w_0(x_TD))
        return activated * self.w_1(x_TD) if self._gated else activated


class FeedForward(bmt.DistributedModule):
    """[T, dim_model] -> [T, dim_model], of each rank its share of tokens."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.w_in = Input(config, dtype)
        self.w_out = Linear(config.dim_ff, config.dim_model, config.init_std, dtype, config.ffn_bias, cut=1)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        part_TD = self.w_out(self.w_in(context.split.all_for_parts(x_TD)))
        return self.w_out.with_bias(context.split.sum_of_parts(part_TD))
