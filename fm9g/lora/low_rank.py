"""The adapter of a linear layer, its matrices sharded by BMTrain as the layer's own weight is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fm9g.lora.merge import row_lengths
from fm9g.model.linear import Linear, sharded_parameter
from fm9g.runtime import bmt, tensor_parallel


class _Added(torch.autograd.Function):
    """y + scale · B A x, which takes the place of y: a sum of its own would be one more pass over a layer's output."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        low = F.linear(x, a)
        y.view(-1, y.shape[-1]).addmm_(low.view(-1, low.shape[-1]), b.t(), alpha=scale)
        ctx.save_for_backward(x, low, a, b)
        ctx.scale = scale
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor, None]:
        x, low, a, b = ctx.saved_tensors
        of_low = gradient.matmul(b) * ctx.scale
        of_x = of_low.matmul(a) if ctx.needs_input_grad[1] else None
        of_a = of_low.reshape(-1, of_low.shape[-1]).t().matmul(x.reshape(-1, x.shape[-1]))
        of_b = gradient.reshape(-1, gradient.shape[-1]).t().matmul(low.reshape(-1, low.shape[-1]) * ctx.scale)
        return gradient, of_x, of_a, of_b, None


class LowRank(bmt.DistributedModule):
    """y + scale · B A dropout(x) of a layer's input x and output y (Hu et al., https://arxiv.org/abs/2106.09685).

    A is drawn as the layers of torch are and B is zero, so that at first nothing is added.
    """

    def __init__(self, layer: Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        dtype = layer.weight.dtype
        kaiming = bmt.ParameterInitializer(torch.nn.init.kaiming_uniform_, a=math.sqrt(5))
        self.lora_A = sharded_parameter((rank, layer.in_features), dtype, kaiming, 1 if layer.cut == 1 else None)
        self.lora_B = sharded_parameter(
            (layer.out_features, rank), dtype, torch.nn.init.zeros_, 0 if layer.cut == 0 else None
        )
        self._scale, self._dropout = scale, dropout

    def _add(self, y: Tensor, x: Tensor) -> Tensor:
        added: Tensor = _Added.apply(y, x, self.lora_A, self.lora_B, self._scale)  # type: ignore[no-untyped-call]
        return added

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self._dropout, self.training) if self._dropout else x

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The output with what is added; `y` is overwritten."""
        return self._add(y, self._dropped(x))


class Dora(LowRank):
    """DoRA (Liu et al., https://arxiv.org/abs/2402.09353): rows of W + scale · B A, each with a length of its own.

    The output is (m / n) · (W + scale · B A) x and the layer's bias, n the lengths of the rows, taken as constants
    (section 4.3), and m what is learned of them. At first they are alike. Both are float32 in any model: what they
    differ by is less than bf16 tells apart. Of a dropped-out x, y has W x of the whole of it, as PEFT does:
    W dropout(x) is computed beside it.
    """

    def __init__(self, layer: Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__(layer, rank, scale, dropout)
        ones = torch.nn.init.ones_  # until the layer's own weights are there
        self.magnitude = sharded_parameter((layer.out_features,), torch.float32, ones, 0 if layer.cut == 0 else None)
        self._layer = [layer]  # in a list: it is no part of this module

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """See LowRank."""
        weight = self._layer[0].weight
        with torch.no_grad():
            lengths = row_lengths(weight.float() + self._scale * (self.lora_B.float() @ self.lora_A.float()))
            if self._layer[0].cut == 1 and tensor_parallel.size() > 1:  # of each row this rank has a part
                lengths = tensor_parallel.all_reduce(lengths**2).sqrt()
        longer = ((self.magnitude - lengths) / lengths).to(x.dtype)
        if not (self._dropout and self.training):
            whole, bias = self._add(y, x), self._layer[0].added_bias
            return torch.addcmul(whole, longer, whole if bias is None else whole - bias)
        dropped = self._dropped(x)
        whole = self._add(bmt.nn.OpLinear.apply(dropped, weight), dropped)
        return self._add(y, dropped) + longer * whole
