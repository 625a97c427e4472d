"""What every attention kernel must compute, written out."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dense(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """softmax(q kᵀ / √d + mask) v over the whole strip at once, in float64."""
    groups = query.size(1) // key.size(1)
    query, key, value = query.double(), *(x.double().repeat_interleave(groups, 1) for x in (key, value))
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    visible = (document[:, None] == document[None, :]).tril()
    scores = torch.einsum("thd,shd->hts", query, key) / math.sqrt(query.size(-1))
    return torch.einsum("hts,shd->thd", scores.masked_fill(~visible, -math.inf).softmax(-1), value)
