"""Head and cross-entropy in one, a chunk of tokens at a time, so that no logits of a whole batch exist.

The gradients are computed along with the losses, while a chunk's logits are at hand (as in Liger kernels,
https://arxiv.org/abs/2410.10989), and only scaled in backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fm9g.model.softcap import capped, derivative

CHUNK_LOGITS = 1 << 24  # elements of a chunk's float32 logits: 64 MB
IGNORED = -100


def chunks(hidden_ND: Tensor, weight_VD: Tensor) -> Iterator[slice]:
    """Rows of `hidden` whose logits fill at most CHUNK_LOGITS, or one row."""
    size = max(1, CHUNK_LOGITS // weight_VD.size(0))
    for start in range(0, hidden_ND.size(0), size):
        yield slice(start, start + size)


def chunk_logits(hidden_cD: Tensor, weight_VD: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """The float32 logits [c, V] of a chunk, and the logarithm of the sum of their exponentials [c, 1]."""
    logits_cV = capped((hidden_cD @ weight_VD.T).float(), softcap)
    return logits_cV, logits_cV.logsumexp(-1, keepdim=True)


class LinearCrossEntropy(torch.autograd.Function):
    """(hidden [N, D], weight [V, D], targets [N], factors [N]) -> (sum of losses [], losses [N]), both float32.

    Each loss is multiplied by its factor, where there are any.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, factors_N: Tensor | None, softcap: float
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        losses_N = torch.zeros(hidden_ND.size(0), dtype=torch.float32, device=hidden_ND.device)
        grad_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        for rows in chunks(hidden_ND, weight_VD):
            hidden_cD, targets_c1 = hidden_ND[rows], targets_N[rows, None]
            logits_cV, log_total_c1 = chunk_logits(hidden_cD, weight_VD, softcap)
            losses_N[rows] = (log_total_c1 - logits_cV.gather(1, targets_c1)).squeeze(1)
            if not (needs_hidden or needs_weight):
                continue
            derivative_cV = derivative(logits_cV, softcap)
            probabilities = logits_cV.sub_(log_total_c1).exp_()
            minus_one = torch.full_like(targets_c1, -1, dtype=torch.float32)
            grad_cV = probabilities.scatter_add_(1, targets_c1, minus_one)
            if factors_N is not None:
                grad_cV.mul_(factors_N[rows, None])
            if derivative_cV is not None:
                grad_cV.mul_(derivative_cV)
            grad_cV = grad_cV.to(hidden_ND.dtype)
            if grad_hidden is not None:
                torch.mm(grad_cV, weight_VD, out=grad_hidden[rows])
            if grad_weight is not None:
                add_product(grad_weight, grad_cV.T, hidden_cD)
        if factors_N is not None:
            losses_N.mul_(factors_N)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, grad_sum: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = (grad_hidden.float() * grad_sum).to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad_sum).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, with a float32 total whatever the dtype of a and b."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


@torch.no_grad()
def linear_scores(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, softcap: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Of each valid target: the loss [T], as linear_cross_entropy's, and whether it is the likeliest token, bool [T].

    At -100 they are 0 and False. For evaluation: without gradients.
    """
    losses_T = torch.zeros(targets_T.shape, dtype=torch.float32, device=targets_T.device)
    likeliest_T = torch.zeros(targets_T.shape, dtype=torch.bool, device=targets_T.device)
    valid = (targets_T != IGNORED).nonzero().squeeze(1)
    hidden_ND = hidden_TD[valid]
    for rows in chunks(hidden_ND, weight_VD):
        where_c = valid[rows]
        logits_cV, log_total_c1 = chunk_logits(hidden_ND[rows], weight_VD, softcap)
        losses_T[where_c] = (log_total_c1 - logits_cV.gather(1, targets_T[where_c, None])).squeeze(1)
        likeliest_T[where_c] = logits_cV.argmax(1) == targets_T[where_c]
    return losses_T, likeliest_T


def linear_cross_entropy(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    factors_T: Tensor | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Sum over valid targets of the cross-entropy of `hidden @ weight.T`, capped softly, and each token's loss.

    Targets of -100 are ignored: they cost nothing and their loss is 0. Each loss is multiplied by its factor, where
    there are any. Both results are float32; the losses carry no gradient.
    """
    valid = (targets_T != IGNORED).nonzero().squeeze(1)
    factors_N = None if factors_T is None else factors_T[valid]
    total, losses_N = LinearCrossEntropy.apply(hidden_TD[valid], weight_VD, targets_T[valid], factors_N, softcap)
    losses_T = torch.zeros(targets_T.shape, dtype=torch.float32, device=targets_T.device)
    return total, losses_T.index_copy_(0, valid, losses_N)
