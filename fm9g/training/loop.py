"""The iterations of a run: read a step, learn from it, evaluate, report, save."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from fm9g import runtime
from fm9g.checkpoint.checkpoints import Checkpoints
from fm9g.checkpoint.contents import Contents
from fm9g.checkpoint.manifest import TRAINING
from fm9g.checkpoint.weights import weights_of
from fm9g.errors import UserError
from fm9g.runtime import collectives
from fm9g.runtime.log import log
from fm9g.training import stragglers
from fm9g.training.bad_steps import documents, shorten
from fm9g.training.best import Best
from fm9g.training.evaluation import Evaluation, describe
from fm9g.training.learner import BAD_STEP, Diverged, Learned, Learner
from fm9g.training.loss_plot import plot_loss
from fm9g.training.metrics import Evaluated, Metrics, MetricsWriter, readable_line
from fm9g.training.parameter_summary import summarize
from fm9g.training.results import write_results
from fm9g.training.run_state import run_state
from fm9g.training.run_stream import RunStream, Step
from fm9g.training.samples import Samples
from fm9g.training.step import means
from fm9g.training.stopping import Stopping
from fm9g.training.throughput import peak_flops


class Loop:
    """What a run does until train_iters or the end of its data. `writer` is rank 0's."""

    def __init__(
        self,
        stream: RunStream,
        learner: Learner,
        checkpoints: Checkpoints,
        evaluation: Evaluation | None,
        samples: Samples | None,
        writer: MetricsWriter | None,
        best: Best,
    ) -> None:
        self.stream, self.learner, self.checkpoints = stream, learner, checkpoints
        self.evaluation, self.samples, self.writer, self.best = evaluation, samples, writer, best
        self._settings, self._progress = stream.inputs.settings, stream.progress
        self._last_evaluated: Evaluated | None = None
        self._peak = peak_flops(stream.inputs.model_config.dtype)
        self._stopping = Stopping(self._settings.max_hours)

    def run(self) -> None:
        """Run the iterations that are left, or until it is asked to stop, then save."""
        runtime.expect_progress(self._settings.step_timeout)
        try:
            self._run()
        finally:
            runtime.expect_nothing()

    def _run(self) -> None:
        first, train_iters = self._progress.step, self._settings.train_iters
        metrics: Metrics | None = None
        self._evaluate_start()
        if self.stream.stopped:
            return
        if self.checkpoints.last == first:  # a kill or a stop may have come before it
            self.best.save(first)
            self.checkpoints.name_best(self.best.saved_step)
        if self._is_stale():
            self._write_results()  # a kill may have come before it
            return
        started = time.perf_counter()
        if first < train_iters:
            log(f"step {first + 1} of {train_iters} begins")
        try:
            for step in self.stream.steps(self.learner.units, self._stopping.asked):
                metrics = self._iteration(step)
                seconds = (time.perf_counter() - started) / (self._progress.step - first)
                self._report(metrics, seconds * (train_iters - metrics.iteration))
                stops = self._note_evaluated(metrics)
                self.checkpoints.settle(wait=False)
                self.checkpoints.save_if_due(self._progress.step, self.contents, put_off=metrics.skipped == BAD_STEP)
                if stops:
                    break
            if metrics is not None and self.stream.ended:
                self._evaluate_last(metrics)
            self.checkpoints.save_last(self._progress.step, self.contents)
            if self.stream.stopped:
                return  # it has no results yet
        except Diverged as diverged:
            raise UserError(f"{diverged.what}; {self._way_back()}{diverged.hint}") from None
        self._write_results()
        self.stream.check_end()

    def _iteration(self, step: Step) -> Metrics:
        """One optimizer step and its metrics."""
        iteration = step.batch.step + 1
        if measured := stragglers.is_measured(iteration) and not self._settings.skips(iteration):
            collectives.measure()
        started = time.perf_counter()
        learned = self.learner.step(step.batch, step.counts, self._inspection(iteration))
        self.stream.advance(step)
        runtime.synchronize_device()
        waited = collectives.measured()
        seconds = time.perf_counter() - started + step.waited
        own_seconds = max(0.0, seconds - waited)  # a GPU gathers while it computes
        metrics = self._metrics(step, learned, seconds)
        if measured:
            metrics.ranks = stragglers.spread(own_seconds, seconds)
        if learned.fault:
            self._note_fault(step, learned)
        if self.evaluation is not None and self.evaluation.is_due(iteration, step.counts.exhausted):
            if step.counts.stops and iteration < self._settings.train_iters:
                self.best.owed_step = iteration  # it is evaluated when the run goes on
            else:
                metrics.evaluated = self._evaluate(self.evaluation)
        return metrics

    def _note_fault(self, step: Step, learned: Learned) -> None:
        """Say what a step was made of that is not learned from; Diverged where too many were bad."""
        iteration, fault, of = self._progress.step, learned.fault, documents(step.batch, self.stream.names)
        log(f"iteration {iteration}, {learned.skipped}: nothing is learned from it: {fault}; documents: {shorten(of)}")
        if self.writer:
            self.writer.write_bad_step(iteration, fault, of)
        if learned.skipped == BAD_STEP:
            self.learner.check_bad_steps(iteration, fault)

    def _note_evaluated(self, metrics: Metrics) -> bool:
        """Take in an iteration's evaluation, if it has one, and save the best where that is asked for; whether it is
        time to stop."""
        if metrics.evaluated is None:
            return False
        if self.best.add(metrics.iteration, metrics.evaluated.loss) and self._settings.save_best:
            self.checkpoints.save_if_new(metrics.iteration, self.contents)
        return self._is_stale()

    def _is_stale(self) -> bool:
        """Whether early_stop says that it is enough; that is told."""
        stale = self.best.is_stale(self._settings.early_stop)
        if stale:
            found = f"{self.best.since} evaluations without a held-out loss below {self.best.loss:.4f}"
            log(f"early_stop: {found}; with a higher early_stop it would go on")
        return stale

    def _evaluate(self, evaluation: Evaluation) -> Evaluated | None:
        """Evaluate what has been learned so far, and say what is found; None where the run is asked to stop first."""
        evaluated = evaluation.run(self._stopping.asked)
        if evaluated is None:
            log("the evaluation is broken off: it is made when the run goes on")
            self.best.owed_step = self._progress.step
            self.stream.interrupt()
            return None
        log(describe(evaluated, self._progress.step))
        self._last_evaluated = evaluated
        if self.samples is not None:
            taken = self.samples.take(self._progress.step)
            if self.writer:
                self.writer.write_samples(taken, self._progress.step)
        return evaluated

    def _evaluate_start(self) -> None:
        """Evaluate what a run starts from or goes on from: before anything is learned, it is found out whether held-out
        data can be read, and a finished run has an evaluation too.

        One that a run which went on without a stop does not have counts neither for the best nor for early_stop.
        """
        if self.evaluation is None:
            return
        step, owed = self._progress.step, self.best.owed_step
        evaluated = self._evaluate(self.evaluation)
        if evaluated is None:
            self.best.owed_step = owed
            return
        if step in (0, owed) or self.evaluation.is_due(step, data_ends=False):
            self.best.add(step, evaluated.loss)
        if self.writer and step == owed:
            self.writer.write_owed(evaluated, step)
        elif self.writer:
            self.writer.write_evaluated(evaluated, step)

    def _evaluate_last(self, metrics: Metrics) -> None:
        """Evaluate the last iteration, where that it was the last showed only in records after it that are left out."""
        if self.evaluation is None or metrics.evaluated is not None:
            return
        evaluated = self._evaluate(self.evaluation)
        if evaluated is None:
            return
        self.best.add(self._progress.step, evaluated.loss)
        if self.writer:
            self.writer.write_late(metrics, evaluated)

    def _metrics(self, step: Step, learned: Learned, seconds: float) -> Metrics:
        counts, losses, progress = step.counts, learned.losses, self._progress
        return Metrics(
            iteration=progress.step,
            loss=losses.loss if losses and counts.all_units else None,
            lr=learned.rate,
            grad_norm=learned.norm,
            tokens=progress.tokens,
            tokens_per_second=counts.all_places / seconds,
            mfu=counts.flops / seconds / (self._peak * runtime.world_size()) if self._peak else None,
            step_seconds=seconds,
            data_seconds=step.waited,
            memory_bytes=runtime.all_reduce(runtime.memory_bytes(), "max"),
            task_loss={name: losses.by_task[i] for i, name in enumerate(self.stream.names) if counts.units[i]}
            if losses
            else {},
            task_tokens=dict(progress.task_tokens),
            task_documents=dict(progress.task_documents),
            task_epochs=self.stream.epochs(),
            loss_scale=learned.scale,
            seen=means(losses.seen) if losses else {},
            skipped=learned.skipped,
            bad_steps=self.learner.bad_steps.total,
        )

    def _inspection(self, iteration: int) -> Callable[[], None] | None:
        """What records parameters and gradients, where this iteration's are asked for; every rank must call it."""
        every = self._settings.inspect_iters
        if not every or iteration % every:
            return None

        def inspect() -> None:
            summary = summarize(self.learner.model)
            if self.writer:
                self.writer.write_summary(summary, iteration)

        return inspect

    def _report(self, metrics: Metrics, seconds_left: float) -> None:
        every, train_iters = self._settings.log_iters, self._settings.train_iters
        if metrics.iteration % every == 0 or metrics.iteration == train_iters:
            log(readable_line(metrics, train_iters, seconds_left, metrics.iteration // every))
        if self.writer:
            self.writer.write(metrics)

    def _write_results(self) -> None:
        if not self.writer:
            return
        step = self.best.saved_step
        best = {
            "best_metric": self.best.loss if step is None else self.best.saved_loss,
            "best_model_checkpoint": None if step is None else str(self.checkpoints.path(step)),
        }
        settings, logs = self._settings, self.checkpoints.folder.logs
        history = write_results(logs, self._last_evaluated, settings.log_iters, settings.train_iters, best)
        if settings.plot_loss:
            plot_loss(logs / "loss.png", history)

    def contents(self) -> Contents:
        """A whole checkpoint; Diverged instead where the weights are no longer finite."""
        self.learner.check_weights(self._progress.step)
        before = self.best.save(self._progress.step)
        state = {**run_state(self.stream, TRAINING), **self.learner.state(), "best": dataclasses.asdict(self.best)}
        files = {**self.stream.files(), **self.learner.files()}
        weights = weights_of(self.learner.model, self.learner.saved_names, self._settings.save_format)
        return Contents(files, state, weights, self.best.saved_step, undo=lambda: self.best.undo_save(before))

    def _way_back(self) -> str:
        self.checkpoints.settle(wait=True)
        advice, last = "with a lower lr, a longer warm-up or other data", self.checkpoints.last
        if last < 0:
            return f"there is no checkpoint of this run yet: start it anew {advice}"
        return f"resume the last checkpoint ({self.checkpoints.path(last)}) {advice}"

    def close(self) -> None:
        """Flush what is reported, and let another process write to the run's folder."""
        if self.writer:
            self.writer.close()
        self.checkpoints.close()
