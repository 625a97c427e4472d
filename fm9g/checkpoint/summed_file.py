"""Small files of a checkpoint, and their checksums as they are written."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import IO, Any

import torch

from fm9g import runtime
from fm9g.tensors.checksum import Part


class _Summed:
    """What torch.save needs of a file."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name
        self.crc = self.nbytes = 0
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error  # torch raises another, which does not say what went wrong
            raise
        self.crc = zlib.crc32(data, self.crc)
        self.nbytes += data.nbytes
        runtime.begin(f"writing {self._name}")
        return data.nbytes

    def flush(self) -> None:
        self._file.flush()


def save_object(contents: Any, path: Path) -> Part:
    """torch.save onto the disk."""
    with open(path, "wb") as file:
        summed = _Summed(file, path.name)
        try:
            torch.save(contents, summed)  # type: ignore[arg-type]
        except RuntimeError:
            if summed.error is None:
                raise
            raise summed.error from None
        _onto_disk(file)
    return Part(summed.crc, summed.nbytes)


def save_bytes(contents: bytes, path: Path) -> Part:
    """A file of these bytes, on the disk."""
    with open(path, "wb") as file:
        file.write(contents)
        _onto_disk(file)
    return Part(zlib.crc32(contents), len(contents))


def _onto_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
