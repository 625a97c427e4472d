"""Where a run keeps its files, and that only one process writes there."""

from __future__ import annotations

import abc
import os
import shutil
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fm9g.errors import UserError
from fm9g.files import try_lock
from fm9g.tensors.forms import INDEX, PT

_held: weakref.WeakSet[IO[str]] = weakref.WeakSet()  # the locks of this process


def _leave_to_the_parent() -> None:
    """A loader process, which outlives a killed rank by some seconds, would hold its lock as long."""
    for file in _held:
        file.close()


os.register_at_fork(after_in_child=_leave_to_the_parent)


DELETED = ".deleted"  # at the end of the name of a checkpoint's folder while it is deleted


def is_step(name: str) -> bool:
    """Whether a name is that of a step; "²" is a digit too, but no number, and no run has steps of 20 digits."""
    return name.isascii() and name.isdigit() and len(name) < 20


def weights_stem(step: int) -> str:
    """What the names of the weights' files in a step's folder begin with."""
    return f"fm9g_live_checkpoint-{step}"


def weights_name(step: int, form: str = PT) -> str:
    """The name of the weights' file in a step's folder, or of the index of their shards: by which they are read."""
    return weights_stem(step) + (".pt" if form == PT else INDEX)


def partial_name(step: int) -> str:
    """The name of a step's folder while it is written."""
    return f".{step}.partial"


class Steps(abc.ABC):
    """The checkpoints of a run, a folder each, wherever these are."""

    @property
    @abc.abstractmethod
    def checkpoints(self) -> Path:
        """Where they are."""

    def steps(self) -> list[int]:
        """The steps whose checkpoints are complete, ascending."""
        if not self.checkpoints.is_dir():
            return []
        return sorted(int(entry.name) for entry in self.checkpoints.iterdir() if is_step(entry.name))

    def candidates(self, resume_ckpt: str) -> list[int]:
        """The steps to try to resume, the best first; none to start anew.

        UserError for a folder with checkpoints but no resume_ckpt, and for a step that is not there. Of "latest" the
        best is what the file names, since after a return to an earlier step higher ones are of the abandoned course;
        then come the lower ones.
        """
        steps = self.steps()
        if not resume_ckpt:
            if steps:
                raise UserError(
                    f"{self.checkpoints} already holds checkpoints (the newest at step {steps[-1]}): "
                    "continue with --resume_ckpt latest, or choose another model_unique"
                )
            return []
        if resume_ckpt == "latest":
            newest = self._latest(steps)
            return [step for step in reversed(steps) if step <= newest]
        if not is_step(resume_ckpt):
            raise UserError(f'resume_ckpt must be a step or "latest", not {resume_ckpt!r}')
        if int(resume_ckpt) not in steps:
            raise UserError(
                f"resume_ckpt: {self.checkpoints} has no checkpoint of step {resume_ckpt} (it has: {listed(steps)})"
            )
        return [int(resume_ckpt)]

    def _latest(self, steps: list[int]) -> int:
        """The step that the file `latest` names, or the highest one; -1 if there is none."""
        named = self.named_latest()
        if named in steps:
            return named
        unnamed = (self.checkpoints / partial_name(named)).exists()  # it is looked at when the run begins
        if steps and os.path.lexists(self.checkpoints / "latest") and not unnamed:
            print(
                f"warning: {self.checkpoints / 'latest'} names no checkpoint: the highest step, {steps[-1]}, is taken",
                file=sys.stderr,
            )
        return steps[-1] if steps else -1

    def named_latest(self) -> int:
        """The number in the file `latest`; -1 where there is none."""
        file = self.checkpoints / "latest"
        if file.is_dir():
            raise UserError(f"{file} is a folder: no checkpoint could be named in it; move it away")
        named = file.read_bytes().decode("utf-8", "replace").strip() if file.is_file() else ""
        return int(named) if is_step(named) else -1


@dataclass(frozen=True)
class StepsIn(Steps):
    """Those in `folder`."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        return self.folder


@dataclass(frozen=True)
class RunFolder(Steps):
    """The folders of the run `name` under `output_dir`."""

    output_dir: Path
    name: str
    exp_group: str

    @property
    def checkpoints(self) -> Path:
        return self.output_dir / "checkpoints" / self.name

    @property
    def logs(self) -> Path:
        return self.output_dir / "checkpoints" / "logs" / self.name

    @property
    def tensorboard(self) -> Path:
        return self.output_dir / "tensorboard" / f"{self.exp_group}{self.name}"

    def delete(self, step: int) -> None:
        """Delete a checkpoint; where that is interrupted it is gone all the same, and `clear_deleted` ends it."""
        aside = self.checkpoints / f".{step}{DELETED}"
        os.rename(self.checkpoints / str(step), aside)
        shutil.rmtree(aside)

    def clear_deleted(self) -> None:
        """Remove what is left of checkpoints that were being deleted when a run was killed."""
        for left in self.checkpoints.glob(f".*{DELETED}"):
            shutil.rmtree(left)

    def create(self) -> None:
        """Make the folders; a UserError if they cannot be written to."""
        for folder in (self.checkpoints, self.logs, self.tensorboard):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"output_dir: cannot create {folder}: {error.strerror}") from None
            if not os.access(folder, os.W_OK | os.X_OK):
                raise UserError(f"output_dir: {folder} is not writable")

    def check_writable(self) -> None:
        """A UserError if the folders could not be made; makes nothing."""
        for folder in (self.checkpoints, self.logs, self.tensorboard):
            existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
            if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
                raise UserError(f"output_dir: cannot write {folder}: {existing} is not a writable folder")

    def lock(self) -> IO[str]:
        """Become the run's one writer until the returned file is closed or the process ends."""
        file = open(self.checkpoints / ".lock", "a+")
        free = try_lock(file.fileno())
        if free is False:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise UserError(f"{self.checkpoints} is being written by {owner}: end it, or use another model_unique")
        if free is None:
            print(
                f"note: the file system of {self.checkpoints} has no locks, so nothing would stop a second run of this "
                "name: see to it that there is none",
                file=sys.stderr,
            )
        _held.add(file)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        return file


def listed(steps: list[int]) -> str:
    """The last few steps, for a message."""
    return ", ".join(map(str, steps[-8:])) or "none"
