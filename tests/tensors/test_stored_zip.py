"""The zip files that .pt files are, at the sizes where the zip format changes its ways."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
import torch

from fm9g.tensors.stored_zip import ALIGNMENT, StoredZip


@pytest.mark.parametrize(("gib", "zip64"), [(0, False), (3, False), (5, True)])
def test_entries_beyond_2_and_4_gib_are_found(tmp_path: Path, gib: int, zip64: bool) -> None:
    path, first, second = tmp_path / "file.pt", b"first" * 100, b"second" * 1000
    with open(path, "wb") as file:
        archive = StoredZip(file)
        archive.add("archive/version", 2, [b"3\n"])
        archive.add("archive/first", len(first), [first])
        file.seek(file.tell() + (gib << 30))  # a hole: no disk is used
        archive.add("archive/second", len(second), [second[:10], second[10:]])
        archive.finish()
    reader = torch._C.PyTorchFileReader(str(path))
    assert (reader.get_record("first"), reader.get_record("second")) == (first, second)
    assert reader.get_record_offset("second") % ALIGNMENT == 0  # type: ignore[attr-defined]
    with zipfile.ZipFile(path) as zipped:
        assert zipped.testzip() is None
        assert zipped.read("archive/second") == second
        offset = zipped.getinfo("archive/second").header_offset
    assert offset >= gib << 30
    # The reader of torch 2.4 takes a zip64 offset below 4 GiB for corruption.
    with open(path, "rb") as file:
        file.seek(-500, 2)
        entry = file.read().rpartition(b"PK\x01\x02")[2]
    assert struct.unpack("<L", entry[38:42])[0] == (0xFFFFFFFF if zip64 else offset)


def test_an_entry_must_have_the_size_that_its_header_says(tmp_path: Path) -> None:
    with open(tmp_path / "file.pt", "wb") as file, pytest.raises(AssertionError, match="3 bytes, 4 announced"):
        StoredZip(file).add("archive/first", 4, [b"abc"])
