"""Files that are what they should be, files and folders that appear whole or not at all, and JSON."""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fm9g.errors import UserError, shown

_MOST_WAITING = 10_000  # lines


def user_path(text: str) -> Path:
    """The path that a user wrote, with the home folder for a leading ``~``; UserError where none can be there."""
    try:
        path = Path(text).expanduser()
        os.lstat(path)
    except RuntimeError:
        raise UserError(f"{text}: there is no home folder of that name; write the whole path") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{shown(text)}: {_why_not_there(path, error)}") from None
    return path


def require_file(path: str | os.PathLike[str], streamed: bool = False) -> Path:
    """`path`, if a file is there; for a reader that goes through it once (`streamed`) also an open pipe, <(zcat X).

    UserError says what is there instead. To open a pipe by a name, when nobody writes to it, would wait for ever.
    """
    path = Path(path)
    try:
        kind = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{path}: {_why_not_there(path, error)}") from None
    if stat.S_ISREG(kind) or (streamed and stat.S_ISFIFO(kind) and path.is_relative_to("/dev")):
        return path
    names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    raise UserError(f"{path}: is {names.get(stat.S_IFMT(kind), 'a device')}; give a file")


def _why_not_there(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"not a path: {error}"
    if not isinstance(error, FileNotFoundError):
        return str(error.strerror)
    return f"a link to {os.readlink(path)}, which is not there" if path.is_symlink() else "no such file"


def _beside(path: Path) -> Path:
    """A name in the same folder (so that a rename is atomic) that no other process will pick."""
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder for this process; False where another one holds it, None where nobody can tell: some
    network file systems have no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def fsync_path(path: Path) -> None:
    """Force a file's data, or a folder's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed over `path`."""
    path = Path(path)
    temporary = _beside(path)
    try:
        yield temporary
        fsync_path(temporary)
        os.replace(temporary, path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it is fsynced and renamed to `path`.

    `path` must not exist (or be an empty folder): an existing folder is never replaced.
    """
    path = Path(path)
    temporary = _beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            fsync_path(entry)
        fsync_path(temporary)
        os.rename(temporary, path)
        fsync_path(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a small file of text that are not empty, without the mark that files from Windows begin with; only
    line feeds end lines."""
    lines = (line.removesuffix("\r") for line in read_text(path).removeprefix("\ufeff").split("\n"))
    return [line for line in lines if line.strip()]


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a small file; a UserError for one that is none."""
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a file of UTF-8 text ({error})") from None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a small text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """`value` as indented JSON, as files have it."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; a missing or malformed one, or a key that is there twice, is a UserError that names it."""
    return parse_json(require_file(path).read_bytes(), path, object_pairs_hook=_object)


def parse_json(data: bytes, path: str | os.PathLike[str], **hooks: Any) -> Any:
    """Parse the content of the JSON file `path`; a malformed one is a UserError that names the file and the line."""
    try:
        return load_json(data.decode("utf-8"), **hooks)
    except _Repeated as repeated:
        raise UserError(f"{path}: {shown(repeated.key)} is there twice in one object: remove one of them") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path}: not usable JSON: nested too deeply") from None


class _Repeated(Exception):
    """A key that an object has twice."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Repeated(collections.Counter(name for name, _ in pairs).most_common(1)[0][0])
    return found


def load_json(text: str, **hooks: Any) -> Any:
    """json.loads, which takes numbers of any length; RecursionError where values are nested too deeply."""
    try:
        return json.loads(text, **hooks)
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python makes no integers of over 4,300 digits
        return json.loads(text, parse_int=float, **hooks)


def _last_line(path: Path) -> bytes:
    """The last line of a file of whole lines."""
    with open(path, "rb") as file:
        return next(iter(collections.deque(file, maxlen=1)), b"")


class AppendedLines:
    """A file that lines are added to, each there whole or not at all; those that could not be written wait, of more
    than 10,000 the newest."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0)
        self._size = self._file.tell()  # of the whole lines
        self._last = self._size - len(_last_line(path))  # where the last of them begins
        self._waiting: collections.deque[bytes] = collections.deque(maxlen=_MOST_WAITING)

    def add(self, line: str) -> None:
        """Write a line and those that wait; where that is an OSError, all of them wait for the next."""
        self._waiting.append(line.encode())
        self._write()

    def replace_last(self, line: str) -> None:
        """Have a line in place of the one that was added last."""
        if not self._waiting:
            self._size = self._last
        else:
            self._waiting.pop()
        self.add(line)

    def _write(self) -> None:
        if not self._waiting:
            return
        contents = memoryview(b"".join(self._waiting))
        try:
            self._file.truncate(self._size)  # of half a line, which could not be cut off when it was written
            while contents:
                contents = contents[self._file.write(contents) :]
        except OSError:
            with contextlib.suppress(OSError):  # of a disk that is gone; what the error says is the same
                self._file.truncate(self._size)
            raise
        self._size = self._file.tell()
        self._last = self._size - len(self._waiting[-1])
        self._waiting.clear()

    def close(self) -> None:
        """Write what waits, and end it."""
        try:
            self._write()
        finally:
            self._file.close()
