"""Where a run starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fm9g.checkpoint.settings import StartSettings
from fm9g.errors import UserError
from fm9g.files import require_file


@dataclass(frozen=True)
class Start:
    """What a run begins with: a checkpoint of its own, or pretrained weights, or (both None) new ones."""

    checkpoint: Path | None = None  # the folder of a step
    pretrained: Path | None = None  # a .pt
    only_weights: bool = False  # of the checkpoint: all else is new

    def __str__(self) -> str:
        if self.checkpoint is not None:
            return f"step 0 with the weights of {self.checkpoint}" if self.only_weights else f"{self.checkpoint}"
        return "step 0 with new weights" if self.pretrained is None else f"step 0 with the weights of {self.pretrained}"


def start_from(settings: StartSettings, checkpoints: Path, step: int | None) -> Start:
    """The start of a run whose folder `checkpoints` has `step` to resume, or None.

    What is resumed comes first, so that the same command begins a run from pretrained weights and restarts it.
    """
    if step is not None:
        return Start(checkpoint=checkpoints / str(step), only_weights=bool(settings.only_load_model))
    if not settings.pretrained_model:
        return Start()
    weights = Path(settings.pretrained_model)
    try:
        require_file(weights)
    except UserError as error:
        raise UserError(f"pretrained_model: {error}") from None
    return Start(pretrained=weights)
