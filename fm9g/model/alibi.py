"""Attention with linear biases (Press et al., https://arxiv.org/abs/2108.12409), for kernels that know nothing of them.

A score is lowered by the head's slope times how far back the key is. For the softmax of a query only differences
between keys count, so that its score of key j may as well be raised by slope * j: one more product of a query's slope
and a key's place, written in dimensions that are appended to both. Half-precision numbers hold neither exactly, so
each is written as a sum of numbers that they hold: two digits of a place, and a slope and what rounding it leaves.

Nothing that is not linear, as a soft cap is, may come between such scores and the softmax: they are not those of the
paper, and only differences between a query's keys are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

DIMENSIONS = 8  # appended: a multiple that every kernel takes
_BASE = 256  # of the digits of a place


def slopes(heads: int) -> Tensor:
    """[heads] float32: the powers of 2^(-8 / heads); where that is no power of two, those of the power below, and
    every other one of twice as many (as the authors' code has it)."""
    power = 2 ** math.floor(math.log2(heads))
    first, between = (2 ** (-8 / count * torch.arange(1, count + 1).double()) for count in (power, 2 * power))
    return torch.cat([first, between[::2][: heads - power]]).float()


class PlaceTable:
    """What is appended to keys: the digits of each token's place in its document, once for each part of a slope."""

    def __call__(self, position_ids: Tensor, count: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """[T] positions below `count` -> [T, 1, DIMENSIONS] in `dtype`."""
        assert count <= _BASE**2, "a third digit, which half-precision numbers do not hold (config.ALIBI_LENGTH)"
        low = position_ids % _BASE
        digits = torch.stack([position_ids - low, position_ids - low, low, low], -1)
        return (F.pad(digits, (0, DIMENSIONS - 4)).unsqueeze(1).to(dtype),)


class Appended(NamedTuple):
    """Queries, keys and values of more dimensions than they had; the values' are zeros."""

    query: Tensor
    key: Tensor
    value: Tensor


def appended(
    query_THd: Tensor, key_TGd: Tensor, value_TGd: Tensor, scaled_slopes_H: Tensor, places_T1p: Tensor
) -> Appended:
    """[T, heads, dim_head] -> [T, heads, dim_head + DIMENSIONS], each. `scaled_slopes_H`: these heads' slopes, divided
    by what products of queries and keys are multiplied by."""
    rounded = scaled_slopes_H.to(query_THd.dtype)
    rest = (scaled_slopes_H - rounded.float()).to(query_THd.dtype)
    parts_Hp = F.pad(torch.stack([rounded, rest, rounded, rest], -1), (0, DIMENSIONS - 4))
    return Appended(
        torch.cat([query_THd, parts_Hp.expand(query_THd.shape[0], -1, -1)], -1),
        torch.cat([key_TGd, places_T1p.expand(-1, key_TGd.shape[1], -1)], -1),
        F.pad(value_TGd, (0, DIMENSIONS)),
    )
