"""CRC-32 of data that is at hand in parts only, whoever has them and in whatever order they were read.

The checksum of A followed by B is that of A times x^(8 |B|), modulo the checksum's polynomial, plus that of B: the
parts of a file can be summed by those who write them, and zip files have this checksum of each entry too.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

POLYNOMIAL = 0xEDB88320  # CRC-32, IEEE 802.3: the coefficient of x^0 is the highest bit, that of x^31 the lowest
ONE = 1 << 31
_READ = 4 << 20  # of a file in memory at a time


class Part(NamedTuple):
    """What is to be known of some bytes in a row to sum them with others."""

    crc: int
    nbytes: int


EMPTY = Part(0, 0)


def of_bytes(data: bytes | memoryview) -> Part:
    """The checksum of one part."""
    return Part(zlib.crc32(data), memoryview(data).nbytes)


def of_file(path: Path, start: int, nbytes: int, progress: Callable[[int], None]) -> Part:
    """That of some bytes of a file, of as many as there are; `progress` is told what was read, time after time."""
    crc, left = 0, nbytes
    with open(path, "rb") as file:
        file.seek(start)
        while left and (data := file.read(min(_READ, left))):
            crc = zlib.crc32(data, crc)
            left -= len(data)
            progress(len(data))
    return Part(crc, nbytes - left)


def joined(parts: Iterable[Part]) -> Part:
    """The checksum of parts that follow each other."""
    return functools.reduce(_pair, parts, EMPTY)


def _pair(first: Part, second: Part) -> Part:
    return Part(_product(first.crc, _power(second.nbytes)) ^ second.crc, first.nbytes + second.nbytes)


def _product(first: int, second: int) -> int:
    """Of two polynomials over GF(2), modulo POLYNOMIAL."""
    total = 0
    for bit in range(31, -1, -1):
        if first >> bit & 1:
            total ^= second
        second = second >> 1 ^ (POLYNOMIAL if second & 1 else 0)  # times x
    return total


@functools.lru_cache(4096)  # parts are mostly of the same few lengths
def _power(nbytes: int) -> int:
    """x^(8 nbytes)."""
    power, square = ONE, ONE >> 8
    while nbytes:
        if nbytes & 1:
            power = _product(power, square)
        square = _product(square, square)
        nbytes >>= 1
    return power
