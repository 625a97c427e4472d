"""Outputs that appear whole, and that replace nothing of the user's unless --overwrite says so."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from fm9g.convert.tokenizer.files import is_model_folder_file
from fm9g.errors import UserError
from fm9g.files import atomic_file, atomic_folder, fsync_path


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
def new_file(path: Path, describe: Callable[[], None]) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` once `describe` has written what lies beside it. An old file goes
    before: whenever a conversion is killed, none is there whose description is of another one."""
    path = path.resolve()
    aside = _aside(path)
    with atomic_file(path) as temporary:
        yield temporary
        fsync_path(temporary)
        if path.exists():
            os.rename(path, aside)
        describe()
    aside.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.replaced")


@contextlib.contextmanager
def new_folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path`, in place of what check_output_folder lets be replaced."""
    path = path.resolve()
    aside = _aside(path)
    try:
        with atomic_folder(path) as temporary:
            yield temporary
            if path.exists() and any(path.iterdir()):
                os.rename(path, aside)
    except BaseException as error:
        if aside.exists() and not path.exists():
            os.rename(aside, path)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise UserError(f"{path}: another process has written it meanwhile") from None
        raise
    shutil.rmtree(aside, ignore_errors=True)
