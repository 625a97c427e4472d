"""Root mean square normalisation (Zhang & Sennrich, https://arxiv.org/abs/1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g import runtime
from fm9g.runtime import bmt


class RMSNorm(bmt.DistributedModule):
    """x / rms(x) * weight over the last dimension; computed in float32 and rounded once."""

    def __init__(self, dim: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = bmt.DistributedParameter(
            torch.ones(dim, dtype=dtype, device=runtime.device()), init_method=torch.nn.init.ones_
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.dim,), self.weight, self.eps)
