"""Jsonl files to be indexed, plain or compressed, as blocks of whole lines."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from fm9g.data.file_kinds import folder_misfit
from fm9g.errors import UserError
from fm9g.files import require_file

BLOCK_BYTES = 2 << 20  # faster than 1 MiB and than 3
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
BOM = b"\xef\xbb\xbf"
_SEARCH_BYTES = 1 << 16


@dataclass(frozen=True)
class Block:
    """Whole lines of a file: `size` bytes (of text, if it is compressed) from `offset`, `data` if read already.

    A line of more than the allowed bytes is a block of its own, `too_long` and not read. Where the file does not end
    in a newline one is added: the last block is `open`.
    """

    path: Path
    offset: int
    size: int
    data: bytes | None = None
    too_long: bool = False
    open: bool = False

    @property
    def length(self) -> int:
        """The number of bytes that `read` returns."""
        return self.size + self.open

    def read(self) -> bytes:
        """The block's bytes, a file's missing last newline added."""
        raw = self.data
        if raw is None:
            with open(self.path, "rb", buffering=0) as file:
                raw = _read_fully(file, self.offset, self.size)
        if len(raw) != self.size:
            raise UserError(f"{self.path}: was cut short while it was being read")
        return raw + b"\n" if self.open else raw


def find_files(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files that paths mean: themselves, or those below a folder whose names end as jsonl files' do, sorted."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.name.endswith(SUFFIXES) and p.is_file())
            if not below:
                found_instead = folder_misfit(sorted(p for p in path.rglob("*") if p.is_file()))
                advice = f"; {found_instead}" if found_instead else ""
                raise UserError(f"{path}: no file below it ends in {', '.join(SUFFIXES)}{advice}")
            found += below
        else:
            found.append(require_file(path))
    return found


def is_plain(path: Path) -> bool:
    """Whether a file's bytes are its text."""
    return path.suffix not in (".gz", ".zst")


def read_blocks(path: Path, max_line_bytes: int, size: int | None = None) -> Iterator[Block]:
    """Yield a file as blocks of about `size` bytes. A byte order mark at its start is left out."""
    size = size or BLOCK_BYTES
    if is_plain(path):
        with open(path, "rb", buffering=0) as file:
            yield from _plain_blocks(path, file, max_line_bytes, size)
        return
    try:
        yield from _stream_blocks(path, _decompressed(path, size), max_line_bytes, size)
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise UserError(f"{path}: cannot be decompressed, it is cut short or damaged ({error})") from None


def _decompressed(path: Path, size: int) -> Iterator[bytes]:
    if path.suffix == ".gz":
        with gzip.open(path, "rb") as stream:
            yield from iter(lambda: stream.read(size), b"")
        return
    with open(path, "rb") as file:
        frame = zstandard.ZstdDecompressor().decompressobj()
        begun = False
        for chunk in iter(lambda: file.read(_SEARCH_BYTES), b""):
            while chunk:
                begun = True
                if text := frame.decompress(chunk):
                    yield text
                chunk = b""
                if frame.eof:
                    chunk, begun = frame.unused_data, False
                    frame = zstandard.ZstdDecompressor().decompressobj()
        if begun:
            raise EOFError("the last frame does not end")


def _read_fully(file: io.FileIO, offset: int, size: int) -> bytes:
    raw = os.pread(file.fileno(), size, offset)  # may return less, and never over 2 GiB
    while len(raw) < size and (more := os.pread(file.fileno(), size - len(raw), offset + len(raw))):
        raw += more
    return raw


def _plain_blocks(path: Path, file: io.FileIO, limit: int, size: int) -> Iterator[Block]:
    total = os.fstat(file.fileno()).st_size  # what a growing file gains is not read: the builder refuses it
    offset = len(BOM) if os.pread(file.fileno(), len(BOM), 0) == BOM else 0
    while offset < total:
        end = min(offset + size, total)
        if end < total:
            end = _last_line_end(file, offset, end) or _next_line_end(file, end, total)
        is_open = end == total and os.pread(file.fileno(), 1, end - 1) != b"\n"
        yield Block(path, offset, end - offset, too_long=end - offset > max(limit + 1, size), open=is_open)
        offset = end


def _last_line_end(file: io.FileIO, start: int, end: int) -> int:
    """Where the last line that ends in [start, end) ends, or 0."""
    while start < end:
        begin = max(start, end - _SEARCH_BYTES)
        found = os.pread(file.fileno(), end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _next_line_end(file: io.FileIO, start: int, total: int) -> int:
    """Where the first line that ends at `start` or later ends: after its newline, or with the file."""
    while start < total:
        chunk = os.pread(file.fileno(), 16 * _SEARCH_BYTES, start)
        found = chunk.find(b"\n")
        if found >= 0:
            return start + found + 1
        start += len(chunk) or total
    return total


def _stream_blocks(path: Path, chunks: Iterator[bytes], limit: int, size: int) -> Iterator[Block]:
    parts: list[bytes] = []  # of the line that the last chunk did not end
    offset, held, dropped, first = 0, 0, 0, True
    for chunk in chunks:
        if first and chunk.startswith(BOM):
            chunk, offset = chunk[len(BOM) :], len(BOM)
        first = False
        cut = chunk.rfind(b"\n") + 1
        if cut and dropped:  # the end of a line that was too long to be held
            end = chunk.index(b"\n") + 1
            yield Block(path, offset, dropped + end, too_long=True)
            offset, dropped = offset + dropped + end, 0
            chunk, cut = chunk[end:], cut - end
        if cut:
            data = b"".join([*parts, chunk[:cut]])
            yield Block(path, offset, len(data), data)
            offset, parts, held = offset + len(data), [], 0
        rest = chunk[cut:]
        if dropped or held + len(rest) > max(limit, size):
            dropped, parts, held = dropped + held + len(rest), [], 0
        elif rest:
            parts.append(rest)
            held += len(rest)
    if dropped:
        yield Block(path, offset, dropped, too_long=True, open=True)
    elif parts:
        data = b"".join(parts)
        yield Block(path, offset, len(data), data, open=True)
