"""Each token's log-probability, differentiable token by token, without the logits of a whole batch.

Unlike the loss, whose gradient is known up to one factor, each token's gradient here comes from above (a policy
objective's ratios, a preference's margin): logits are computed once more in backward, a chunk at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fm9g.model.cross_entropy import IGNORED, add_product, chunk_logits, chunks
from fm9g.model.softcap import derivative


class LinearLogProbs(torch.autograd.Function):
    """(hidden [N, D], weight [V, D], targets [N]) -> log softmax(hidden @ weight.T) at the targets: [N] float32."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float) -> Tensor:
        log_probs_N = torch.zeros(hidden_ND.size(0), dtype=torch.float32, device=hidden_ND.device)
        for rows in chunks(hidden_ND, weight_VD):
            logits_cV, log_total_c1 = chunk_logits(hidden_ND[rows], weight_VD, softcap)
            log_probs_N[rows] = (logits_cV.gather(1, targets_N[rows, None]) - log_total_c1).squeeze(1)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        ctx.softcap = softcap
        return log_probs_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """d log p_t / d logits = onehot(t) - p, times the token's own gradient."""
        hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        for rows in chunks(hidden_ND, weight_VD):
            logits_cV, log_total_c1 = chunk_logits(hidden_ND[rows], weight_VD, ctx.softcap)
            derivative_cV = derivative(logits_cV, ctx.softcap)
            upstream_c1 = grad_N[rows, None].float()
            grad_cV = logits_cV.sub_(log_total_c1).exp_().mul_(-upstream_c1)
            grad_cV = grad_cV.scatter_add_(1, targets_N[rows, None], upstream_c1)
            if derivative_cV is not None:
                grad_cV.mul_(derivative_cV)
            grad_cV = grad_cV.to(hidden_ND.dtype)
            if grad_hidden is not None:
                torch.mm(grad_cV, weight_VD, out=grad_hidden[rows])
            if grad_weight is not None:
                add_product(grad_weight, grad_cV.T, hidden_ND[rows])
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight_VD.dtype), None, None


def log_probs(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, softcap: float = 0.0) -> Tensor:
    """The log-probability [T], float32, of each target given `hidden @ weight.T`, capped softly.

    At -100 it is 0, with no gradient.
    """
    valid = (targets_T != IGNORED).nonzero().squeeze(1)
    found_N = LinearLogProbs.apply(hidden_TD[valid], weight_VD, targets_T[valid], softcap)
    zeros_T = torch.zeros(targets_T.shape, dtype=torch.float32, device=targets_T.device)
    return zeros_T.index_copy(0, valid, found_N)
