"""What every objective is: the units that its loss is divided by, and the cost of a strip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fm9g.data.stream.strip import IGNORED, Strip
from fm9g.model.context import Context
from fm9g.model.decoder import Decoder

Seen = dict[str, tuple[Tensor, Tensor]]
"""{name: (sum, count)}, each []: what an objective saw beside its loss, told as a mean over a step of all ranks."""


class Cost(NamedTuple):
    """What a strip costs. A piece is the part of one sequence that lies in the strip, as in `Strip.lengths`."""

    total: Tensor  # [] float32, summed over units: divided by the units of the whole step and differentiated
    losses: Tensor  # [pieces] float64 without gradient: what each piece adds to `total`, which may hold more
    seen: Seen  # of the same names for every strip


class Objective(Protocol):
    """Made once for a run; knows nothing of ranks, micro-steps and optimizers.

    `settings` are the run's, in which an objective finds its own group. `log_likelihood`: whether its loss is -log p of
    a token, the mean of which tells a perplexity.
    """

    log_likelihood: bool

    def __init__(self, model: Decoder, settings: Any) -> None: ...

    def units(self, strip: Strip) -> list[float]:
        """[pieces]: how many units of the loss (tokens, sequences, pairs) each piece has, by their weights where they
        have any; on the host."""
        ...

    def cost(self, strip: Strip, context: Context) -> Cost:
        """The cost of a strip whose tensors are on the device, tokens and targets as int64."""
        ...


def sums_by_piece(values_T: Tensor, lengths: Sequence[int]) -> Tensor:
    """[T] values summed over each piece: [pieces], of the same dtype and device."""
    numbers_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(values_T.device)
    sums = torch.zeros(len(lengths), dtype=values_T.dtype, device=values_T.device)
    return sums.index_add_(0, numbers_T, values_T)


def counted(strip: Strip) -> Tensor:
    """[T]: how much each target counts; bool, whether there is one, where all count alike."""
    return strip.targets != IGNORED if strip.weights is None else strip.weights


def valid_targets(strip: Strip) -> list[float]:
    """[pieces]: the targets of each piece that carry loss, each as it counts: the units of objectives of tokens."""
    counts: list[float] = sums_by_piece(counted(strip).double(), strip.lengths).tolist()
    return counts
