"""Where a run starts, and where each of its settings comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm9g.data.inspect.display import LINE_WIDTH, list_lines
from fm9g.errors import UserError
from fm9g.files import require_file
from fm9g.training.arguments import DEFAULT, FIELDS, Settings

# told even where they have their default: they decide what is learned, and how fast
_ALWAYS_TOLD = (
    *("config", "tokenizer_path", "dataset_config", "max_length", "batch_size", "grad_accum", "train_iters", "lr"),
    *("lr_scheduler", "warmup_iters", "weight_decay", "clip_grad", "seed", "save_iters"),
)
# what a resumed run may have otherwise than its checkpoint's, although few mean it
_LEARNED_WITH = (
    *("train_iters", "lr", "lr_scheduler", "warmup_iters", "drop_iters", "drop_begin", "drop_rate", "weight_decay"),
    *("betas", "clip_grad", "eps"),
)
_INDENT = 2  # columns before each of these lines where they are printed


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


def start_from(settings: Settings, checkpoints: Path, step: int | None) -> Start:
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


def settings_lines(settings: Settings) -> list[str]:
    """The settings that were given and those that matter, by where they come from, in lines of 120 columns."""
    told: dict[str, list[str]] = {}
    for name in FIELDS:
        source = settings.source(name)
        if source != DEFAULT or name in _ALWAYS_TOLD:
            told.setdefault(source, []).append(f"{name} {_told(getattr(settings, name))}")
    sources = sorted(told, key=lambda source: source == DEFAULT)
    return [line for source in sources for line in list_lines(source, told[source], LINE_WIDTH - _INDENT)]


def changed_settings(saved: dict[str, Any], settings: Settings) -> list[str]:
    """What a resumed run learns with that is not what its checkpoint's run had, given that run's settings."""
    return [
        f"{name} is {_told(getattr(settings, name))} ({settings.source(name)}), it was {_told(saved[name])}"
        for name in _LEARNED_WITH
        if name in saved and _plain(saved[name]) != _plain(getattr(settings, name))
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # JSON knows no tuples


def _told(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
