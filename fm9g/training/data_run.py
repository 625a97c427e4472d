"""only_run_dataloader: the data pipeline alone, as a run that can be resumed and compared."""

from __future__ import annotations

import time

from fm9g.training.inputs import Inputs
from fm9g.training.run import Run, log


class DataRun(Run):
    """The data pipeline alone: only_run_dataloader."""

    kind = "dataloader"

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._lengths: list[int] = []
        self._places = 0

    def run(self) -> None:
        """Read the steps that are left, save as training does, and report."""
        started, first_tokens = time.perf_counter(), self.progress.tokens
        for batch, counts, _ in self.batches():
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
        digest = self.digest.fold()
        log(f"stream_sha256 {digest}")

    def _report(self, started: float, first_tokens: int) -> None:
        seconds, tokens = time.perf_counter() - started, self.progress.tokens - first_tokens
        total = max(1, self.progress.tokens)
        shares = ", ".join(
            f"{name} {count / total:.2%} ({self.progress.task_documents[name]:,} documents)"
            for name, count in self.progress.task_tokens.items()
        )
        lengths = sorted(self._lengths) or [0]
        middle, longest = lengths[len(lengths) // 2], lengths[-1]
        log(
            f"data {self.progress.step}/{self.settings.train_iters} | {tokens / max(seconds, 1e-9):,.0f} tok/s | "
            f"fill {tokens / max(1, self._places):.1%} | "
            f"rank 0: piece length median {middle}, longest {longest} | {shares}"
        )
