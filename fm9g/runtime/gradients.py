"""What BMTrain's OptimManager does to all gradients, in a few kernels where its own starts several for each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def clip_grad_norm(original: Callable[..., Any]) -> Callable[..., Any]:
    """`OptimManager.clip_grad_norm` for the 2-norm; the wrapped one for others. Same sums, in the same order."""

    def clip(self: Any, param_groups: Any, max_norm: float, norm_type: float | str = 2, eps: float = 1e-6) -> Tensor:
        gradients = gradients_of(param_groups)
        if norm_type != 2 or not gradients:
            return original(self, param_groups, max_norm, norm_type, eps)
        from bmtrain import nccl
        from bmtrain.global_var import config

        norms = torch._foreach_norm(gradients, 2, dtype=torch.float32)
        squares = torch.stack(norms).square()
        total = functools.reduce(torch.add, squares.unbind(), squares.new_zeros(1))
        nccl.allReduce(total.storage(), total.storage(), "sum", config["comm"])
        norm = total[0] ** 0.5
        factor = float(max_norm * self.loss_scale) / (norm + eps)
        if factor < 1:
            torch._foreach_mul_(gradients, float(factor))
        return norm / self.loss_scale

    return clip


def zero_grad(self: Any) -> None:
    """`OptimManager.zero_grad`: gradients stay, since they are parts of the blocks' buffers."""
    for optimizer in self.optimizers:
        if gradients := gradients_of(optimizer.param_groups):
            torch._foreach_zero_(gradients)


def gradients_of(param_groups: Any) -> list[Tensor]:
    """All gradients that are there, without their graphs."""
    return [param.grad.detach() for group in param_groups for param in group["params"] if param.grad is not None]
