"""The adapter of a linear layer, its matrices sharded by BMTrain as the layer's own weight is."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g import runtime
from fm9g.lora.merge import row_lengths
from fm9g.model.linear import Linear
from fm9g.runtime import bmt


def _parameter(shape: tuple[int, ...], dtype: torch.dtype, init: bmt.ParameterInitializer) -> Tensor:
    return bmt.DistributedParameter(torch.empty(shape, dtype=dtype, device=runtime.device()), init_method=init)


class LowRank(bmt.DistributedModule):
    """scale · B A dropout(x): what is added to the layer's output (Hu et al., https://arxiv.org/abs/2106.09685).

    A is drawn as the layers of torch are and B is zero, so that at first nothing is added.
    """

    def __init__(self, layer: Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        dtype = layer.weight.dtype
        kaiming = bmt.ParameterInitializer(torch.nn.init.kaiming_uniform_, a=math.sqrt(5))
        self.lora_A = _parameter((rank, layer.in_features), dtype, kaiming)
        self.lora_B = _parameter((layer.out_features, rank), dtype, bmt.ParameterInitializer(torch.nn.init.zeros_))
        self._scale, self._dropout = scale, dropout

    def _product(self, x: Tensor) -> Tensor:
        return bmt.nn.OpLinear.apply(bmt.nn.OpLinear.apply(x, self.lora_A) * self._scale, self.lora_B)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self._dropout, self.training) if self._dropout else x

    def forward(self, x: Tensor) -> Tensor:
        return self._product(self._dropped(x))


class Dora(LowRank):
    """DoRA (Liu et al., https://arxiv.org/abs/2402.09353): rows of W + scale · B A, each with a length of its own.

    What is added is (m / n - 1) · W x + (m / n) · scale · B A x, n the lengths of the rows, taken as constants (section
    4.3), and m what is learned of them. At first they are alike. Both are float32 in any model: what they differ by is
    less than bf16 tells apart.
    """

    def __init__(self, layer: Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__(layer, rank, scale, dropout)
        ones = bmt.ParameterInitializer(torch.nn.init.ones_)  # until the layer's own weights are there
        self.magnitude = _parameter((layer.out_features,), torch.float32, ones)
        self._layer = [layer]  # in a list: it is no part of this module

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self._dropped(x), self._layer[0].weight
        with torch.no_grad():
            lengths = row_lengths(weight.float() + self._scale * (self.lora_B.float() @ self.lora_A.float()))
        longer = ((self.magnitude - lengths) / lengths).to(x.dtype)
        product = self._product(x)
        return longer * (bmt.nn.OpLinear.apply(x, weight) + product) + product
