"""A file read in place by offset, over file systems that fail for a while."""

from __future__ import annotations

import os
import sys
import time
import weakref
from pathlib import Path

from fm9g.errors import UserError

RETRY_SECONDS = [0.1 * 2**n for n in range(9)]  # waits between tries, 51 s in all


class SteadyFile:
    """An open file; a read that fails is tried again, with longer and longer waits.

    Reads and not memory maps: where a mapped page cannot be fetched the process is killed. `retries` counts the
    reads tried again in this process. Threads and forked processes may share one.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.retries = path, 0
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._descriptor)

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._descriptor).st_size

    def read(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`, fewer where the file ends; UserError where it stays unreadable."""
        try:
            raw = os.pread(self._descriptor, size, offset)
            return raw if len(raw) == size else self._read_on(raw, size, offset)
        except OSError as error:
            return self._read_later(size, offset, error)

    def _read_later(self, size: int, offset: int, error: OSError) -> bytes:
        for wait in RETRY_SECONDS:
            self.retries += 1
            print(f"warning: {self.path}: {error.strerror}; trying again in {wait:.1f} s", file=sys.stderr)
            time.sleep(wait)
            self._reopen()
            try:
                return self._read_on(b"", size, offset)
            except OSError as again:
                error = again
        raise UserError(
            f"{self.path}: cannot be read ({error.strerror}), not after {len(RETRY_SECONDS)} more tries in "
            f"{sum(RETRY_SECONDS):.0f} s either: check the file system, then resume"
        )

    def _read_on(self, raw: bytes, size: int, offset: int) -> bytes:
        """What a read has begun: it may return less than is there, and never over 2 GiB."""
        while len(raw) < size and (more := os.pread(self._descriptor, size - len(raw), offset + len(raw))):
            raw += more
        return raw

    def _reopen(self) -> None:
        """A network file system may have forgotten the old handle; keep it where no new one is to be had."""
        before, close = os.fstat(self._descriptor), self._close
        try:
            fresh = os.stat(self.path)
            if (fresh.st_ino, fresh.st_size) == (before.st_ino, before.st_size):
                self._open()
                close()
        except OSError:
            return

    def will_need(self, size: int, offset: int) -> None:
        """Tell the kernel to fetch these bytes in the background."""
        os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)
