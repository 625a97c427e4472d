"""The checkpoints of one run: which is resumed, and when another is written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any, NamedTuple

from fm9g import runtime
from fm9g.checkpoint.folder import RunFolder
from fm9g.checkpoint.settings import OutputSettings
from fm9g.checkpoint.writer import CheckpointWriter
from fm9g.errors import UserError
from fm9g.files import write_text
from fm9g.runtime.log import log


class Contents(NamedTuple):
    """What a checkpoint holds: this rank's files {name: contents}, state.json, and those weights of the model that are
    named."""

    files: dict[str, Any]
    state: dict[str, Any]
    model: Any = None
    names: Collection[str] = ()


class Checkpoints:
    """Holds the run's folder locked, on rank 0, until it is closed or the process ends."""

    def __init__(self, folder: RunFolder, settings: OutputSettings) -> None:
        self.folder, self._settings = folder, settings
        self.last = -1  # the step of the newest that this run has written or gone on from
        self._lock: IO[str] | None = None

    def open(self, resume_ckpt: str) -> int | None:
        """Lock the run's folder; the step to resume, or None to start anew, the same on all ranks."""
        problem, found = "", None
        if runtime.rank() == 0:
            try:
                self.folder.create()
                self._lock = self.folder.lock()
                self.folder.clear_deleted()
                found = self.folder.start_step(resume_ckpt)
            except UserError as error:
                problem = str(error)
        problem, found = json.loads(runtime.gather_bytes(json.dumps([problem, found]).encode())[0])
        if problem:
            raise UserError(problem)
        return found

    def close(self) -> None:
        """Let another process write there."""
        if self._lock is not None:
            self._lock.close()

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self.folder.checkpoints / str(step)

    def save_if_due(self, step: int, contents: Callable[[], Contents]) -> None:
        """Write a checkpoint every save_iters steps; as `save_if_new`."""
        if step % self._settings.save_iters == 0:
            self.save_if_new(step, contents)

    def save_if_new(self, step: int, contents: Callable[[], Contents]) -> None:
        """Write a checkpoint unless there is one of this step, or save is off."""
        if self._settings.save and self.last != step:
            self.save(step, contents)

    def save(self, step: int, contents: Callable[[], Contents]) -> None:
        """Write a checkpoint; every rank must call it."""
        started = time.perf_counter()
        CheckpointWriter(self.folder.checkpoints, step).write(*contents())
        self.last = step
        log(f"saved checkpoint {step} in {time.perf_counter() - started:.1f} s")

    def name_best(self, step: int | None) -> None:
        """Say in the file best which step has the best checkpoint, and delete what save_total_limit leaves no room for:
        the oldest, but neither the best nor the newest."""
        if runtime.rank() > 0:
            return
        if step is not None:
            write_text(self.folder.checkpoints / "best", f"{step}\n")
        limit = self._settings.save_total_limit
        steps = [] if limit is None else [old for old in self.folder.steps() if old <= self.last][:-limit]
        for old in steps:
            if old != step:
                self.folder.delete(old)
                log(f"deleted checkpoint {old}: save_total_limit is {limit}")
