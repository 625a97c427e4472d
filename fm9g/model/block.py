"""A transformer block: attention and feed-forward, each behind a norm and a residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.attention import Attention
from fm9g.model.config import ModelConfig
from fm9g.model.context import Context
from fm9g.model.experts import Experts
from fm9g.model.feedforward import FeedForward
from fm9g.model.kernels.kernel import Attend, Scores
from fm9g.model.norm import norm
from fm9g.runtime import bmt


class SelfAttentionBranch(bmt.DistributedModule):
    """Norm and attention, and a norm again (branch_norm): the residual's first branch."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, attend: Attend, scores: Scores) -> None:
        super().__init__()
        self.layernorm_before_attention = norm(config, dtype)
        self.self_attention = Attention(config, dtype, attend, scores)
        self._ends_with_norm = config.branch_norm
        if config.branch_norm:
            self.layernorm_after_attention = norm(config, dtype)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        x_TD = self.self_attention(self.layernorm_before_attention(x_TD), context)
        return self.layernorm_after_attention(x_TD) if self._ends_with_norm else x_TD


class FeedForwardBranch(bmt.DistributedModule):
    """Norm and feed-forward, and a norm again (branch_norm): the residual's second branch; of experts as Experts gives
    it."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.layernorm_before_ffn = norm(config, dtype)
        self.ffn = Experts(config, dtype) if config.num_experts else FeedForward(config, dtype)
        self._ends_with_norm = config.branch_norm
        if config.branch_norm:
            self.layernorm_after_ffn = norm(config, dtype)

    def forward(self, x_TD: Tensor, context: Context) -> Any:
        x_TD = self.ffn(self.layernorm_before_ffn(x_TD), context)
        return self.layernorm_after_ffn(x_TD) if self._ends_with_norm else x_TD


class TransformerBlock(bmt.DistributedModule):
    """[T, dim_model] -> [T, dim_model]; branches are scaled (muP) and dropped out before they are added."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, attend: Attend, scores: Scores) -> None:
        super().__init__()
        self.self_att = SelfAttentionBranch(config, dtype, attend, scores)
        self.ffn = FeedForwardBranch(config, dtype)
        self._scale, self._dropout_p = config.residual_scale, config.dropout_p

    def _add(self, x_TD: Tensor, branch_TD: Tensor) -> Tensor:
        if self._dropout_p:
            branch_TD = F.dropout(branch_TD, self._dropout_p, self.training)
        return torch.add(x_TD, branch_TD, alpha=self._scale)

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        x_TD = self._add(x_TD, self.self_att(x_TD, context))
        return self._add(x_TD, self.ffn(x_TD, context))


class RoutedBlock(TransformerBlock):
    """A block of experts. Beside the hidden states goes what the routers so far have chosen, [2, experts]."""

    def forward(  # type: ignore[override]
        self, x_TD: Tensor, routed_2E: Tensor, context: Context
    ) -> tuple[Tensor, Tensor]:
        x_TD = self._add(x_TD, self.self_att(x_TD, context))
        branch_TD, own_2E = self.ffn(x_TD, context)
        return self._add(x_TD, branch_TD), routed_2E if own_2E is None else routed_2E + own_2E
