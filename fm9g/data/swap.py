"""Output folders: refused where something lies, or swapped in one step for the folder that was there."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import sys
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from fm9g.errors import UserError
from fm9g.files import atomic_folder, fsync_path

_AT_FDCWD = -100  # linux/fcntl.h: relative paths start at the working directory
_RENAME_EXCHANGE = 2  # linux/fs.h


def is_occupied(target: Path) -> bool:
    """Whether `target` is a folder with something in it; UserError where it is a file."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file; the output must be a folder")
    return target.exists() and any(target.iterdir())


@contextlib.contextmanager
def output_folder(output: str | os.PathLike[str], overwrite: bool, files: Collection[str]) -> Iterator[Path]:
    """Yield a temporary folder that becomes `output` when the block ends without an error.

    An occupied `output` is a UserError, at once, unless `overwrite`: then the new folder takes its place in one
    step, the old one stands until that moment, and whatever in it is not one of `files` moves to the new one.
    """
    target = Path(os.path.realpath(output))  # a link to a folder is written through, not replaced
    occupied = is_occupied(target)
    if occupied and not overwrite:
        raise UserError(f"{target}: the output folder is not empty; choose another, or pass --overwrite")
    _clear_leftovers(target)
    # the name must begin like the target's, so that leftovers are found
    beside = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.new") if occupied else target
    with atomic_folder(beside) as folder, _locked(folder):
        yield folder
    if occupied:
        replace_folder(beside, target, files)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder, which ends with this process; yields whether it was free."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _clear_leftovers(target: Path) -> None:
    """Delete what killed writers of `target` left; UserError where one is at work."""
    for leftover in _leftovers(target):
        with _locked(leftover) as free:
            if not free:
                raise UserError(f"{target}: another command is writing it ({leftover} is locked); wait until it ends")
            print(f"note: removing {leftover}, which a killed command left", file=sys.stderr)
            shutil.rmtree(leftover)


def _leftovers(target: Path) -> list[Path]:
    """Incomplete folders beside `target` whose writers no longer live on this machine, or hold a lock on them."""
    if not target.parent.is_dir():
        return []
    beginnings = (f".{target.name}.", f"..{target.name}.")
    found = [entry for entry in sorted(target.parent.iterdir()) if entry.name.endswith(".partial")]
    found = [entry for entry in found if entry.name.startswith(beginnings) and entry.is_dir()]
    return [entry for entry in found if not _just_made(entry)]


def _just_made(folder: Path) -> bool:
    """Whether its writer lives but may not have locked it yet."""
    pids = [part for part in folder.name.split(".") if part.isdigit()]
    fresh = time.time() - folder.stat().st_mtime < 1
    return fresh and any(Path("/proc", pid).exists() for pid in pids)


def exchange(first: Path, second: Path) -> bool:
    """Swap two paths of one file system in one step; False where kernel, C library or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def replace_folder(new: Path, target: Path, replaced: Collection[str]) -> None:
    """Put the complete folder `new`, which lies beside `target`, in the place of the folder `target`.

    The old entries named in `replaced` are deleted once the new folder stands; every other entry of the old
    folder belongs to the user and moves over. Where the file system cannot exchange two folders (NFS), the old
    one is renamed aside first, and back if the new one cannot be put in its place.
    """
    old = new
    if not exchange(new, target):
        old = new.with_name(new.name + ".old")
        os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(old, target)
            raise
    fsync_path(target.parent)
    for entry in old.iterdir():
        if entry.name not in replaced:
            os.rename(entry, target / entry.name)
    shutil.rmtree(old)
