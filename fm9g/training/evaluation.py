"""Held-out evaluation: an objective without gradients over a mixture of its own, beside training.

It reads the same rows each time, and on any number of ranks that share out as many rows a step. It changes nothing
that training sees: parameters, optimizer, data and random generators are as they were, so a run with it and one without
have equal losses, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fm9g.checkpoint.random_state import random_state, set_random_state
from fm9g.data.stream.loader import Loader, StepBatch, StepStream
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.errors import UserError
from fm9g.model.decoder import Decoder
from fm9g.training.inputs import Inputs
from fm9g.training.learner import Learner
from fm9g.training.left_out import LeftOut
from fm9g.training.run_stream import make_plan
from fm9g.training.step import StepCounts, StepLosses, count_step, means, step_losses

_NO_LIMIT = 1 << 40  # steps: the data ends first
_NOTHING = "eval_dataset: nothing that an evaluation reads of it has a target"


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found: nats a unit over all that it read, and for each task."""

    loss: float
    task_loss: dict[str, float]
    seen: dict[str, float]
    tokens: int
    skipped: int  # records that gave no document, the damaged among them
    seconds: float

    @property
    def perplexity(self) -> float:
        """exp(loss): of a language model, over how many tokens it is as undecided."""
        return math.exp(min(self.loss, 700.0))  # beyond, a float overflows


@dataclass
class _Sums:
    """What the steps of an evaluation add up to."""

    units: list[int]
    losses: list[float]  # by task
    seen: dict[str, tuple[float, float]]  # {name: (sum, count)}
    tokens: int = 0
    skipped: int = 0

    def add(self, counts: StepCounts, losses: StepLosses) -> None:
        """Take in a step."""
        self.tokens += counts.all_places
        self.skipped += sum(counts.skipped)
        for task, units in enumerate(counts.units):
            self.units[task] += units
            self.losses[task] += losses.by_task[task] * units
        for name, (total, count) in losses.seen.items():
            before = self.seen.get(name, (0.0, 0.0))
            self.seen[name] = before[0] + total, before[1] + count

    def evaluated(self, names: Sequence[str], seconds: float) -> Evaluated:
        """The means."""
        by_task = zip(names, self.losses, self.units, strict=True)
        return Evaluated(
            loss=sum(self.losses) / sum(self.units),
            task_loss={name: loss / units for name, loss, units in by_task if units},
            seen=means(self.seen),
            tokens=self.tokens,
            skipped=self.skipped,
            seconds=seconds,
        )


class Evaluation:
    """Evaluates `learner` on the held-out mixture of `inputs`."""

    def __init__(self, inputs: Inputs, learner: Learner) -> None:
        self._inputs, self._learner, self._settings = inputs, learner, inputs.settings
        self._names, tasks = [corpus.entry.task_name for corpus in inputs.held_out], len(inputs.held_out)
        self._done = [0] * tasks  # records read by all evaluations so far
        self._left_out = LeftOut(inputs.held_out, self._settings.max_damaged_share, [0] * tasks, [0] * tasks)

    def is_due(self, iteration: int, data_ends: bool) -> bool:
        """Whether this iteration is evaluated; `data_ends`: it is the last, since nothing is left to train on."""
        last = data_ends or iteration == self._settings.train_iters
        return last or iteration % self._settings.eval_interval == 0

    def run(self) -> Evaluated:
        """Read the held-out data and measure; every rank must call it."""
        started, tasks = time.perf_counter(), len(self._names)
        sums = _Sums([0] * tasks, [0.0] * tasks, {})
        with _undisturbed(self._learner.model):
            for batch, counts in self._steps():
                self._left_out.take(batch, counts, self._done)
                read = zip(self._done, counts.documents, counts.skipped, strict=True)
                self._done = [before + documents + skipped for before, documents, skipped in read]
                losses = step_losses(self._learner.model, self._learner.objective, batch, counts)
                sums.add(counts, losses)
        if not sum(sums.units):
            raise UserError(_NOTHING)
        return sums.evaluated(self._names, time.perf_counter() - started)

    def check(self) -> None:
        """Refuse data on which nothing can be measured, before anything is learned; every rank must call it."""
        with _undisturbed(self._learner.model):
            reasons: list[str] = []
            for batch, counts in self._steps():
                if counts.all_units:
                    return
                reasons += [skip.reason for _, skip in batch.skipped[:1]]
        raise UserError(_NOTHING + (f" (the first record: {reasons[0]})" if reasons else ""))

    def _steps(self) -> Iterator[tuple[StepBatch, StepCounts]]:
        settings, plan = self._settings, make_plan(self._inputs)
        steps = range(settings.eval_iters or _NO_LIMIT)
        loader = Loader(StepStream(plan, self._inputs.held_out, steps, {}, Prefetcher(0, 0)), 0, 1)
        for batch in loader:
            counts = count_step(batch, self._learner.units(batch), loader.exhausted, 0.0)
            if counts.exhausted and not counts.all_places:
                return
            yield batch, counts


@contextmanager
def _undisturbed(model: Decoder) -> Iterator[None]:
    """Without gradients and dropout; random generators are put back, from which a person's transform may draw."""
    generators = random_state()
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()
        set_random_state(generators)


def describe(evaluated: Evaluated, iteration: int) -> str:
    """The line a person reads."""
    tasks = ", ".join(f"{task} {loss:.4f}" for task, loss in evaluated.task_loss.items())
    left_out = f", {evaluated.skipped:,} record(s) left out" if evaluated.skipped else ""
    return (
        f"iter {iteration}: held-out loss {evaluated.loss:.4f}, perplexity {evaluated.perplexity:.4g} ({tasks}); "
        f"{evaluated.tokens:,} tokens in {evaluated.seconds:.1f} s{left_out}"
    )
