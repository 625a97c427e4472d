"""TensorBoard's events of a run, written in the thread of who adds them.

tensorboardX's SummaryWriter has a thread of its own, which ends without a word on a full disk: who adds to its queue
then waits for ever.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar, text

_FLUSH_SECONDS = 10.0
_AGAIN_SECONDS = 60.0  # after which a file that could not be written is followed by another


class Board:
    """Events from step `first` on; those of a former start that are later are hidden. OSErrors come as they are: what
    was added since the last flush may be lost then, and a file of its own is begun with the next."""

    def __init__(self, folder: Path, first: int) -> None:
        self._folder = folder
        self._writer: EventsWriter | None = None
        self._flushed, self._files, self._tried = 0.0, 0, 0.0
        self._open(first)

    def _open(self, step: int) -> None:
        """Begin a file, in which `step` is the first; TensorBoard hides what others have from there on."""
        self._tried = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files += 1
        self._writer = EventsWriter(str(self._folder / "events"), "" if self._files == 1 else f".{self._files}")
        self._write(step, session_log=SessionLog(status=SessionLog.START))

    def add_scalars(self, scalars: dict[str, float], step: int) -> None:
        """Add points to curves."""
        for name, value in scalars.items():
            self._write(step, summary=scalar(name, value))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def add_text(self, name: str, markdown: str, step: int) -> None:
        """Add a text."""
        self._write(step, summary=text(name, markdown))

    def _write(self, step: int, **contents: Any) -> None:
        if self._writer is None:
            if time.monotonic() - self._tried < _AGAIN_SECONDS:
                return
            self._open(step)
        assert self._writer is not None
        try:
            self._writer.write_event(Event(wall_time=time.time(), step=step, **contents))
        except OSError:
            self._writer = None  # half an event is at its end, which a reader does not come past
            raise

    def flush(self) -> None:
        """Bring what was added onto the disk."""
        self._flushed = time.monotonic()
        if self._writer is None:
            return
        try:
            self._writer.flush()
        except OSError:
            self._writer = None
            raise

    def close(self) -> None:
        """Flush, and end the file."""
        self.flush()
        if self._writer is not None:
            self._writer.close()
