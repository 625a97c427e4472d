"""Token embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.model.linear import normal_parameter
from fm9g.runtime import bmt


class Embedding(bmt.DistributedModule):
    """[T] token ids -> [T, dim_model]."""

    def __init__(self, vocab_size: int, dim: int, init_std: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = normal_parameter((vocab_size, dim), init_std, dtype)

    def forward(self, tokens_T: Tensor) -> Tensor:
        return F.embedding(tokens_T, self.weight)
