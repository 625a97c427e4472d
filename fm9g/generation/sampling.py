"""How the next token is chosen from logits, one row or many alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fm9g.errors import UserError

COLD = 1e-5  # below it, dividing by the temperature may leave the range of float32, and the likeliest token is taken


@dataclass(frozen=True)
class Sampling:
    """temperature 0 takes the likeliest token; top_k 0, top_p 1, min_p 0 and repetition_penalty 1 do nothing.

    Each is that of transformers' generate, in its order: penalty, temperature, top_k, top_p, min_p.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        bounds = (
            ("temperature", 0 <= self.temperature < math.inf, "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "from 0.01 to 100"),
        )
        for name, holds, says in bounds:
            if not holds:
                raise UserError(f"{name} must be {says}, not {getattr(self, name):g}")

    def choose(self, logits_RV: Tensor, seen_RV: Tensor | None, generator: torch.Generator) -> Tensor:
        """The next token [rows] of float32 logits; `seen`: bool, the tokens that each row has, for the penalty."""
        if seen_RV is not None:
            logits_RV = penalized(logits_RV, seen_RV, self.repetition_penalty)
        if self.temperature < COLD:
            return logits_RV.argmax(-1)
        cooled_RV = (logits_RV - logits_RV.amax(-1, keepdim=True)) / self.temperature  # the likeliest stays at 0
        weights = self.filtered(cooled_RV).softmax(-1)
        return torch.multinomial(weights, 1, generator=generator).squeeze(1)

    def filtered(self, logits_RV: Tensor) -> Tensor:
        """Logits with -inf for what top_k, top_p and min_p leave out; the likeliest token always stays."""
        if 0 < self.top_k < logits_RV.size(-1):
            least_R1 = logits_RV.topk(self.top_k).values[:, -1:]
            logits_RV = logits_RV.masked_fill(logits_RV < least_R1, -torch.inf)
        if self.top_p < 1:
            ascending_RV, order_RV = logits_RV.sort()
            out_RV = ascending_RV.softmax(-1).cumsum(-1) <= 1 - self.top_p
            out_RV[:, -1] = False
            logits_RV = logits_RV.masked_fill(torch.zeros_like(out_RV).scatter_(1, order_RV, out_RV), -torch.inf)
        if self.min_p:
            likely_RV = logits_RV.softmax(-1)
            out_RV = likely_RV < self.min_p * likely_RV.amax(-1, keepdim=True)
            logits_RV = logits_RV.masked_fill(out_RV, -torch.inf)
        return logits_RV


def penalized(logits_RV: Tensor, seen_RV: Tensor, penalty: float) -> Tensor:
    """Logits of tokens that a row has, divided by the penalty, or multiplied where below 0 (CTRL,
    https://arxiv.org/abs/1909.05858)."""
    return torch.where(seen_RV, torch.where(logits_RV > 0, logits_RV / penalty, logits_RV * penalty), logits_RV)
