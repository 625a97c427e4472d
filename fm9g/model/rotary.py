"""Rotary position embeddings (Su et al., https://arxiv.org/abs/2104.09864), halves rotated as LLaMA does."""

from __future__ import annotations

import torch
from torch import Tensor

from fm9g.model.config import ModelConfig


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """[dim_head / 2] float32 radians per position.

    `linear` divides positions by the factor; `dynamic` raises the base for max_length once and for all (NTK,
    the formula of transformers' `dynamic` rope at a length of max_length).
    """
    base, dim = config.base, config.dim_head
    if config.rope_scaling_type == "dynamic" and config.max_length > config.orig_max_length:
        stretch = config.rope_scaling_factor * config.max_length / config.orig_max_length
        base *= (stretch - (config.rope_scaling_factor - 1)) ** (dim / (dim - 2))
    frequencies = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim))
    return frequencies / config.rope_scaling_factor if config.rope_scaling_type == "linear" else frequencies


class RotaryTable:
    """cos and sin for every position below max_length, made once for each device and dtype."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[T] positions -> cos and sin, each [T, 1, dim_head / 2] in `dtype`."""
        key = (position_ids.device, dtype)
        if key not in self._tables:
            angles = torch.outer(torch.arange(self._config.max_length).float(), inverse_frequencies(self._config))
            cos, sin = (table.to(dtype).to(position_ids.device).unsqueeze(1) for table in (angles.cos(), angles.sin()))
            self._tables[key] = cos, sin
        cos, sin = self._tables[key]
        return cos[position_ids], sin[position_ids]


def rotate(x_THd: Tensor, cos_T1h: Tensor, sin_T1h: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + dim_head / 2]) of each head by its position's angle."""
    first, second = x_THd.chunk(2, dim=-1)
    return torch.cat((first * cos_T1h - second * sin_T1h, second * cos_T1h + first * sin_T1h), dim=-1)
