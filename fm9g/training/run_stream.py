"""A run's data, step by step: what each step holds over all ranks, what is wrong with it, and where it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fm9g import runtime
from fm9g.checkpoint.saved import Saved
from fm9g.data.stream.continuation import extend_generations
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.digest import StreamDigest
from fm9g.data.stream.loader import Loader, Plan, StepBatch, StepStream
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.stream.saved_stream import STATES_FILE, check_stream, describe_stream, load_states
from fm9g.errors import UserError
from fm9g.runtime.log import log
from fm9g.training.inputs import Inputs
from fm9g.training.left_out import LeftOut
from fm9g.training.progress import Progress
from fm9g.training.settings import Settings
from fm9g.training.step import StepCounts, count_step
from fm9g.training.throughput import step_flops


def make_plan(inputs: Inputs) -> Plan:
    """The plan of rows for this rank."""
    settings = inputs.settings
    return Plan(
        settings.seed,
        settings.max_length,
        settings.batch_size,
        settings.grad_accum,
        runtime.data_rank(),
        runtime.data_ranks(),
    )


def make_loader(
    settings: Settings, plan: Plan, corpora: list[Corpus], first_step: int, states: dict[int, np.ndarray]
) -> Loader:
    """The loader of steps first_step to train_iters."""
    steps = range(first_step, settings.train_iters)
    prefetcher = Prefetcher(settings.dataloader_num_threads, settings.dataloader_prefetch)
    stream = StepStream(plan, corpora, steps, states, prefetcher)
    return Loader(stream, settings.dataloader_num_workers, settings.dataloader_prefetch_factor)


class Step(NamedTuple):
    """A step that has been read: this rank's part of it, what it is over all ranks, and the seconds waited for it."""

    batch: StepBatch
    counts: StepCounts
    waited: float


class RunStream:
    """The steps that are left of a run, from its beginning or from what a checkpoint has saved of its data."""

    def __init__(self, inputs: Inputs, progress: Progress, saved: Saved | None) -> None:
        self.inputs, self.progress = inputs, progress
        self.plan, self.corpora = make_plan(inputs), inputs.corpora  # with what has been appended to them since
        states = {} if saved is None else self._continue(saved)
        self.digest = StreamDigest(self.plan, bytes.fromhex(progress.stream_sha256))
        self._loader = make_loader(inputs.settings, self.plan, self.corpora, progress.step, states)
        skipped, damaged = (
            [of.get(name, 0) for name in self.names] for of in (progress.task_skipped, progress.task_damaged)
        )
        counted = " (counted in state.json as task_skipped)"
        self._left_out = LeftOut(self.corpora, inputs.settings.max_damaged_share, skipped, damaged, counted)
        self.ended = False  # whether nothing was left to read before train_iters
        self.stopped = False  # whether it was asked to stop before its end
        self._interrupted = False

    def _continue(self, saved: Saved) -> dict[int, Any]:
        """The states of the lanes of a checkpoint; the corpora go on as it has read them."""
        before, settings = saved.state["stream"], self.inputs.settings
        check_stream(before, self.plan, self.inputs.tokenizer, self.corpora, settings.accept_changed_data)
        states = load_states(saved.files(STATES_FILE), before, self.corpora, settings.parallel_load_datastate)
        generations = extend_generations(self.corpora, settings.seed, before, states)
        self.corpora = [corpus.continued(generations[corpus.entry.task_name]) for corpus in self.corpora]
        for corpus in self.corpora:
            if len(corpus.generations) > 1:
                last, now = corpus.generations[-2:]
                name, more = corpus.entry.task_name, now.records - last.records
                log(f"dataset {name!r}: {more:,} records were appended; they are read from epoch {now.epoch + 1} on")
        return states

    @property
    def names(self) -> list[str]:
        """The tasks, in the order of all lists by task."""
        return [corpus.entry.task_name for corpus in self.corpora]

    def records_done(self) -> list[int]:
        """How many records of each dataset have been read."""
        return [self.progress.records(name) for name in self.names]

    def epochs(self) -> dict[str, float]:
        """How many epochs of each dataset have been read, by task."""
        done = zip(self.corpora, self.records_done(), strict=True)
        return {corpus.entry.task_name: round(corpus.epochs(records), 6) for corpus, records in done}

    def steps(
        self, units: Callable[[StepBatch], list[float]], stops: Callable[[], bool] = lambda: False
    ) -> Iterator[Step]:
        """The steps left, until the data ends; `units` gives this rank's units of the loss by task, and `stops` says
        whether this rank is asked to end the run after the step at hand.

        Who has learned from a step counts it as done by `advance`, before asking for the next.
        """
        iterator, train_iters = iter(self._loader), self.inputs.settings.train_iters
        if self.progress.step >= train_iters:
            log(f"step {self.progress.step} of {train_iters}: nothing is left to train")
        for _ in range(self.progress.step, train_iters):
            runtime.begin(f"reading the data of step {self.progress.step + 1}")
            started = time.perf_counter()
            batch = next(iterator)
            runtime.begin(f"step {self.progress.step + 1}")
            waited = time.perf_counter() - started
            settings = self.inputs.settings
            flops = step_flops(self.inputs.model_config, batch, settings.lora, settings.attention_group)
            counts = count_step(batch, units(batch), self._loader.exhausted, flops, stops())
            if counts.exhausted and not counts.all_places:
                self.ended = True
                return
            self._left_out.take(batch, counts, self.records_done())
            yield Step(batch, counts, waited)
            self.stopped = self._interrupted or (counts.stops and self.progress.step < train_iters)
            if self.stopped:
                return

    def interrupt(self) -> None:
        """Give no more steps: what belongs to the one at hand is not done, and is when the run goes on."""
        self.stopped = self._interrupted = True

    def advance(self, step: Step) -> None:
        """Count a step as done."""
        self.progress.add(step.counts, self.names)
        self.digest.add(step.batch.row_digests)

    def check_end(self) -> None:
        """Say that the data has ended before the run, or refuse it, as the settings ask."""
        if not self.ended:
            return
        settings = self.inputs.settings
        message = f"the mixture is exhausted after {self.progress.step} of {settings.train_iters} steps"
        if not (settings.stop_when_end or settings.counts_epochs):
            raise UserError(f"{message}: use stop_when_end=1 to end there, or allow_repeat for a dataset")
        log(message)

    def files(self) -> dict[str, Any]:
        """This rank's file of a checkpoint."""
        return {STATES_FILE.format(rank=runtime.rank()): self._loader.state_dict()}

    def description(self) -> dict[str, Any]:
        """What the files belong to, for state.json."""
        return describe_stream(self.plan, self.inputs.tokenizer, self.corpora)
