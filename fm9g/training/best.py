"""The best of a run's evaluations: which checkpoint that is, and for how long there has been no better one."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Best:
    """Held-out losses so far, the lower the better; a checkpoint's state.json holds it, so that a resumed run goes on.

    `saved_step` is that of the best checkpoint: of a step that was evaluated, too. None where there is none.
    """

    loss: float | None = None
    since: int = 0  # evaluations after it that were no better
    last_step: int = -1  # the last that was evaluated
    last_loss: float | None = None
    saved_loss: float | None = None
    saved_step: int | None = None
    owed_step: int = -1  # whose evaluation was due when the run was stopped

    def add(self, step: int, loss: float) -> bool:
        """Take in an evaluation, of a step that is evaluated again once; whether it is the best so far."""
        if step == self.last_step:
            return False
        self.last_step, self.last_loss = step, loss
        if not math.isfinite(loss) or (self.loss is not None and loss >= self.loss):
            self.since += 1
            return False
        self.loss, self.since = loss, 0
        return True

    def save(self, step: int) -> tuple[float | None, int | None]:
        """Take in that a checkpoint of a step is written; what `undo_save` needs where it could not be."""
        loss, before = self.last_loss, (self.saved_loss, self.saved_step)
        better = self.saved_loss is None or (loss is not None and loss < self.saved_loss)
        if step == self.last_step and loss is not None and math.isfinite(loss) and better:
            self.saved_loss, self.saved_step = loss, step
        return before

    def undo_save(self, before: tuple[float | None, int | None]) -> None:
        """The last `save` was none."""
        self.saved_loss, self.saved_step = before

    def is_stale(self, patience: int) -> bool:
        """Whether so many evaluations in a row were no better; 0 is as many as there are."""
        return 0 < patience <= self.since
