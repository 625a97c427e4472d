"""Causal self-attention over packed documents."""

from __future__ import annotations

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.model import alibi
from fm9g.model.config import ModelConfig
from fm9g.model.context import Context
from fm9g.model.cut import cuts_keys, part
from fm9g.model.kernels.cached import cached_attention
from fm9g.model.kernels.kernel import Attend, Scores
from fm9g.model.linear import Linear
from fm9g.model.norm import norm
from fm9g.model.rotary import rotate
from fm9g.model.shifted import shifted_attention
from fm9g.runtime import bmt, tensor_parallel


class Attention(bmt.DistributedModule):
    """Multi-head (or grouped-query) self-attention: [T, dim_model] -> [T, dim_model], of each rank its share of tokens.

    Each rank of a tensor-parallel group attends with a share of the heads. Where there are more ranks than key heads,
    all compute every key and value, and take those of their queries.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, attend: Attend, scores: Scores) -> None:
        super().__init__()
        self.dim_head, self._attend, self._scores = config.dim_head, attend, scores
        heads, kv_heads = config.num_heads * config.dim_head, config.num_kv_heads * config.dim_head
        self._cuts_keys = cuts_keys(config, tensor_parallel.size())
        cut = 0 if self._cuts_keys else None
        self.project_q = Linear(config.dim_model, heads, config.init_std, dtype, config.qkv_bias, cut=0)
        self.project_k = Linear(config.dim_model, kv_heads, config.init_std, dtype, config.qkv_bias, cut)
        self.project_v = Linear(config.dim_model, kv_heads, config.init_std, dtype, config.qkv_bias, cut)
        self._norms_heads = config.qk_norm
        if config.qk_norm:
            self.q_norm, self.k_norm = (norm(config, dtype, config.dim_head) for _ in range(2))
        self.attention_out = Linear(heads, config.dim_model, config.init_std, dtype, config.out_bias, cut=1)
        own = part(config.num_heads, tensor_parallel.size())
        self._unshifted = min(max(config.num_heads // 2 - tensor_parallel.rank() * own, 0), own)
        self._scaled_slopes = _own_scaled_slopes(config, scores) if config.position == "alibi" else None

    def forward(self, x_TD: Tensor, context: Context) -> Tensor:
        x_TD = context.split.all_for_parts(x_TD)
        query, key, value = (
            project(x_TD).unflatten(-1, (-1, self.dim_head))
            for project in (self.project_q, self.project_k, self.project_v)
        )
        if not self._cuts_keys:
            key, value = (context.split.own_head(heads) for heads in (key, value))
        if self._norms_heads:
            query, key = self.q_norm(query), self.k_norm(key)
        output = self._attended(*self._placed(query, key, value, context), context)[..., : self.dim_head]
        return self.attention_out.with_bias(context.split.sum_of_parts(self.attention_out(output.flatten(1))))

    def _placed(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """With what tells the kernel where each token stands."""
        if self._scaled_slopes is not None:
            return alibi.appended(query, key, value, self._scaled_slopes, *context.places)
        cos, sin = context.places
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
        """[T, heads, dim_head]; what is in a cache before these tokens is attended to as well."""
        if context.groups is not None:
            return shifted_attention(self._attend, query, key, value, context, self._scores, self._unshifted)
        if context.cache is None:
            return self._attend(query, key, value, context, self._scores)
        held = context.cache.add(self, key, value)
        if context.cache.begins:
            return self._attend(query, key, value, context, self._scores)
        return cached_attention(query, *held, context.cache.visible(self._scores.window), self._scores)


def _own_scaled_slopes(config: ModelConfig, scores: Scores) -> Tensor:
    """[heads] of this rank, divided by what its products are multiplied by; on the device, as every layer asks."""
    own = part(config.num_heads, tensor_parallel.size())
    slopes_H = alibi.slopes(config.num_heads).narrow(0, tensor_parallel.rank() * own, own)
    return (slopes_H / scores.scale).to(runtime.device())
