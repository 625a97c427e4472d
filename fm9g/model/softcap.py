"""Soft caps of scores and logits: cap * tanh(x / cap) (Bello et al., https://arxiv.org/abs/1611.09940)."""

from __future__ import annotations

import torch
from torch import Tensor


def capped(x: Tensor, cap: float) -> Tensor:
    """Between -cap and cap; with a cap of 0 they stay as they are."""
    return cap * torch.tanh(x / cap) if cap else x


def derivative(capped_x: Tensor, cap: float) -> Tensor | None:
    """The derivative of capped values by what they were; None for 1, without a cap."""
    return 1 - (capped_x / cap) ** 2 if cap else None
