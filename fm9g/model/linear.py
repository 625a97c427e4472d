"""A linear layer, its weight sharded by BMTrain, and cut where a tensor-parallel group shares it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g import runtime
from fm9g.model.cut import part
from fm9g.runtime import bmt, tensor_parallel


def sharded_parameter(
    shape: tuple[int, ...], dtype: torch.dtype, initialize: Callable[[Tensor], object], cut: int | None = None
) -> Tensor:
    """A parameter of this whole `shape`, sharded by BMTrain, that bmt.init_parameters fills by `initialize`.

    Each rank of a tensor-parallel group has a part of its axis `cut`, or all of it (None).
    """
    ranks, own = tensor_parallel.size(), list(shape)
    where: dict[str, Any] = {}
    if cut is not None and ranks > 1:
        own[cut] = part(shape[cut], ranks)
        where = {"tp_mode": True, "tp_split_dim": cut}
    values = torch.empty(own, dtype=dtype, device=runtime.device())
    return bmt.DistributedParameter(values, init_method=initialize, **where)


def normal_parameter(shape: tuple[int, ...], init_std: float, dtype: torch.dtype, cut: int | None = None) -> Tensor:
    """One that begins as N(0, init_std²)."""
    normal = bmt.ParameterInitializer(torch.nn.init.normal_, mean=0.0, std=init_std)
    return sharded_parameter(shape, dtype, normal, cut)


class Linear(bmt.DistributedModule):
    """[..., dim_in] -> [..., dim_out].

    `cut`: of a tensor-parallel group each rank has a part of the outputs (0), or of the inputs (1), so that its output
    is a summand of the whole; None: it has all. To such a summand the bias is not added: see with_bias.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        init_std: float,
        dtype: torch.dtype,
        bias: bool = False,
        cut: int | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.cut = dim_in, dim_out, cut
        self.weight = normal_parameter((dim_out, dim_in), init_std, dtype, cut)
        self._has_bias, self._gives_summands = bias, cut == 1 and tensor_parallel.size() > 1
        if bias:
            self.bias = sharded_parameter((dim_out,), dtype, torch.nn.init.zeros_, 0 if cut == 0 else None)

    @property
    def added_bias(self) -> Tensor | None:
        """What the layer adds to the product with its weight."""
        return self.bias if self._has_bias and not self._gives_summands else None

    def with_bias(self, sum_of_parts: Tensor) -> Tensor:
        """The whole output, for the sum of what the ranks gave."""
        return sum_of_parts + self.bias if self._has_bias and self._gives_summands else sum_of_parts

    def forward(self, x: Tensor) -> Tensor:
        bias = self.added_bias
        if torch.is_grad_enabled():
            # not F.linear, whose transposed view would keep the gathered weight alive until backward
            return bmt.nn.OpLinear.apply(x, self.weight, bias)
        return F.linear(x, self.weight, bias)
