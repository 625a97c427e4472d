"""Steps that are not learned from: of a loss or gradient that is not finite, or far out of what has been usual."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from fm9g import runtime
from fm9g.data.stream.loader import StepBatch

WINDOW, FEWEST = 100, 20  # good steps that an outlier is measured by: at most the last so many, and no fewer
BAD_STEPS_FILE = "bad_steps.jsonl"  # beside metrics.jsonl
_SHOWN = 300  # characters of a line's documents


@dataclass
class BadSteps:
    """What a run has seen of them; a checkpoint's state.json holds it, so that a resumed run judges alike."""

    total: int = 0
    in_a_row: int = 0
    losses: list[float] = field(default_factory=list)  # of the last good steps
    norms: list[float] = field(default_factory=list)  # of their gradients

    def judge(self, loss: float, norm: float, sigma: float | None) -> str:
        """Why a step is bad, the same on all ranks as its figures are; "" of a good one, which is taken in."""
        why = self._fault(loss, norm, sigma)
        if why:
            self.total, self.in_a_row = self.total + 1, self.in_a_row + 1
            return why
        self.in_a_row = 0
        if sigma is not None:
            self.losses = [*self.losses, loss][-WINDOW:]
            self.norms = [*self.norms, norm][-WINDOW:]
        return ""

    def _fault(self, loss: float, norm: float, sigma: float | None) -> str:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss {loss:g}, gradient norm {norm:g}"
        if sigma is None or len(self.losses) < FEWEST:
            return ""
        for what, value, window in (("loss", loss, self.losses), ("gradient norm", norm, self.norms)):
            mean, deviation = statistics.fmean(window), statistics.pstdev(window)
            if value > mean + sigma * deviation:
                usual = f"{mean:.4g} on average over the last {len(window)} steps, with a deviation of {deviation:.2g}"
                return f"{what} {value:.4g}, which was {usual} (outlier_sigma {sigma:g})"
        return ""


def documents(batch: StepBatch, names: Sequence[str]) -> dict[str, list[int]]:
    """{task: numbers of the records} of a step over all ranks; every rank must call it."""
    found: dict[str, set[int]] = {}
    for said in runtime.gather_bytes(json.dumps(batch.records).encode()):
        for task, record in json.loads(said):
            found.setdefault(names[task], set()).add(record)
    return {name: sorted(found[name]) for name in names if name in found}


def shorten(of: dict[str, list[int]]) -> str:
    """Documents in a line of the log, as many as it holds."""
    line = "; ".join(f"{name} {', '.join(map(str, records))}" for name, records in of.items())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}… (all in {BAD_STEPS_FILE})"
