"""Who generates for a server: one thread that does what it is asked, request after request, together with all ranks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fm9g import runtime
from fm9g.errors import UserError
from fm9g.generation.sampling import Sampling
from fm9g.serve.text_model import Delta, Request, TextModel

MOST_WAITING = 64
_HEARTBEAT = 60.0  # seconds; ranks that wait for each other longer than some minutes are taken for dead
_LOOK = 0.2  # seconds after which it is looked whether to end


class Failed(NamedTuple):
    """Why a job came to no end: for what it asks, or (`ours`) for what failed here."""

    message: str
    ours: bool


_GONE = Failed("the server ends: nothing generates any more", True)


class Busy(Exception):
    """So many requests wait that another is not taken."""


@dataclass
class Job:
    """Prompts to continue. `emit` is given the pieces of each step, then None, or what went wrong."""

    prompts: Sequence[Sequence[int]]
    request: Request
    chat: bool
    emit: Callable[[list[Delta] | Failed | None], None]
    cancelled: threading.Event = field(default_factory=threading.Event)


class Worker:
    """`run` it in a thread of its own on the first rank, and `follow` it on the others."""

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self._jobs: queue.Queue[Job] = queue.Queue(MOST_WAITING)
        self._closed, self._ended = threading.Event(), threading.Event()
        self.failed = False  # in a way from which it could not go on

    @property
    def ended(self) -> bool:
        """Whether no job is done any more."""
        return self._ended.is_set()

    def submit(self, job: Job) -> None:
        """Have a job done after those that wait; Busy if there are too many."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Busy(f"{MOST_WAITING} requests wait already") from None
        if self.ended:
            self._refuse()

    def close(self) -> None:
        """End after the job that is being done."""
        self._closed.set()

    def run(self) -> None:
        """Do jobs until it is closed. Whatever ends it, who waits is told."""
        job: Job | None = None
        self.failed = True
        try:
            spoken = time.monotonic()
            while not self._closed.is_set():
                job = self._next()
                if job is not None:
                    self._tell(_as_json(job))
                    job.emit(self._do(job))
                elif time.monotonic() - spoken > _HEARTBEAT:
                    self._tell({})
                else:
                    continue
                job, spoken = None, time.monotonic()
            self._tell({"closed": True})
            self.failed = False
        finally:
            self._ended.set()
            if job is not None:
                job.emit(_GONE)
            self._refuse()

    def _next(self) -> Job | None:
        """The next job that somebody waits for; None where there is none just now."""
        with contextlib.suppress(queue.Empty):
            job = self._jobs.get(timeout=_LOOK)
            return None if job.cancelled.is_set() else job
        return None

    def _refuse(self) -> None:
        """Tell all that wait that they wait in vain."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait().emit(_GONE)

    def follow(self) -> None:
        """Do what the first rank does, until it ends."""
        while "closed" not in (told := json.loads(runtime.gather_bytes(b"")[0])):
            if told:
                self._do(_from_json(told))

    @property
    def _in_step(self) -> bool:
        """Whether other ranks take part."""
        return not self._model.by_itself

    def _tell(self, told: dict[str, Any]) -> None:
        if self._in_step:
            runtime.gather_bytes(json.dumps(told).encode())

    def _do(self, job: Job) -> Failed | None:
        """Generate; what went wrong, if anything did."""
        try:
            for pieces in self._model.generate(job.prompts, job.request, job.chat):
                job.emit(pieces)
                if job.cancelled.is_set() and not self._in_step:
                    break
        except UserError as error:
            return Failed(str(error), False)
        except RuntimeError as error:  # of torch: memory, most of all. The next request may be smaller
            if self._in_step:
                raise  # the ranks are no longer where each other is
            traceback.print_exc(file=sys.stderr)
            return Failed(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", True)
        return None


def _as_json(job: Job) -> dict[str, Any]:
    return {
        "prompts": [list(prompt) for prompt in job.prompts],
        "request": dataclasses.asdict(job.request),
        "chat": job.chat,
    }


def _from_json(told: dict[str, Any]) -> Job:
    asked = told["request"]
    asked |= {"sampling": Sampling(**asked["sampling"]), "stops": tuple(asked["stops"])}
    return Job(told["prompts"], Request(**asked), told["chat"], lambda pieces: None)
