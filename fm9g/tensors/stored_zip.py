"""A zip file of uncompressed, aligned entries, written as a stream, in the dialect that every torch reads.

Python's zipfile would do, but it uses zip64 offsets from 2 GiB on, and the zip reader in torch 2.4 takes
an offset below 4 GiB in that form for corruption. Format: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import IO, NamedTuple

ALIGNMENT = 64  # torch.save's: a mapped tensor starts at a multiple of any element's size
LIMIT = 0xFFFFFFFF  # stands for "see the zip64 field"
VERSION = 45  # of the format: zip64
DATE = (1 << 5) | 1  # 1980-01-01, so that equal tensors make equal files
LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
CRC_OFFSET = 14  # of the checksum in a local header


class _Entry(NamedTuple):
    name: bytes
    offset: int
    nbytes: int
    crc: int


def _zip64_field(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""


class StoredZip:
    """Writes entries to `file`, opened for binary writing and seekable; `finish()` makes it a zip file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._entries: list[_Entry] = []

    def add(self, name: str, nbytes: int, chunks: Iterable[bytes | memoryview]) -> None:
        """Add an entry of `chunks`, `nbytes` long together, whose data starts at a multiple of ALIGNMENT."""
        offset = self._file.tell()
        self._file.write(self._local_header(name.encode("ascii"), offset, nbytes))
        start, crc = self._file.tell(), 0
        for chunk in chunks:
            crc = zlib.crc32(chunk, crc)
            self._file.write(chunk)
        end = self._file.tell()
        assert end - start == nbytes, f"{name}: {end - start} bytes, {nbytes} announced"
        self._file.seek(offset + CRC_OFFSET)
        self._file.write(struct.pack("<L", crc))
        self._file.seek(end)
        self._entries.append(_Entry(name.encode("ascii"), offset, nbytes, crc))

    def finish(self) -> None:
        """Write the directory of entries."""
        start = self._file.tell()
        for entry in self._entries:
            self._file.write(self._central_header(entry))
        end, count = self._file.tell(), len(self._entries)
        if max(start, end - start) >= LIMIT or count >= 0xFFFF:
            record = struct.pack(
                "<4sQ2H2L4Q", b"PK\x06\x06", 44, VERSION, VERSION, 0, 0, count, count, end - start, start
            )
            self._file.write(record + struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1))
        few = min(count, 0xFFFF)
        sizes = (min(end - start, LIMIT), min(start, LIMIT))
        self._file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, few, few, *sizes, 0))

    @staticmethod
    def _local_header(name: bytes, offset: int, nbytes: int) -> bytes:
        extra = _zip64_field(nbytes, nbytes) if nbytes >= LIMIT else b""
        padding = -(offset + LOCAL.size + len(name) + len(extra) + 4) % ALIGNMENT
        extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding  # torch's own padding field
        size = min(nbytes, LIMIT)
        fields = (b"PK\x03\x04", VERSION, 0, 0, 0, DATE, 0, size, size, len(name), len(extra))
        return LOCAL.pack(*fields) + name + extra

    @staticmethod
    def _central_header(entry: _Entry) -> bytes:
        sizes = (entry.nbytes, entry.nbytes) if entry.nbytes >= LIMIT else ()
        offsets = (entry.offset,) if entry.offset >= LIMIT else ()
        extra = _zip64_field(*sizes, *offsets)
        size = min(entry.nbytes, LIMIT)
        versions = (b"PK\x01\x02", VERSION, VERSION, 0, 0, 0, DATE)
        lengths = (len(entry.name), len(extra), 0, 0, 0)
        return (
            CENTRAL.pack(*versions, entry.crc, size, size, *lengths, 0, min(entry.offset, LIMIT)) + entry.name + extra
        )
