"""Token embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.context import Context
from fm9g.model.linear import normal_parameter
from fm9g.runtime import bmt


class Embedding(bmt.DistributedModule):
    """[T] token ids -> [T, dim_model]."""

    def __init__(self, vocab_size: int, dim: int, init_std: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = normal_parameter((vocab_size, dim), init_std, dtype)

    def forward(self, tokens_T: Tensor) -> Tensor:
        return F.embedding(tokens_T, self.weight)


def noise(embedded_TD: Tensor, context: Context, alpha: float) -> Tensor:
    """Uniform noise for embeddings, up to ± alpha / sqrt(L * D), L the tokens of the document: NEFTune (Jain et al.,
    https://arxiv.org/abs/2310.05914, algorithm 1)."""
    lengths = torch.tensor(context.queries.lengths)
    limits = (alpha / (lengths * embedded_TD.shape[1]).sqrt()).repeat_interleave(lengths)
    limits_T1 = context.split.own(limits[:, None]).to(embedded_TD.device, embedded_TD.dtype, non_blocking=True)
    return torch.empty_like(embedded_TD).uniform_(-1, 1) * limits_T1
