"""One step over all its micro-steps and ranks: what is in it, its loss and its gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.data.stream.loader import StepBatch
from fm9g.data.stream.strip import PADDING_TASK, Strip
from fm9g.model.decoder import Decoder
from fm9g.objectives.base import Objective
from fm9g.training.same_rows import check_rows, difference


@dataclass
class StepCounts:
    """A step over all ranks. Lists are by task."""

    exhausted: bool  # no rank has anything left after this step
    stops: bool  # a rank is asked to stop after it
    flops: float
    places: list[int]  # filled with tokens
    units: list[float]  # what the loss is divided by: for a language model, targets that carry loss, by their weights
    documents: list[int]  # begun
    skipped: list[int]  # records that gave no document
    damaged: list[int]  # those among them whose bytes have changed

    @property
    def all_places(self) -> int:
        return sum(self.places)

    @property
    def all_units(self) -> float:
        return sum(self.units)


@dataclass
class StepLosses:
    """A step's losses over all ranks, in nats a unit, and what its objective saw."""

    loss: float
    by_task: list[float]
    seen: dict[str, tuple[float, float]]  # {name: (sum, count)}


def count_step(batch: StepBatch, units: list[float], exhausted: bool, flops: float, stops: bool = False) -> StepCounts:
    """Count before the first backward, since the loss is divided by the count; one collective.

    `units` [tasks], `exhausted`, `flops` and `stops` are this rank's. A UserError where ranks that share rows have not
    the same.
    """
    tasks = len(batch.tokens)
    skipped, damaged = [0] * tasks, [0] * tasks
    for task, skip in batch.skipped:
        skipped[task] += 1
        damaged[task] += skip.damaged
    counted = [flops, *units, *batch.tokens, *batch.documents, *skipped, *damaged]
    if runtime.tp_rank():  # the ranks of a group have the same rows
        counted = [0.0] * len(counted)
    mine = [not exhausted, stops, difference(batch), *counted]
    all_ranks = runtime.all_reduce(torch.tensor(mine, dtype=torch.float64))  # whole numbers are exact in it
    unfinished, stopping, differing, total_flops, *sums = all_ranks.tolist()
    check_rows(differing, batch)
    places, documents, skipped, damaged = (list(map(int, sums[i * tasks : (i + 1) * tasks])) for i in range(1, 5))
    return StepCounts(unfinished == 0, stopping > 0, total_flops, places, sums[:tasks], documents, skipped, damaged)


def units_by_task(objective: Objective, batch: StepBatch) -> list[float]:
    """[tasks]: the units of this rank's part of a step."""
    sums = torch.zeros(len(batch.tokens), dtype=torch.float64)
    for strip in batch.strips:
        sums += _by_task(torch.tensor(objective.units(strip), dtype=torch.float64), strip, len(sums))
    counts: list[float] = sums.tolist()
    return counts


def _by_task(values: Tensor, strip: Strip, tasks: int) -> Tensor:
    """Sum [pieces] values over the pieces of each task: [tasks]."""
    numbers = (torch.tensor(strip.tasks) - PADDING_TASK).to(values.device)
    sums = torch.zeros(tasks + 1, dtype=values.dtype, device=values.device)
    return sums.index_add_(0, numbers, values)[1:]


def step_losses(
    model: Decoder,
    objective: Objective,
    batch: StepBatch,
    counts: StepCounts,
    backward: Callable[[Tensor], None] | None = None,
) -> StepLosses:
    """The losses of a step; `backward` is given each micro-step's part of the loss, to add its gradient.

    The loss is the objective's sum divided by the units of all micro-steps and ranks. As many collectives run whatever
    the data holds.
    """
    device, tasks = runtime.device(), len(batch.tokens)
    task_sums = torch.zeros(tasks, dtype=torch.float64, device=device)
    seen: dict[str, Tensor] = {}
    for strip in batch.strips:
        context = model.context(strip.lengths)
        tokens, targets = (x.to(device, non_blocking=True).long() for x in (strip.tokens, strip.targets))
        weights = None if strip.weights is None else strip.weights.to(device, non_blocking=True)
        cost = objective.cost(dataclasses.replace(strip, tokens=tokens, targets=targets, weights=weights), context)
        if backward is not None:
            backward(cost.total / (counts.all_units or 1))
        task_sums += _by_task(cost.losses, strip, tasks)
        for name, pair in cost.seen.items():
            pair_2 = torch.stack([x.detach().double() for x in pair])
            seen[name] = seen[name] + pair_2 if name in seen else pair_2
    seen = dict(sorted(seen.items()))  # each rank's in the same order
    mine = torch.cat([task_sums, *seen.values()])
    sums = runtime.all_reduce(mine * (runtime.tp_rank() == 0)).tolist()  # a group's ranks are told the same losses
    by_task = [sums[i] / (counts.units[i] or 1) for i in range(tasks)]
    totals = zip(sums[tasks::2], sums[tasks + 1 :: 2], strict=True)
    return StepLosses(sum(sums[:tasks]) / (counts.all_units or 1), by_task, dict(zip(seen, totals, strict=True)))


def means(seen: dict[str, tuple[float, float]]) -> dict[str, float]:
    """What was seen, on average; of what was never counted there is none."""
    return {name: total / count for name, (total, count) in seen.items() if count}
