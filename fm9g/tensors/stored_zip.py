"""Where the bytes of a zip file of uncompressed, aligned entries lie, in the dialect that every torch reads.

Entries are placed by their sizes alone, so that they can be written in any order, by several processes, and the rest
of the file around them when their checksums are known.

Python's zipfile would do, but it uses zip64 offsets from 2 GiB on, and the zip reader in torch 2.4 takes
an offset below 4 GiB in that form for corruption. Format: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ALIGNMENT = 64  # torch.save's: a mapped tensor starts at a multiple of any element's size
LIMIT = 0xFFFFFFFF  # stands for "see the zip64 field"
VERSION = 45  # of the format: zip64
DATE = (1 << 5) | 1  # 1980-01-01, so that equal tensors make equal files
LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")


class _Entry(NamedTuple):
    name: bytes
    offset: int  # of its header
    nbytes: int


def _zip64_field(*values: int) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""


class StoredZip:
    """Places entries one after the other."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._end = 0

    def add(self, name: str, nbytes: int) -> int:
        """Place an entry of `nbytes`; where its data starts in the file, a multiple of ALIGNMENT."""
        entry = _Entry(name.encode("ascii"), self._end, nbytes)
        start = entry.offset + len(self._local_header(entry, 0))
        self._entries.append(entry)
        self._end = start + nbytes
        return start

    def frame(self, crcs: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of all but the entries' data; `crcs` are the checksums of the entries in their order."""
        directory = b""
        for entry, crc in zip(self._entries, crcs, strict=True):
            yield entry.offset, self._local_header(entry, crc)
            directory += self._central_header(entry, crc)
        yield self._end, directory + self._trailer(len(directory))

    def _trailer(self, nbytes: int) -> bytes:
        """What follows the directory, which is `nbytes` long."""
        start, count, record = self._end, len(self._entries), b""
        if max(start, nbytes) >= LIMIT or count >= 0xFFFF:
            record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, VERSION, VERSION, 0, 0, count, count, nbytes, start)
            record += struct.pack("<4sLQL", b"PK\x06\x07", 0, start + nbytes, 1)
        few = min(count, 0xFFFF)
        sizes = (min(nbytes, LIMIT), min(start, LIMIT))
        return record + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, few, few, *sizes, 0)

    @staticmethod
    def _local_header(entry: _Entry, crc: int) -> bytes:
        name, offset, nbytes = entry
        extra = _zip64_field(nbytes, nbytes) if nbytes >= LIMIT else b""
        padding = -(offset + LOCAL.size + len(name) + len(extra) + 4) % ALIGNMENT
        extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding  # torch's own padding field
        size = min(nbytes, LIMIT)
        fields = (b"PK\x03\x04", VERSION, 0, 0, 0, DATE, crc, size, size, len(name), len(extra))
        return LOCAL.pack(*fields) + name + extra

    @staticmethod
    def _central_header(entry: _Entry, crc: int) -> bytes:
        name, offset, nbytes = entry
        sizes = (nbytes, nbytes) if nbytes >= LIMIT else ()
        offsets = (offset,) if offset >= LIMIT else ()
        extra = _zip64_field(*sizes, *offsets)
        size = min(nbytes, LIMIT)
        versions = (b"PK\x01\x02", VERSION, VERSION, 0, 0, 0, DATE)
        lengths = (len(name), len(extra), 0, 0, 0)
        return CENTRAL.pack(*versions, crc, size, size, *lengths, 0, min(offset, LIMIT)) + name + extra
