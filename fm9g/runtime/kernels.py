"""BMTrain's compiled kernels over torch operations, on CPU or GPU.

This module takes the places of `bmtrain.loss._function` (cross-entropy, overflow check) and
`bmtrain.optim._function` (casts); Adam itself is in fm9g/runtime/adam.py. Formulas are those of BMTrain's
csrc/cuda/cross_entropy.cu.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_MAXIMUM = -1e6  # keeps a row of -inf logits finite
SUM_EPSILON = 1e-10  # keeps its log finite


def bf16_from_fp32(param_fp32: Tensor) -> Tensor:
    """Round to bfloat16, nearest even."""
    return param_fp32.to(torch.bfloat16)


def fp16_from_fp32(param_fp32: Tensor) -> Tensor:
    """Round to float16, nearest even."""
    return param_fp32.to(torch.float16)


def has_inf_nan(g_half: Tensor, out: Tensor) -> None:
    """Set the uint8 scalar `out` to 1 if any element of `g_half` is infinite or not a number."""
    if g_half.numel():
        low, high = torch.aminmax(g_half)
        out.bitwise_or_((~(torch.isfinite(low) & torch.isfinite(high))).to(torch.uint8))


def cross_entropy_forward(
    m: int, n: int, input: Tensor, target: Tensor, softmax: Tensor, output: Tensor, ignore_index: int
) -> None:
    """Write softmax(input) [m, n] and the loss of each row [m], 0 where target is ignore_index."""
    logits = input.view(m, n).float()
    highest = logits.max(dim=1, keepdim=True).values.clamp_min_(LEAST_MAXIMUM)
    exponent = (logits - highest).exp_()
    total = exponent.sum(dim=1, keepdim=True) + SUM_EPSILON
    softmax.view(m, n).copy_(exponent.div_(total))
    valid = target != ignore_index
    chosen = logits.gather(1, torch.where(valid, target, 0).long().unsqueeze(1))
    output.copy_(torch.where(valid, (highest + total.log() - chosen).squeeze(1), 0.0))


def cross_entropy_backward_inplace(
    m: int, n: int, grad_output: Tensor, target: Tensor, x: Tensor, ignore_index: int
) -> None:
    """Turn the softmax in `x` [m, n] into the gradient of the logits, given that of the losses [m]."""
    valid = (target != ignore_index) & (target >= 0) & (target < n)
    column = torch.where(valid, target, 0).long().unsqueeze(1)
    gradient = x.view(m, n).float()
    gradient.scatter_add_(1, column, -valid.to(gradient.dtype).unsqueeze(1))
    x.view(m, n).copy_(gradient.mul_(grad_output.view(m, 1)))


def fused_sumexp(logits: Tensor, max_logits: Tensor) -> Tensor:
    """Sum of exp(logits - max_logits) over the vocabulary: [m, n], [m] -> [m] in float32."""
    return (logits.float() - max_logits.unsqueeze(1)).exp_().sum(dim=1)


def fused_softmax_inplace(logits: Tensor, max_logits: Tensor, sum_exp_logits: Tensor) -> None:
    """Replace logits [m, n] by exp(logits - max_logits) / sum_exp_logits."""
    logits.copy_((logits.float() - max_logits.unsqueeze(1)).exp_().div_(sum_exp_logits.unsqueeze(1)))
