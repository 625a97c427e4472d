"""What every attention kernel must compute, written out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fm9g.model.config import ModelConfig
from fm9g.model.context import Context
from fm9g.model.kernels.kernel import Scores
from fm9g.model.rotary import RotaryTable


def usual(dim_head: int) -> Scores:
    """Nothing but the scale, as in a LLaMA."""
    return Scores(1 / math.sqrt(dim_head))


def dense(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scores: Scores | None = None) -> Tensor:
    """softmax(cap(q kᵀ · scale) + mask) v over the whole strip at once, in float64."""
    scale, window, cap = scores or usual(query.size(-1))
    groups = query.size(1) // key.size(1)
    query, key, value = query.double(), *(x.double().repeat_interleave(groups, 1) for x in (key, value))
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    visible = (document[:, None] == document[None, :]).tril()
    if window:
        visible &= ~torch.ones_like(visible).tril(-window)
    products = torch.einsum("thd,shd->hts", query, key) * scale
    if cap:
        products = (products / cap).tanh() * cap
    return torch.einsum("hts,shd->thd", products.masked_fill(~visible, -math.inf).softmax(-1), value)


def context_of(lengths: list[int], device: str = "cpu") -> Context:
    """For kernels alone, which are behind the rotation: its tables are those of any model."""
    rotary = RotaryTable(ModelConfig(vocab_size=2, dim_model=4, num_heads=1, num_layers=1, dim_ff=4))
    return Context.of(lengths, torch.device(device), rotary, torch.float32)
