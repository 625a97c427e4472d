"""A feed-forward layer of experts, of which a router chooses some for each token (Shazeer et al.,
https://arxiv.org/abs/1701.06538), as Mixtral (https://arxiv.org/abs/2401.04088) and Qwen have it.

Every token gets all the experts that are chosen for it: they have no capacity, and no token is dropped.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fm9g.model.config import ModelConfig
from fm9g.model.context import Context
from fm9g.model.feedforward import ACTIVATIONS, FeedForward
from fm9g.model.grouped import GroupedLinear, Groups, Taken
from fm9g.model.linear import Linear, normal_parameter
from fm9g.runtime import bmt


class Stacked(bmt.DistributedModule):
    """A linear layer of each expert: [N, dim_in] -> [N, dim_out], each row by its group's; the weight is
    [experts * dim_out, dim_in]."""

    def __init__(self, config: ModelConfig, dim_in: int, dim_out: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = normal_parameter((config.num_experts * dim_out, dim_in), config.init_std, dtype)

    def forward(self, x_ND: Tensor, groups: Groups) -> Tensor:
        result: Tensor = GroupedLinear.apply(x_ND, self.weight, groups)  # type: ignore[no-untyped-call]
        return result


class StackedInput(bmt.DistributedModule):
    """act(w_0 x) * w_1 x of each row's expert: [N, dim_model] -> [N, dim_expert]."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.w_0 = Stacked(config, config.dim_model, config.dim_expert, dtype)
        self.w_1 = Stacked(config, config.dim_model, config.dim_expert, dtype)
        self._activate = ACTIVATIONS[config.activate_fn]

    def forward(self, x_ND: Tensor, groups: Groups) -> Tensor:
        return self._activate(self.w_0(x_ND, groups)) * self.w_1(x_ND, groups)


class StackedFeedForward(bmt.DistributedModule):
    """[N, dim_model] -> [N, dim_model], each row by its group's expert."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.w_in = StackedInput(config, dtype)
        self.w_out = Stacked(config, config.dim_expert, config.dim_model, dtype)

    def forward(self, x_ND: Tensor, groups: Groups) -> Tensor:
        result: Tensor = self.w_out(self.w_in(x_ND, groups), groups)
        return result


class Experts(bmt.DistributedModule):
    """[T, dim_model] -> [T, dim_model], and what the router adds to the context's balance; None where it has none.

    Σ of the chosen experts' outputs, each times its probability among all experts, or among those that are chosen
    (norm_expert_weights); with a shared expert, plus its output times sigmoid(shared_expert_gate x)
    (https://arxiv.org/abs/2407.10671, section 2.2.2).
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.router = Linear(config.dim_model, config.num_experts, config.init_std, dtype)
        self.experts = StackedFeedForward(config, dtype)
        self._num_experts, self._per_token = config.num_experts, config.experts_per_token
        self._sums_to_one, self._has_shared = config.norm_expert_weights, config.dim_shared_expert > 0
        if self._has_shared:
            self.shared_expert = FeedForward(dataclasses.replace(config, dim_ff=config.dim_shared_expert), dtype)
            self.shared_expert_gate = Linear(config.dim_model, 1, config.init_std, dtype)

    def forward(self, x_TD: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        scores_TE = self.router(x_TD).softmax(-1, dtype=torch.float32)
        weights_Tk, chosen_Tk = scores_TE.topk(self._per_token, dim=-1)
        if self._sums_to_one:
            weights_Tk = weights_Tk / weights_Tk.sum(-1, keepdim=True)
        y_TD = self._sum_of_chosen(x_TD, weights_Tk.to(x_TD.dtype), chosen_Tk)
        if self._has_shared:
            y_TD = y_TD + self.shared_expert_gate(x_TD).sigmoid() * self.shared_expert(x_TD, context)
        return y_TD, None if context.balance is None else context.balance.of_layer(scores_TE, chosen_Tk)

    def _sum_of_chosen(self, x_TD: Tensor, weights_Tk: Tensor, chosen_Tk: Tensor) -> Tensor:
        """Tokens are sorted by expert, once for each that is theirs, and what comes out is put back in their order."""
        sorted_N, order = chosen_Tk.flatten().sort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        numbers = torch.arange(self._num_experts, device=order.device)
        groups = Groups(torch.searchsorted(sorted_N, numbers, right=True, out_int32=True))
        x_ND = Taken.apply(x_TD, order, inverse, self._per_token)  # type: ignore[no-untyped-call]
        y_ND = Taken.apply(self.experts(x_ND, groups), inverse, order, 1)  # type: ignore[no-untyped-call]
        y_TkD = y_ND.view(*chosen_Tk.shape, -1)
        return torch.bmm(weights_Tk[:, None], y_TkD).squeeze(1)
