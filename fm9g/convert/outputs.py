"""Outputs that appear whole, and that replace nothing of the user's unless --overwrite says so."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from fm9g.convert.tokenizer.files import is_model_folder_file
from fm9g.errors import UserError
from fm9g.files import atomic_file, atomic_folder, fsync_path, try_lock
from fm9g.tensors.forms import beside

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # system calls that write say these, and not of which file
_LOCK_WAIT = 0.1  # seconds
_TELLING = (".json", ".tokenizer.json", ".lora.json")  # how files end that say what weights beside them are


def _note_unfinished(path: Path) -> None:
    """Name what killed conversions to this place have left: gigabytes, under names that `ls` does not show."""
    for kind, what in (("partial", "is unfinished"), ("replaced", "is what it was to replace")):
        for left in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.{kind}")):
            print(f"note: {left} {what}, of a conversion that goes on or was killed", file=sys.stderr)


def check_output_file(path: Path, overwrite: bool) -> None:
    """Refuse an output that is there already, before hours of work rather than after."""
    _note_unfinished(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists already; choose another name, or replace it with --overwrite")


def check_output_folder(path: Path, overwrite: bool) -> None:
    """Refuse a folder that holds anything; with `overwrite`, one that holds more than a model's files."""
    _note_unfinished(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"{path}: exists and is not a folder")
    entries = sorted(entry.name for entry in path.iterdir())
    if entries and not overwrite:
        raise UserError(f"{path}: is not empty; choose another folder, or replace it with --overwrite")
    foreign = [name for name in entries if not (path / name).is_file() or not is_model_folder_file(name)]
    if foreign:
        listed = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise UserError(f"{path}: --overwrite replaces the whole folder, which holds more than a model: {listed}")


@contextlib.contextmanager
def names_output(path: Path) -> Iterator[None]:
    """Where what is written to `path` finds no room, say that of `path`: the system names no file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        why = os.strerror(error.errno)
        raise UserError(f"{path}: cannot be written: {why}: make room there, or choose another place") from None


@contextlib.contextmanager
def new_file(path: Path, overwrite: bool, describe: Callable[[], None]) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` once `describe` has written what lies beside it. An old file goes
    before, so that a kill leaves none beside the description of another one; where anything else fails, the old file
    and what lay beside it are there again."""
    shown, path = path, path.resolve()
    telling = [shown.with_suffix(".json"), *(beside(shown, suffix) for suffix in _TELLING)]
    # the place is left last, when atomic_file is done
    with names_output(shown), contextlib.ExitStack() as place, atomic_file(path) as temporary:
        yield temporary
        fsync_path(temporary)
        place.enter_context(_place(path, overwrite, dict.fromkeys(telling)))
        describe()
        _take_name(temporary, path)


@contextlib.contextmanager
def new_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path`, in place of what check_output_folder lets be replaced."""
    shown, path = path, path.resolve()
    with names_output(shown), contextlib.ExitStack() as place:
        try:
            with atomic_folder(path) as temporary:
                yield temporary
                place.enter_context(_place(path, overwrite))
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise _taken(path) from None
            raise


def _taken(path: Path) -> UserError:
    return UserError(
        f"{path}: another process has written it meanwhile; choose another name, or replace it with --overwrite"
    )


def _take_name(temporary: Path, path: Path) -> None:
    """Give the finished file its name, unless something has that: a rename would replace it."""
    try:
        os.link(temporary, path)  # atomic_file's rename of one name of a file to another one of it does nothing
    except FileExistsError:
        raise _taken(path) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise _taken(path) from None


@contextlib.contextmanager
def _place(path: Path, overwrite: bool, telling: Collection[Path] = ()) -> Iterator[None]:
    """Keep `path` free for a new output, which takes it in the block; no other conversion does meanwhile.

    What was there is moved to a folder of a hidden name, which is deleted in the end, and the files `telling` of it are
    copied there. Where the block fails all of them are put back; a kill leaves the folder, which the next conversion
    names.
    """
    with _alone(path):
        occupied = any(path.iterdir()) if path.is_dir() else os.path.lexists(path)
        if occupied and not overwrite:
            raise _taken(path)
        aside = Path(tempfile.mkdtemp(".replaced", f".{path.name}.{os.getpid()}.", path.parent))
        copied: Collection[Path] = ()
        try:
            for file in filter(os.path.lexists, telling):
                shutil.copy2(file, aside / file.name, follow_symlinks=False)
            copied = telling
            if occupied:
                os.rename(path, aside / path.name)
            yield
        except BaseException:
            _put_back(path, aside, copied)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _put_back(path: Path, aside: Path, copied: Collection[Path]) -> None:
    """Undo `_place`; `copied`: the files telling of the output, of which those that were there lie in `aside`, too."""
    had = os.path.lexists(aside / path.name)
    try:
        if had or not os.path.lexists(path):  # else what stands there is whole: not moved yet, or of another process
            for file in copied:
                if os.path.lexists(aside / file.name):
                    shutil.move(aside / file.name, file)
                else:
                    file.unlink(missing_ok=True)
        if had:
            os.rename(aside / path.name, path)
    except OSError as error:
        print(f"note: {aside} holds what {path} is to replace, and cannot be put back: {error}", file=sys.stderr)
    else:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process gives something the name `path`. Where files cannot be locked there is no waiting.

    The lock is of a file, since NFS locks no folders; one that a killed process left is free.
    """
    name = path.with_name(f".{path.name}.lock")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
    while not (try_lock(descriptor) is not False and _is_still(descriptor, name)):
        os.close(descriptor)
        time.sleep(_LOCK_WAIT)
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield
    finally:
        name.unlink(missing_ok=True)
        os.close(descriptor)


def _is_still(descriptor: int, name: Path) -> bool:
    """Whether an open file still has its name: who held the lock before has deleted it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except FileNotFoundError:
        return False
