"""Records that give no document: which they are, and when too many of them are damaged."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fm9g import runtime
from fm9g.commandline import command
from fm9g.data.record import record_name
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.loader import StepBatch
from fm9g.errors import UserError
from fm9g.runtime.log import log
from fm9g.training.step import StepCounts


class LeftOut:
    """Counts them over all ranks, by dataset, from `skipped` and `damaged` (those among them) on.

    `allowed` is the share of a dataset's records that may be damaged; `counted`: where a run counts them, in words;
    None: which they are has been said before.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        allowed: float,
        skipped: list[int],
        damaged: list[int],
        counted: str | None = "",
    ) -> None:
        self._corpora, self._allowed, self._counted = corpora, allowed, counted
        self._skipped, self._damaged = skipped, damaged

    def take(self, batch: StepBatch, counts: StepCounts, done: Sequence[int]) -> None:
        """Count those of a step and say what is new; `done` are the records read before it, by dataset.

        UserError, on every rank alike, where too many are damaged.
        """
        named = [skipped > damaged for skipped, damaged in zip(self._skipped, self._damaged, strict=True)]
        for task, corpus in enumerate(self._corpora):
            self._skipped[task] += counts.skipped[task]
            self._damaged[task] += counts.damaged[task]
            if counts.damaged[task]:
                self._check_damage(batch, task, 1 + int(corpus.epochs(done[task])))
        if self._counted is None:
            return
        self._name_damaged(batch)
        for task, already in enumerate(named):
            if counts.skipped[task] > counts.damaged[task] and not already:
                self._name_first(batch, task)

    def _name_damaged(self, batch: StepBatch) -> None:
        if runtime.tp_rank():  # another has the same rows
            return
        for reason in (skip.reason for _, skip in batch.skipped if skip.damaged):
            print(f"warning: rank {runtime.rank()} skips a damaged record: {reason}", file=sys.stderr, flush=True)

    def _check_damage(self, batch: StepBatch, task: int, epochs: int) -> None:
        """`epochs`: in so many a damaged record has been met."""
        corpus, total = self._corpora[task], self._damaged[task]
        if total <= self._allowed * corpus.records * epochs:
            return
        reason = next((skip.reason for number, skip in batch.skipped if skip.damaged and number == task), "")
        where = f" ({reason})" if reason else ""  # another rank's
        raise UserError(
            f"dataset {corpus.entry.task_name!r}: {total} damaged record(s) so far{where}, more than the share of "
            f"max_damaged_share={self._allowed:g}: restore the data ({command('check')} {corpus.entry.path} "
            "finds every damaged record), then resume"
        )

    def _name_first(self, batch: StepBatch, task: int) -> None:
        """Name the first record that is left out, or its dataset where another rank met it."""
        first = next((skip for number, skip in batch.skipped if number == task and not skip.damaged), None)
        why = f", {record_name(first.record)}: {first.reason}" if first else ""
        log(f"dataset {self._corpora[task].entry.task_name!r}: records are left out{why}{self._counted}")
