"""A linear layer, its weight sharded by BMTrain."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g import runtime
from fm9g.runtime import bmt


def normal_parameter(shape: tuple[int, ...], init_std: float, dtype: torch.dtype) -> Tensor:
    """A sharded parameter that bmt.init_parameters fills from N(0, init_std²)."""
    return bmt.DistributedParameter(
        torch.empty(shape, dtype=dtype, device=runtime.device()),
        init_method=bmt.ParameterInitializer(torch.nn.init.normal_, mean=0.0, std=init_std),
    )


class Linear(bmt.DistributedModule):
    """[..., dim_in] -> [..., dim_out]."""

    def __init__(self, dim_in: int, dim_out: int, init_std: float, dtype: torch.dtype, bias: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = dim_in, dim_out
        self.weight = normal_parameter((dim_out, dim_in), init_std, dtype)
        self._has_bias = bias
        if bias:
            zeros = torch.zeros(dim_out, dtype=dtype, device=runtime.device())
            self.bias = bmt.DistributedParameter(zeros, init_method=torch.nn.init.zeros_)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias if self._has_bias else None
        if torch.is_grad_enabled():
            # not F.linear, whose transposed view would keep the gathered weight alive until backward
            return bmt.nn.OpLinear.apply(x, self.weight, bias)
        return F.linear(x, self.weight, bias)
