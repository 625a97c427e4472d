"""Where a run starts: from settings and what is on the disk to what is loaded and how rows are dealt."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fm9g.checkpoint.choice import start_step
from fm9g.checkpoint.folder import RunFolder
from fm9g.checkpoint.manifest import weights_in
from fm9g.checkpoint.named import find_weights, size_fault
from fm9g.errors import UserError, about
from fm9g.files import require_file
from fm9g.training.settings import Settings


@dataclass(frozen=True)
class Start:
    """What a run begins with; what is not named begins anew."""

    weights: Path | None = None  # as read_weights takes them
    adapters: Path | None = None  # for those weights
    optimizer: Path | None = None  # the folder of a checkpoint, for the optimizer's state
    resumed: Path | None = None  # that of the checkpoint whose progress, loss scale and random generators go on
    data: bool = False  # whether its data goes on, too

    def __str__(self) -> str:
        if self.resumed is not None:
            return str(self.resumed)
        if self.weights is None:
            return "step 0 with new weights"
        return f"step 0 with the weights of {self.weights}" + (f" and {self.adapters}" if self.adapters else "")


class Resumed(NamedTuple):
    """What is taken of a checkpoint that is resumed, beside its weights."""

    progress: bool  # and what goes with it: loss scale and random generators
    optimizer: bool
    data: bool

    @classmethod
    def by(cls, settings: Settings) -> Resumed:
        """As the settings say."""
        full = not settings.only_load_model
        optimizer = full if settings.load_grad is None else settings.load_grad
        return cls(full, optimizer, full and settings.load_dataloader_ckpt is not False)

    def needs(self, name: str) -> bool:
        """Whether a checkpoint's file of that name is read."""
        parts = {"optimizer-": self.optimizer, "data-": self.data, "random-": self.progress}
        return next((read for prefix, read in parts.items() if name.startswith(prefix)), True)


def start_from(settings: Settings, checkpoints: Path, step: int | None) -> Start:
    """The start of a run whose folder `checkpoints` has `step` to resume, or None.

    What is resumed comes first, so that the same command begins a run from pretrained weights and restarts it.
    """
    if step is not None:
        folder, resumed = checkpoints / str(step), Resumed.by(settings)
        saved = weights_in(folder, step)
        return Start(
            weights=_file(settings, "pretrained_model") if settings.lora else saved,
            adapters=saved if settings.lora else None,
            optimizer=folder if resumed.optimizer else None,
            resumed=folder if resumed.progress else None,
            data=resumed.data,
        )
    if not settings.pretrained_model:
        if settings.load_grad:
            raise UserError("load_grad=1 needs a checkpoint: give resume_ckpt or pretrained_model")
        return Start()
    adapters = _file(settings, "pretrained_lora") if settings.pretrained_lora else None
    weights = _file(settings, "pretrained_model")
    return Start(weights, adapters, optimizer=(adapters or weights).parent if settings.load_grad else None)


def planned_start(settings: Settings, folder: RunFolder) -> Start:
    """Where a run will start, before it begins: of a checkpoint the names and sizes of its files are looked at."""
    step = start_step(folder, settings.resume_ckpt, Resumed.by(settings).needs)
    return start_from(settings, folder.checkpoints, step)


def _file(settings: Settings, name: str) -> Path:
    """The file of weights that a setting names; of one in a checkpoint names and sizes are compared."""
    with about(name):
        return require_file(find_weights(Path(getattr(settings, name)), size_fault))


def deal_rows(settings: Settings, rows: int, groups: int) -> Settings:
    """The settings with which a step of so many groups of tp_size ranks has as many rows as in the saved run.

    The order of rows depends on their number per step, so where no grad_accum fits this is a UserError.
    """
    if rows % (groups * settings.batch_size):
        together = settings.tp_size
        sizes = [size for size in range(1, rows + 1) if rows % (groups * size) == 0]
        fitting = ", ".join(f"batch_size {size} with grad_accum {rows // (groups * size)}" for size in sizes)
        numbers = ", ".join(str(count * together) for count in range(1, rows + 1) if rows % count == 0)
        ranks = f"{groups * together} rank(s)" + (f" of tp_size {together}" if together > 1 else "")
        raise UserError(
            f"the checkpoint was made with {rows} rows per step, which {ranks} with batch_size "
            f"{settings.batch_size} cannot divide: use {fitting or f'a number of ranks among {numbers}'}, "
            "or load_dataloader_ckpt=0 to start the data anew"
        )
    return dataclasses.replace(settings, grad_accum=rows // (groups * settings.batch_size))
