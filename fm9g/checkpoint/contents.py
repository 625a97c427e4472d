"""What a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fm9g.checkpoint.weights_files import SharedTensors


def _nothing() -> None:
    pass


class Contents(NamedTuple):
    """What this rank writes of a checkpoint, and who is told how that went."""

    files: dict[str, Any]  # {name: contents}, of this rank
    state: dict[str, Any]  # state.json
    weights: SharedTensors | None = None  # of a run with a model
    best: int | None = None  # the step of the run's best checkpoint, when this one is there
    undo: Callable[[], None] = _nothing  # called where it could not be written
