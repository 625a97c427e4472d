"""only_run_dataloader: the data pipeline alone, as a run that can be resumed and compared."""

from __future__ import annotations

import time

import numpy as np

from fm9g import runtime
from fm9g.checkpoint.checkpoints import Checkpoints
from fm9g.checkpoint.contents import Contents
from fm9g.data.stream.loader import StepBatch, Work
from fm9g.data.stream.strip import IGNORED
from fm9g.runtime.log import log
from fm9g.training.run_state import run_state
from fm9g.training.run_stream import RunStream
from fm9g.training.stopping import Stopping

_KEPT_LENGTHS = 100_000


def _no_units(batch: StepBatch) -> list[float]:
    return [0.0] * len(batch.tokens)  # nothing is learned


class DataRun:
    """The data pipeline alone: only_run_dataloader."""

    def __init__(self, stream: RunStream, checkpoints: Checkpoints) -> None:
        self._stream, self._checkpoints = stream, checkpoints
        self._settings, self._progress = stream.inputs.settings, stream.progress
        self._lengths: list[int] = []
        self._places = 0
        tasks = len(stream.names)
        self._learned, self._read = np.zeros(tasks, dtype=np.int64), np.zeros(tasks, dtype=np.int64)  # of rank 0
        self._short = np.zeros(tasks, dtype=np.int64)  # answers of which a template leaves out something, of rank 0
        self._work: list[Work] = []

    def run(self) -> None:
        """Read the steps that are left, save as training does, and report."""
        started, first_tokens = time.perf_counter(), self._progress.tokens
        runtime.expect_progress(self._settings.step_timeout)
        for step in self._stream.steps(_no_units, Stopping(self._settings.max_hours).asked):
            if not self._work:
                log(f"first batch after {step.waited:.2f} s")
            self._stream.advance(step)
            self._note(step.batch)
            every = self._settings.inspect_iters
            if every and self._progress.step % every == 0:
                self._report(started, first_tokens)
            self._checkpoints.settle(wait=False)
            self._checkpoints.save_if_due(self._progress.step, self._contents)
        self._checkpoints.save_last(self._progress.step, self._contents)
        runtime.expect_nothing()
        if self._stream.stopped:
            return
        self._stream.check_end()
        self._report(started, first_tokens)
        log(self._describe_work())
        digest = self._stream.digest.fold()
        log(f"stream_sha256 {digest}")

    def _note(self, batch: StepBatch) -> None:
        plan = self._stream.plan
        self._work.append(batch.work)
        for strip in batch.strips:
            self._lengths += [n for n, task in zip(strip.lengths, strip.tasks, strict=True) if task >= 0]
        self._lengths = self._lengths[-_KEPT_LENGTHS:]
        self._places += plan.rows_per_step * plan.row_length
        self._read += batch.tokens
        self._short += batch.short
        for strip in batch.strips:
            tasks = np.repeat(strip.tasks, strip.lengths)[(strip.targets != IGNORED).numpy()]
            self._learned += np.bincount(tasks, minlength=len(self._learned))

    def _contents(self) -> Contents:
        return Contents(self._stream.files(), run_state(self._stream, "dataloader"))

    def _report(self, started: float, first_tokens: int) -> None:
        seconds, tokens = time.perf_counter() - started, self._progress.tokens - first_tokens
        learned = (self._learned / np.maximum(self._read, 1)).tolist()
        tasks = zip(self._stream.epochs().items(), learned, self._short.tolist(), strict=True)
        shares = ", ".join(self._describe_task(name, epochs, part, short) for (name, epochs), part, short in tasks)
        lengths = sorted(self._lengths) or [0]
        middle, longest = lengths[len(lengths) // 2], lengths[-1]
        log(
            f"data {self._progress.step}/{self._settings.train_iters} | {tokens / max(seconds, 1e-9):,.0f} tok/s | "
            f"fill {tokens / max(1, self._places):.1%} | "
            f"rank 0: piece length median {middle}, longest {longest} | {shares}"
        )

    def _describe_task(self, name: str, epochs: float, learned: float, short: int) -> str:
        progress = self._progress
        tokens, documents, skipped = (
            counts.get(name, 0) for counts in (progress.task_tokens, progress.task_documents, progress.task_skipped)
        )
        share = tokens / max(1, progress.tokens)
        left_out = f", {skipped:,} skipped" if skipped else ""
        counted = f"{documents:,} documents, {epochs:.2f} epochs, {learned:.1%} learned"
        shortened = f", the template leaves something out of {short:,} answers" if short else ""
        return f"{name} {share:.2%} ({counted}{left_out}{shortened})"

    def _describe_work(self) -> str:
        """Where rank 0's loader spent its time, and how much memory its processes hold."""
        work = self._work
        total = sum(w.seconds for w in work) or 1e-9
        reading, transforming, tokenizing = (
            sum(getattr(w, part) for w in work) / total for part in ("reading", "transforming", "tokenizing")
        )
        tokens = self._places / self._stream.plan.ranks
        last = {w.process: w for w in work}.values()
        memory = ", ".join(f"{w.memory_bytes / 1e6:,.0f} MB" for w in last)
        retries = sum(w.retries for w in last)
        return (
            f"rank 0: {tokens / total:,.0f} tok/s per loader process while it works; time: reading {reading:.0%}, "
            f"transforming {transforming:.0%}, tokenizing {tokenizing:.0%}, "
            f"packing {max(0.0, 1 - reading - transforming - tokenizing):.0%}; memory: {memory}"
            + (f"; {retries} reads tried again" if retries else "")
        )
