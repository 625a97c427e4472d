"""What every attention kernel must compute, written out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fm9g.model.config import ModelConfig
from fm9g.model.context import Context
from fm9g.model.rotary import RotaryTable


def dense(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """softmax(q kᵀ / √d + mask) v over the whole strip at once, in float64."""
    groups = query.size(1) // key.size(1)
    query, key, value = query.double(), *(x.double().repeat_interleave(groups, 1) for x in (key, value))
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    visible = (document[:, None] == document[None, :]).tril()
    scores = torch.einsum("thd,shd->hts", query, key) / math.sqrt(query.size(-1))
    return torch.einsum("hts,shd->thd", scores.masked_fill(~visible, -math.inf).softmax(-1), value)


def context_of(lengths: list[int], device: str = "cpu") -> Context:
    """For kernels alone, which are behind the rotation: its tables are those of any model."""
    rotary = RotaryTable(ModelConfig(vocab_size=2, dim_model=4, num_heads=1, num_layers=1, dim_ff=4))
    return Context.of(lengths, torch.device(device), rotary, torch.float32)
