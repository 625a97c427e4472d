"""Which checkpoint a run goes on from: the best of those that are whole."""

from __future__ import annotations

import sys
from collections.abc import Callable

from fm9g.checkpoint.folder import RunFolder, Steps, listed
from fm9g.checkpoint.manifest import Needed, everything, misfit
from fm9g.errors import UserError


def start_step(folder: RunFolder, resume_ckpt: str, needed: Needed) -> int | None:
    """The step to resume, or None to start anew, by the names and sizes of files: before a run begins."""

    def fault(step: int) -> str:
        return misfit(folder.checkpoints / str(step), needed)

    return first_whole(folder, folder.candidates(resume_ckpt), resume_ckpt, fault, _warn)


def first_whole(
    folder: Steps,
    candidates: list[int],
    resume_ckpt: str,
    fault: Callable[[int], str],
    say: Callable[[str], None],
) -> int | None:
    """The first of these steps in which `fault` finds nothing wrong; None if there are none.

    Where a step was asked for, and it is not whole, or none is, that is a UserError with those that are.
    """
    for step in candidates:
        wrong = fault(step)
        if not wrong:
            return step
        if resume_ckpt != "latest":
            raise UserError(f"{wrong}; {whole_ones(folder, but=step)}")
        say(f"checkpoint {step} is not whole: {wrong}")
    if candidates:
        raise UserError(f"{folder.checkpoints}: no checkpoint up to {candidates[0]} is whole; {whole_ones(folder)}")
    return None


def whole_ones(folder: Steps, but: int = -1, needed: Needed = everything) -> str:
    """Which can be taken instead, for a message."""
    steps = [step for step in folder.steps() if step != but and not misfit(folder.checkpoints / str(step), needed)]
    return f"steps that are whole, by the sizes of their files: {listed(steps)}"


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
