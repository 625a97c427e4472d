"""What BMTrain's OptimManager does to all gradients, in a few kernels where its own starts several for each."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor


def clip_grad_norm(
    self: Any, param_groups: Any, max_norm: float, norm_type: float | str = 2, eps: float = 1e-6
) -> Tensor:
    """`OptimManager.clip_grad_norm`: the norm over all ranks, loss scale taken out; its sums in the same order."""
    from bmtrain import nccl
    from bmtrain.global_var import config

    order, gradients = float(norm_type), gradients_of(param_groups)
    nothing = torch.zeros(1, device=next(param.device for group in param_groups for param in group["params"]))
    held = [gradient for gradient in gradients if gradient.numel()]  # a rank may hold nothing of a parameter
    norms = torch._foreach_norm(held, order, dtype=torch.float32) if held else ()
    if order == math.inf:
        total = functools.reduce(torch.maximum, norms, nothing)
    else:
        total = functools.reduce(torch.add, (torch.stack(norms) ** order).unbind() if norms else (), nothing)
    nccl.allReduce(total.storage(), total.storage(), "max" if order == math.inf else "sum", config["comm"])
    norm = total[0] if order == math.inf else total[0] ** (1 / order)
    factor = float(max_norm * self.loss_scale) / (norm + eps)
    if factor < 1:
        torch._foreach_mul_(gradients, float(factor))
    return norm / self.loss_scale


def zero_grad(self: Any) -> None:
    """`OptimManager.zero_grad`: gradients stay, since they are parts of the blocks' buffers."""
    for optimizer in self.optimizers:
        if gradients := gradients_of(optimizer.param_groups):
            torch._foreach_zero_(gradients)


def gradients_of(param_groups: Any) -> list[Tensor]:
    """All gradients that are there, without their graphs."""
    return [param.grad.detach() for group in param_groups for param in group["params"] if param.grad is not None]
