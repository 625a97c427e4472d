"""What a model's parameters and gradients are like, by name, in two collectives for all of them.

bmt.inspect gathers every parameter whole, and not rightly where tensor parallelism cuts it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.runtime.shards import shards, whole_shapes


def summarize(model: Any) -> list[dict[str, Any]]:
    """name, shape, mean, std, min and max of each parameter, grad_mean and grad_std of its gradient (0 where it has
    none), in order; all ranks must call it."""
    shapes = whole_shapes(model)
    number = {name: i for i, name in enumerate(shapes)}
    sums = torch.zeros(len(shapes), 4, dtype=torch.float64, device=runtime.device())
    extremes = torch.full((len(shapes), 2), -math.inf, dtype=torch.float64, device=runtime.device())
    with torch.no_grad():
        for name, param, *_ in shards(model):
            row = number[name]
            sums[row, :2] = _moments(param.data)
            if param.grad is not None:
                sums[row, 2:] = _moments(param.grad)
            extremes[row] = torch.stack([-param.data.min(), param.data.max()])
    totals, ends = runtime.all_reduce(sums).tolist(), runtime.all_reduce(extremes, "max").tolist()
    return [
        {
            "name": name,
            "shape": shape,
            **_mean_and_std("", math.prod(shape), *of[:2]),
            **_mean_and_std("grad_", math.prod(shape), *of[2:]),
            "max": most,
            "min": -least,
        }
        for (name, shape), of, (least, most) in zip(shapes.items(), totals, ends, strict=True)
    ]


def _moments(values: Tensor) -> Tensor:
    """[2] float64: their sum, and that of their squares."""
    length = torch.linalg.vector_norm(values, dtype=torch.float64)
    return torch.stack([values.sum(dtype=torch.float64), length.square()])


def _mean_and_std(prefix: str, count: int, total: float, squares: float) -> dict[str, float]:
    mean = total / count
    spread = max(squares - count * mean**2, 0.0) if math.isfinite(squares) else squares
    return {f"{prefix}mean": mean, f"{prefix}std": math.sqrt(spread / max(count - 1, 1))}
