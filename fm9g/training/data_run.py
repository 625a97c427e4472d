"""only_run_dataloader: the data pipeline alone, as a run that can be resumed and compared."""

from __future__ import annotations

import time

from fm9g.data.stream.loader import Work
from fm9g.training.inputs import Inputs
from fm9g.training.run import Run, log


class DataRun(Run):
    """The data pipeline alone: only_run_dataloader."""

    kind = "dataloader"

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._lengths: list[int] = []
        self._places = 0
        self._work: list[Work] = []

    def run(self) -> None:
        """Read the steps that are left, save as training does, and report."""
        started, first_tokens = time.perf_counter(), self.progress.tokens
        for batch, counts, waited in self.batches():
            if not self._work:
                log(f"first batch after {waited:.2f} s")
            self._work.append(batch.work)
            self.advance(batch, counts)
            for strip in batch.strips:
                self._lengths += [n for n, task in zip(strip.lengths, strip.tasks, strict=True) if task >= 0]
            self._places += self.plan.rows_per_step * self.plan.row_length
            if self.settings.inspect_iters and self.progress.step % self.settings.inspect_iters == 0:
                self._report(started, first_tokens)
            self._lengths = self._lengths[-100_000:]
            self.save_if_due()
        self.save_if_new()
        self._report(started, first_tokens)
        log(self._describe_work())
        digest = self.digest.fold()
        log(f"stream_sha256 {digest}")

    def _report(self, started: float, first_tokens: int) -> None:
        seconds, tokens = time.perf_counter() - started, self.progress.tokens - first_tokens
        shares = ", ".join(self._describe_task(name, epochs) for name, epochs in self.epochs().items())
        lengths = sorted(self._lengths) or [0]
        middle, longest = lengths[len(lengths) // 2], lengths[-1]
        log(
            f"data {self.progress.step}/{self.settings.train_iters} | {tokens / max(seconds, 1e-9):,.0f} tok/s | "
            f"fill {tokens / max(1, self._places):.1%} | "
            f"rank 0: piece length median {middle}, longest {longest} | {shares}"
        )

    def _describe_task(self, name: str, epochs: float) -> str:
        progress = self.progress
        tokens, documents, skipped = (
            counts.get(name, 0) for counts in (progress.task_tokens, progress.task_documents, progress.task_skipped)
        )
        share = tokens / max(1, progress.tokens)
        left_out = f", {skipped:,} skipped" if skipped else ""
        return f"{name} {share:.2%} ({documents:,} documents, {epochs:.2f} epochs{left_out})"

    def _describe_work(self) -> str:
        """Where rank 0's loader spent its time, and how much memory its processes hold."""
        work = self._work
        total = sum(w.seconds for w in work) or 1e-9
        reading, transforming, tokenizing = (
            sum(getattr(w, part) for w in work) / total for part in ("reading", "transforming", "tokenizing")
        )
        tokens = self._places / self.plan.ranks
        last = {w.process: w for w in work}.values()
        memory = ", ".join(f"{w.memory_bytes / 1e6:,.0f} MB" for w in last)
        retries = sum(w.retries for w in last)
        return (
            f"rank 0: {tokens / total:,.0f} tok/s per loader process while it works; time: reading {reading:.0%}, "
            f"transforming {transforming:.0%}, tokenizing {tokenizing:.0%}, "
            f"packing {max(0.0, 1 - reading - transforming - tokenizing):.0%}; memory: {memory}"
            + (f"; {retries} reads tried again" if retries else "")
        )
