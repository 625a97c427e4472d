"""What a launcher and the ranks that it starts tell each other, as files in a folder that is the launcher's.

A rank reads there that the run is to stop; the launcher, that it has stopped, or whose fault its end was.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fm9g.files import write_text

PROCESS = "FM9G_LAUNCHER"  # the launcher's process number
STOPPED = 75  # exit status (EX_TEMPFAIL of sysexits.h): stopped as asked and saved; the same command goes on
STOP, HAS_STOPPED, FINAL, FAULT, VERDICT = "stop", "stopped", "final", "fault", "verdict"

_MOST = 500  # characters of a fault
_FOLDER, _STARTED, _LATEST = "FM9G_LAUNCHER_FOLDER", "FM9G_LAUNCHER_STARTED", "FM9G_LAUNCHER_LATEST"


@contextlib.contextmanager
def launching() -> Iterator[None]:
    """Be the launcher of the ranks that are started meanwhile."""
    with tempfile.TemporaryDirectory(prefix="fm9g-launcher-") as folder:
        os.environ[PROCESS], os.environ[_FOLDER] = str(os.getpid()), folder
        os.environ[_STARTED] = str(time.time())
        yield


def is_launched() -> bool:
    """Whether this process, or the one that it was forked from, has a launcher."""
    return _FOLDER in os.environ


def leave(note: str, text: str = "") -> None:
    """Tell the other side; without a launcher there is none."""
    if is_launched():
        _path(note).parent.mkdir(exist_ok=True)  # what cleans /tmp up may have come by
        write_text(_path(note), text)


def left(note: str) -> str | None:
    """What the other side has told, if it has."""
    if not is_launched():
        return None
    try:
        return _path(note).read_text()
    except FileNotFoundError:
        return None


def blame(said: str, kind: str) -> None:
    """Tell whose fault this rank's end is: `kind` is FAULT, its own, or VERDICT, what it knows of another's."""
    with contextlib.suppress(OSError):  # it stands in the log, too
        leave(f"{kind}-{attempt():06d}-{os.getpid()}", " ".join(said.split())[:_MOST])


def blamed(kind: str) -> str:
    """What the first rank has said of that kind, since the last restart; "" if none has."""
    notes = [note for each in (FAULT, VERDICT) for note in Path(os.environ[_FOLDER]).glob(f"{each}-*")]
    last = max((note.name.split("-")[1] for note in notes), default="")
    first = min((note for note in notes if note.name.startswith(f"{kind}-{last}-")), key=_written, default=None)
    return first.read_text() if first else ""


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def attempt() -> int:
    """How often torchrun has started the ranks anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def remember(path: Path) -> None:
    """Take in how a file is now, for `is_as_it_was`; the launcher does so before it starts ranks."""
    os.environ[_LATEST] = _state(path)


def is_as_it_was(path: Path) -> bool:
    """Whether nothing has written a file since the launcher began."""
    return os.environ.get(_LATEST, "") == _state(path)


def _state(path: Path) -> str:
    return f"{path.stat().st_ino} {path.stat().st_mtime_ns}" if path.exists() else "absent"


def seconds_since_start() -> float:
    """Since the launcher began, or where there is none, since now."""
    now = time.time()
    return now - float(os.environ.get(_STARTED, now))


def _path(note: str) -> Path:
    return Path(os.environ[_FOLDER]) / note
