"""The loss of one optimizer step over all its micro-steps and ranks, and its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fm9g import runtime
from fm9g.data.stream.loader import IGNORED, PADDING_TASK, StepBatch, Strip
from fm9g.model.decoder import Decoder
from fm9g.model.packed import Packed


@dataclass
class StepCounts:
    """A step over all ranks. Lists are by task."""

    exhausted: bool  # no rank has anything left after this step
    flops: float
    places: list[int]  # filled with tokens
    valid: list[int]  # targets that carry loss
    documents: list[int]  # begun
    skipped: list[int]  # records that gave no document
    damaged: list[int]  # those among them whose bytes have changed

    @property
    def all_places(self) -> int:
        return sum(self.places)

    @property
    def all_valid(self) -> int:
        return sum(self.valid)


def count_step(batch: StepBatch, exhausted: bool, flops: float) -> StepCounts:
    """Count before the first backward, since the loss is divided by the count; one collective.

    `exhausted` and `flops` are this rank's.
    """
    tasks = len(batch.tokens)
    task_valid = torch.zeros(tasks, dtype=torch.int64)
    for strip in batch.strips:
        valid = (strip.targets != IGNORED).to(torch.int64)
        task_valid += _by_task(valid, strip, tasks)
    skipped, damaged = [0] * tasks, [0] * tasks
    for task, skip in batch.skipped:
        skipped[task] += 1
        damaged[task] += skip.damaged
    by_task = [batch.tokens, task_valid.tolist(), batch.documents, skipped, damaged]
    mine = torch.tensor([int(not exhausted), int(flops), *(count for counts in by_task for count in counts)])
    unfinished, total_flops, *counts = runtime.all_reduce(mine).tolist()
    return StepCounts(unfinished == 0, total_flops, *(counts[i * tasks : (i + 1) * tasks] for i in range(len(by_task))))


def _by_task(values_T: Tensor, strip: Strip, tasks: int) -> Tensor:
    """Sum [T] values over the places of each task: [tasks]."""
    task_T = torch.repeat_interleave(torch.tensor(strip.tasks), torch.tensor(strip.lengths)).to(values_T.device)
    sums = torch.zeros(tasks + 1, dtype=values_T.dtype, device=values_T.device)
    return sums.index_add_(0, task_T - PADDING_TASK, values_T)[1:]


def train_step(model: Decoder, manager: Any, batch: StepBatch, counts: StepCounts) -> tuple[float, list[float]]:
    """Add the step's gradient to the parameters' .grad; returns the loss and that of each task (nats a token).

    The loss is the sum over valid targets divided by their number over all micro-steps and ranks. As many
    collectives run whatever the data holds.
    """
    device = runtime.device()
    tasks = len(batch.tokens)
    task_sums = torch.zeros(tasks, dtype=torch.float64, device=device)
    for strip in batch.strips:
        packed = Packed.from_lengths(strip.lengths, device)
        tokens, targets = (x.to(device, non_blocking=True).long() for x in (strip.tokens, strip.targets))
        total, losses_T = model.loss(tokens, targets, packed)
        manager.backward(total / max(1, counts.all_valid))
        task_sums += _by_task(losses_T.double(), strip, tasks)
    sums = runtime.all_reduce(task_sums).tolist()
    by_task = [sums[i] / max(1, counts.valid[i]) for i in range(tasks)]
    return sum(sums) / max(1, counts.all_valid), by_task
