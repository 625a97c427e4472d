"""A file of a model's tensors that all ranks write, each what it holds: nobody holds or gathers the whole.

file = SharedFile(path, described, lay_out)
shares = every rank's file.write_pieces(pieces)
whole = file.finish(shares)                        on one rank, when all have written
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from fm9g import runtime
from fm9g.progress_bar import ProgressBar
from fm9g.tensors import checksum
from fm9g.tensors.checksum import Part
from fm9g.tensors.layout import Layout
from fm9g.tensors.lazy import DTYPES, Described, raw_bytes

WRITTEN_ELEMENTS = 1 << 22  # moved to the host and written at a time


class Piece(NamedTuple):
    """The flat values of a tensor from element `start` on that a rank holds."""

    name: str
    start: int
    values: Tensor


class Written(NamedTuple):
    """A part of a tensor's bytes that a rank has written: where it starts, and what it is."""

    name: str
    start: int
    crc: int
    nbytes: int


class SharedFile:
    """Laid out alike by every rank; the file must be there before pieces are written."""

    def __init__(
        self, path: Path, described: Mapping[str, Described], lay_out: Callable[[Mapping[str, Described]], Layout]
    ) -> None:
        self._path, self._described = path, described
        self._layout = lay_out(described)

    def write_pieces(self, pieces: Iterable[Piece], progress: ProgressBar) -> list[Written]:
        """Write them where they belong, and onto the disk."""
        written = []
        with open(self._path, "r+b") as file:
            for name, start, values in pieces:
                first, crc = start * DTYPES[self._described[name].dtype].itemsize, 0
                file.seek(self._layout.starts[name] + first)
                for part in values.detach().flatten().split(WRITTEN_ELEMENTS):
                    contents = raw_bytes(part.cpu())
                    crc = zlib.crc32(contents, crc)
                    file.write(contents)
                    progress.add(contents.nbytes)
                    runtime.begin(f"writing {self._path.name}")
                written.append(Written(name, first, crc, values.numel() * values.element_size()))
            file.flush()
            os.fsync(file.fileno())
        return written

    def finish(self, written: Iterable[Written]) -> Part:
        """Write what is around the tensors, and return the checksum of the file; `written` is what all ranks have."""
        found: dict[str, list[Written]] = {name: [] for name in self._described}
        for part in sorted(written):
            found[part.name].append(part)
        tensors = {name: self._whole(name, parts) for name, parts in found.items()}
        parts = [(self._layout.starts[name], tensor) for name, tensor in tensors.items()]
        with open(self._path, "r+b") as file:
            for offset, data in self._layout.frame({name: tensor.crc for name, tensor in tensors.items()}):
                file.seek(offset)
                file.write(data)
                parts.append((offset, checksum.of_bytes(data)))
            file.flush()
            os.fsync(file.fileno())
        return checksum.joined(part for _, part in sorted(parts))

    def _whole(self, name: str, written: list[Written]) -> Part:
        """The checksum of a tensor of which all parts have been written once."""
        end = 0
        for part in written:
            assert part.start == end, f"{name}: bytes {end} to {part.start} were written by no rank, or twice"
            end += part.nbytes
        nbytes = self._described[name].nbytes
        assert end == nbytes, f"{name}: {end} of {nbytes} bytes were written"
        return checksum.joined(Part(part.crc, part.nbytes) for part in written)
