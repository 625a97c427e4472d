"""The checkpoints of one run: which is resumed, and when another is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

from fm9g import runtime
from fm9g.checkpoint.choice import first_whole
from fm9g.checkpoint.contents import Contents
from fm9g.checkpoint.damage import damage
from fm9g.checkpoint.folder import RunFolder, partial_name
from fm9g.checkpoint.manifest import MANIFEST, Needed, misfit
from fm9g.checkpoint.saver import BackgroundSaver, Saver
from fm9g.checkpoint.settings import OutputSettings
from fm9g.checkpoint.writer import publish
from fm9g.errors import UserError
from fm9g.files import write_text
from fm9g.runtime.log import log


class Checkpoints:
    """Holds the run's folder locked, on rank 0, until it is closed or the process ends."""

    def __init__(self, folder: RunFolder, settings: OutputSettings) -> None:
        self.folder, self._settings = folder, settings
        self.last = -1  # the step of the newest that this run has written or gone on from
        self._due = False  # whether one is to be written as soon as that can be
        self._begun = -1  # that of the one that is being written
        self._saver = Saver()
        self._lock: IO[str] | None = None

    def open(self, resume_ckpt: str, needed: Needed) -> int | None:
        """Lock the run's folder; the step to resume, or None to start anew, the same on all ranks.

        Of a checkpoint the files that are `needed` are read and compared with its manifest.
        """
        problem, found = "", []
        if runtime.rank() == 0:
            try:
                self.folder.create()
                self._lock = self.folder.lock()
                self.folder.clear_deleted()
                self._end_publishing()
                found = self.folder.candidates(resume_ckpt)
            except UserError as error:
                problem = str(error)
        problem, found = json.loads(runtime.gather_bytes(json.dumps([problem, found]).encode())[0])
        if problem:
            raise UserError(problem)

        if self._settings.async_save and self._settings.save:
            self._saver = BackgroundSaver()

        def fault(step: int) -> str:
            return damage(self.path(step), needed)

        return first_whole(self.folder, found, resume_ckpt, fault, lambda text: log(f"warning: {text}"))

    def _end_publishing(self) -> None:
        """Give its name to a checkpoint that was complete when a run was killed."""
        step = self.folder.named_latest()
        partial = self.folder.checkpoints / partial_name(step)
        if (partial / MANIFEST).exists() and not misfit(partial):
            publish(self.folder.checkpoints, step)
            log(f"checkpoint {step} was complete when the run was killed, but for its name: it has it now")

    def close(self) -> None:
        """End what is being written, and let another process write there."""
        self._saver.close()
        if self._lock is not None:
            self._lock.close()

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self.folder.checkpoints / str(step)

    def save_if_due(self, step: int, contents: Callable[[], Contents], put_off: bool = False) -> None:
        """Write a checkpoint every save_iters steps, or after the next one that does not `put_off` it."""
        self._due = self._due or step % self._settings.save_iters == 0
        if self._due and not put_off:
            self._due = False
            self.save_if_new(step, contents)

    def save_if_new(self, step: int, contents: Callable[[], Contents]) -> None:
        """Write a checkpoint unless there is one of this step, or save is off."""
        if self._settings.save and step not in (self.last, self._begun):
            self.save(step, contents)

    def save_last(self, step: int, contents: Callable[[], Contents]) -> None:
        """As `save_if_new`, at the end of a run: there is no next save to try again, so it must be on the disk then."""
        self.settle(wait=True)
        if self._settings.save and self.last != step:
            self.save(step, contents, last=True)

    def save(self, step: int, contents: Callable[[], Contents], last: bool = False) -> None:
        """Write a checkpoint, or begin to, when the one before has ended; every rank must call it."""
        runtime.begin(f"writing checkpoint {step}")
        self.settle(wait=True)
        self._saver.begin(self.folder.checkpoints, step, contents())
        self._begun = step
        self.settle(wait=last, must=last)

    def settle(self, wait: bool, must: bool = False) -> None:
        """Take in how the last save went, if it has ended, or when it has where it is to `wait`.

        Where it failed, that is a UserError if it `must` be on the disk, or if save_failure says so, else a warning.
        """
        outcome = self._saver.ended(wait)
        if outcome is None:
            return
        step, contents, wrong, seconds, paused = outcome
        self._begun = -1
        if not wrong:
            self.last = step
            background = f", of which training waited {paused:.1f} s" if paused != seconds else ""
            log(f"saved checkpoint {step} in {seconds:.1f} s{background}")
            self.name_best(contents.best)
            return
        contents.undo()
        if must or self._settings.save_failure == "stop":
            again = "goes on from the last one" if self.last >= 0 else "begins anew, for none has been saved"
            hint = f"when it can be, the same command with resume_ckpt latest {again}"
            raise UserError(f"checkpoint {step} could not be saved: {wrong}; {hint}")
        log(f"warning: checkpoint {step} could not be saved: {wrong}")

    def name_best(self, step: int | None) -> None:
        """Say in the file best which step has the best checkpoint, and delete those that the settings do not keep.

        What cannot be done is said, and done after the next save: all that counts is on the disk.
        """
        if runtime.rank() > 0:
            return
        try:
            if step is not None:
                write_text(self.folder.checkpoints / "best", f"{step}\n")
            self._delete_old(best=step)
        except OSError as error:
            log(f"warning: the names of checkpoints, or those to delete, are as they were: {error}")

    def _delete_old(self, best: int | None) -> None:
        """Delete all but the newest keep_last, those of keep_every, and the best."""
        settings, steps = self._settings, [old for old in self.folder.steps() if old <= self.last]
        for old in steps[: -settings.kept] if settings.kept else []:
            if old != best and not (settings.keep_every and old % settings.keep_every == 0):
                self.folder.delete(old)
                log(f"deleted checkpoint {old}: keep_last is {settings.kept}")
