"""Output folders: refused where something lies, or swapped in one step for the folder that was there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from fm9g.errors import UserError
from fm9g.files import atomic_folder, fsync_path, try_lock

_AT_FDCWD = -100  # linux/fcntl.h: relative paths start at the working directory
_RENAME_EXCHANGE = 2  # linux/fs.h
_PARTIAL, _NEW, _OLD = ".partial", ".new", ".old"  # how the names of folders end that writers make


def is_occupied(target: Path) -> bool:
    """Whether `target` is a folder with something in it; UserError where it is a file."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file; the output must be a folder")
    return target.exists() and any(target.iterdir())


def _check_free(target: Path, overwrite: bool) -> bool:
    """UserError unless `target` may be written; returns whether it is occupied."""
    occupied = is_occupied(target)
    if occupied and not overwrite:
        raise UserError(f"{target}: the output folder is not empty; choose another, or pass --overwrite")
    return occupied


@contextlib.contextmanager
def output_folder(output: str | os.PathLike[str], overwrite: bool, files: Collection[str]) -> Iterator[Path]:
    """Yield a temporary folder that becomes `output` when the block ends without an error.

    An occupied `output` is a UserError, at once, unless `overwrite`: then the new folder takes its place in one
    step, the old one stands until that moment, and whatever in it is not one of `files` moves to the new one.
    """
    target = Path(os.path.realpath(output))  # a link to a folder is written through, not replaced
    _check_free(target, overwrite)
    _clear_leftovers(target, files)
    occupied = _check_free(target, overwrite)
    # the name must begin like the target's, so that leftovers are found
    beside = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}{_NEW}") if occupied else target
    with contextlib.ExitStack() as locks:
        with atomic_folder(beside) as folder:
            locks.enter_context(_locked(folder))
            yield folder
        if occupied:
            if locks.enter_context(_locked(target)) is False:
                raise _at_work(target, target)
            replace_folder(beside, target, files)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool | None]:
    """Hold a lock on a folder, under whatever name, until this process ends at the latest; yields whether it was free.

    None: the file system has no locks for folders (NFS), so nobody can tell.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def _at_work(target: Path, locked: Path) -> UserError:
    return UserError(f"{target}: another command is writing it ({locked} is locked); wait until it ends")


def _clear_leftovers(target: Path, files: Collection[str]) -> None:
    """Delete what killed writers of `target` left and finish what they had begun; UserError where one is at work."""
    for leftover in _leftovers(target):
        with _locked(leftover) as free:
            if free is False:
                raise _at_work(target, leftover)
            if free is None:
                print(
                    f"note: {leftover} is of a command that was killed, or still runs: delete it if not",
                    file=sys.stderr,
                )
                continue
            print(f"note: clearing up {leftover}, which a killed command left", file=sys.stderr)
            if leftover.name.endswith(_PARTIAL):
                shutil.rmtree(leftover)
            elif not target.exists():  # all that there is of the dataset
                os.rename(leftover, target)
            else:
                _clear_out(leftover, target, files)


def _leftovers(target: Path) -> list[Path]:
    """Folders beside `target` that its writers make, whose writers no longer live here, or hold a lock on them.

    Old ones come before new ones: they may be all that there is of the dataset.
    """
    if not target.parent.is_dir():
        return []
    beginnings = (f".{target.name}.", f"..{target.name}.")
    found = [entry for entry in sorted(target.parent.iterdir(), reverse=True) if entry.name.startswith(beginnings)]
    found = [entry for entry in found if entry.name.endswith((_PARTIAL, _NEW, _OLD)) and entry.is_dir()]
    return [entry for entry in found if _is_ours(entry, target) and not _just_made(entry)]


def _is_ours(folder: Path, target: Path) -> bool:
    """Whether it has a name that is made here: with a process number and eight hexadecimal digits."""
    return re.match(rf"\.+{re.escape(target.name)}\.\d+\.[0-9a-f]{{8}}\.", folder.name) is not None


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
        old = new.with_name(new.name + _OLD)
        os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(old, target)
            raise
    fsync_path(target.parent)
    _clear_out(old, target, replaced)


def _clear_out(old: Path, target: Path, replaced: Collection[str]) -> None:
    """Delete a folder that `target` is in the place of; what is the user's moves to `target`, if there is room."""
    for entry in old.iterdir():
        if entry.name in replaced and not entry.is_dir():
            entry.unlink()
        elif not os.path.lexists(target / entry.name):
            os.rename(entry, target / entry.name)
    if left := list(old.iterdir()):
        print(f"note: {left[0]} stays there, since {target / left[0].name} exists", file=sys.stderr)
    else:
        old.rmdir()
