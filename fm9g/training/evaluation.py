"""Held-out evaluation: an objective without gradients over a mixture of its own, beside training.

It reads the same rows each time, on any number of ranks and in batches of any size (with eval_iters, of as many rows a
step). It changes nothing that training sees: parameters, optimizer, data and random generators are as they were, so a
run with it and one without have equal losses, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fm9g import runtime
from fm9g.checkpoint.random_state import generators_kept
from fm9g.data.stream.loader import StepBatch
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.stream.single_pass import SinglePass, about_rows
from fm9g.display import LINE_WIDTH, as_many_as_fit
from fm9g.errors import UserError, about
from fm9g.model.decoder import Decoder
from fm9g.training.inputs import Inputs
from fm9g.training.learner import Learner
from fm9g.training.left_out import LeftOut
from fm9g.training.metrics import Evaluated
from fm9g.training.run_stream import make_plan
from fm9g.training.step import StepCounts, StepLosses, count_step, means, step_losses


@dataclass
class _Sums:
    """What the steps of an evaluation add up to."""

    units: list[float]
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

    def evaluated(self, names: Sequence[str], log_likelihood: bool, seconds: float) -> Evaluated:
        """The means."""
        by_task = zip(names, self.losses, self.units, strict=True)
        return Evaluated(
            loss=sum(self.losses) / sum(self.units),
            task_loss={name: loss / units for name, loss, units in by_task if units},
            seen=means(self.seen),
            tokens=self.tokens,
            skipped=self.skipped,
            seconds=seconds,
            log_likelihood=log_likelihood,
        )


class Evaluation:
    """Evaluates `learner` on the held-out mixture of `inputs`."""

    def __init__(self, inputs: Inputs, learner: Learner) -> None:
        self._inputs, self._learner, self._settings = inputs, learner, inputs.settings
        self._names = [corpus.entry.task_name for corpus in inputs.held_out]
        self._has_run, self._rows = False, 0
        self._prefetcher = Prefetcher(self._settings.dataloader_num_threads, 0)

    def is_due(self, iteration: int, data_ends: bool) -> bool:
        """Whether this iteration is evaluated; `data_ends`: it is the last, since nothing is left to train on."""
        last = data_ends or iteration == self._settings.train_iters
        return last or iteration % self._settings.eval_interval == 0

    def run(self, stops: Callable[[], bool] = lambda: False) -> Evaluated | None:
        """Read the held-out data and measure; every rank must call it. `stops` says whether this rank is asked to end
        the run: then it is broken off, and there is nothing."""
        started, tasks = time.perf_counter(), len(self._names)
        sums = _Sums([0.0] * tasks, [0.0] * tasks, {})
        with undisturbed(self._learner.model), about(self._inputs.held_out_by):
            share, counted = self._settings.max_damaged_share, None if self._has_run else ""
            left_out, self._has_run = LeftOut(self._inputs.held_out, share, [0] * tasks, [0] * tasks, counted), True
            for batch, counts in self._steps(stops):
                if counts.stops:
                    return None
                runtime.begin("an evaluation")
                left_out.take(batch, counts, [0] * tasks)
                losses = step_losses(self._learner.model, self._learner.objective, batch, counts)
                sums.add(counts, losses)
            if not sum(sums.units):
                raise UserError("nothing that an evaluation reads of it has a target")
        log_likelihood = self._learner.objective.log_likelihood
        return sums.evaluated(self._names, log_likelihood, time.perf_counter() - started)

    def _steps(self, stops: Callable[[], bool]) -> Iterator[tuple[StepBatch, StepCounts]]:
        """This rank's batches, as many on all; the last may hold nothing but records that are left out."""
        plan, iters = make_plan(self._inputs), self._settings.eval_iters
        self._rows = self._rows or runtime.all_reduce(about_rows(self._inputs.held_out, plan.row_length), "max")
        batches = SinglePass(
            self._inputs.held_out,
            self._settings.seed,
            plan.row_length,
            plan.batch_size,
            plan.rank,
            plan.ranks,
            self._rows,
            iters * plan.rows_per_step if iters else None,
            self._prefetcher,
        )
        for batch in batches:
            counts = count_step(batch, self._learner.units(batch), batches.exhausted, 0.0, stops())
            yield batch, counts
            if counts.exhausted:
                return


@contextmanager
def undisturbed(model: Decoder) -> Iterator[None]:
    """Without gradients and dropout; random generators are put back, from which a person's transform may draw."""
    model.eval()
    try:
        with torch.no_grad(), generators_kept():
            yield
    finally:
        model.train()


def describe(evaluated: Evaluated, iteration: int) -> str:
    """The line a person reads."""
    losses = [f"{task} {loss:.4f}" for task, loss in evaluated.task_loss.items()]
    perplexity = "" if evaluated.perplexity is None else f", perplexity {evaluated.perplexity:.4g}"
    left_out = f", {evaluated.skipped:,} left out" if evaluated.skipped else ""
    seen = "".join(f", {name} {value:.3g}" for name, value in evaluated.seen.items())
    before = f"iter {iteration}: held-out loss {evaluated.loss:.4f}{perplexity}{seen}"
    after = f"; {evaluated.tokens:,} tokens, {evaluated.seconds:.1f} s{left_out}"
    tasks = "".join(as_many_as_fit(losses, LINE_WIDTH - len(before) - len(after) - len(" ()")))
    return before + (f" ({tasks})" if tasks else "") + after
