"""Checksums of parts are that of the whole."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from fm9g.tensors.checksum import EMPTY, Part, joined, of_bytes


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_parts_are_summed_as_the_whole(pieces):
    whole = b"".join(pieces)
    assert joined(map(of_bytes, pieces)) == Part(zlib.crc32(whole), len(whole))


def test_long_parts():
    """Lengths of which the bits beyond 32 matter: a file of zeros is summed without one."""
    block = of_bytes(bytes(1 << 20))
    for _ in range(13):
        block = joined([block, block])
    crc, mebibyte = 0, bytes(1 << 20)
    for _ in range(1 << 13):
        crc = zlib.crc32(mebibyte, crc)
    assert block == Part(crc, 1 << 33)


def test_what_has_no_bytes_changes_nothing():
    part = of_bytes(b"text")
    assert joined([EMPTY, part, EMPTY]) == part
    assert joined([]) == EMPTY
