"""What a run has done, as its checkpoints hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fm9g.training.step import StepCounts


@dataclass
class Progress:
    """Counters of a run, over all ranks; those of tasks by name."""

    step: int = 0
    tokens: int = 0
    task_tokens: dict[str, int] = field(default_factory=dict)
    task_documents: dict[str, int] = field(default_factory=dict)
    task_skipped: dict[str, int] = field(default_factory=dict)  # records that gave no document
    task_damaged: dict[str, int] = field(default_factory=dict)  # those among them whose bytes have changed
    stream_sha256: str = bytes(32).hex()

    def add(self, counts: StepCounts, names: Sequence[str]) -> None:
        """Count a step as done; `names` are those of the tasks."""
        self.step += 1
        self.tokens += counts.all_places
        for totals, of_step in (
            (self.task_tokens, counts.places),
            (self.task_documents, counts.documents),
            (self.task_skipped, counts.skipped),
            (self.task_damaged, counts.damaged),
        ):
            for name, count in zip(names, of_step, strict=True):
                totals[name] = totals.get(name, 0) + count

    def records(self, name: str) -> int:
        """How many records of a task have been read."""
        return self.task_documents.get(name, 0) + self.task_skipped.get(name, 0)
