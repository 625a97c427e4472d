"""Rotary position embeddings (Su et al., https://arxiv.org/abs/2104.09864), halves rotated as LLaMA does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fm9g.model.config import ModelConfig
from fm9g.model.rope_scaling import inverse_frequencies


class RotaryTable:
    """cos and sin of positions, made for each device and dtype as far as they were needed: models can have millions."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, position_ids: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[T] positions below `count` -> cos and sin, each [T, 1, rotated / 2] in `dtype`."""
        key = (position_ids.device, dtype)
        if key not in self._tables or len(self._tables[key][0]) < count:
            positions = torch.arange(1 << (count - 1).bit_length())  # so that it is seldom made again
            angles = torch.outer(positions.float(), inverse_frequencies(self._config))
            tables = (self._config.attention_factor * table for table in (angles.cos(), angles.sin()))
            cos, sin = (table.to(dtype).to(position_ids.device).unsqueeze(1) for table in tables)
            self._tables[key] = cos, sin
        cos, sin = self._tables[key]
        return cos[position_ids], sin[position_ids]


class Rotate(torch.autograd.Function):
    """The rotation, which keeps nothing but cos and sin: its gradient is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x_THd: Tensor, cos_T1h: Tensor, sin_T1h: Tensor) -> Tensor:
        ctx.save_for_backward(cos_T1h, sin_T1h)
        return _rotated(x_THd, cos_T1h, sin_T1h, 1)

    @staticmethod
    def backward(ctx: Any, grad_THd: Tensor) -> tuple[Tensor, None, None]:
        cos_T1h, sin_T1h = ctx.saved_tensors
        return _rotated(grad_THd, cos_T1h, sin_T1h, -1), None, None


def _rotated(x_THd: Tensor, cos_T1h: Tensor, sin_T1h: Tensor, direction: int) -> Tensor:
    half = cos_T1h.shape[-1]
    result = torch.empty(x_THd.shape, dtype=x_THd.dtype, device=x_THd.device)
    parts = (half, half, x_THd.shape[-1] - 2 * half)
    (first, second, rest), (first_result, second_result, rest_result) = x_THd.split(parts, -1), result.split(parts, -1)
    rest_result.copy_(rest)
    torch.mul(first, cos_T1h, out=first_result).addcmul_(second, sin_T1h, value=-direction)
    torch.mul(second, cos_T1h, out=second_result).addcmul_(first, sin_T1h, value=direction)
    return result


def rotate(x_THd: Tensor, cos_T1h: Tensor, sin_T1h: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + rotated / 2]) of each head by its position's angle; what comes after them stays."""
    if torch.is_grad_enabled():
        return Rotate.apply(x_THd, cos_T1h, sin_T1h)
    return _rotated(x_THd, cos_T1h, sin_T1h, 1)
