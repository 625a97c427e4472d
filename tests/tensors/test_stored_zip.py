"""The zip files that .pt files are, at the sizes where the zip format changes its ways."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from fm9g.tensors.stored_zip import ALIGNMENT, StoredZip


def write(path: Path, entries: dict[str, bytes], hole: int = 0) -> None:
    """A zip file of entries, with one of `hole` zeros before the last."""
    sizes = {name: len(data) for name, data in entries.items()}
    crcs = {name: zlib.crc32(data) for name, data in entries.items()}
    if hole:
        name, size = sizes.popitem()
        sizes |= {"archive/hole": hole, name: size}
        crcs["archive/hole"] = 0  # nobody reads it
    archive = StoredZip()
    starts = {name: archive.add(name, size) for name, size in sizes.items()}
    with open(path, "wb") as file:
        for name, data in reversed(entries.items()):
            file.seek(starts[name])
            file.write(data)
        for offset, data in archive.frame([crcs[name] for name in sizes]):
            file.seek(offset)
            file.write(data)


@pytest.mark.parametrize(("gib", "zip64"), [(0, False), (3, False), (5, True)])
def test_entries_beyond_2_and_4_gib_are_found(tmp_path: Path, gib: int, zip64: bool) -> None:
    path, first, second = tmp_path / "file.pt", b"first" * 100, b"second" * 1000
    write(path, {"archive/version": b"3\n", "archive/first": first, "archive/second": second}, gib << 30)
    reader = torch._C.PyTorchFileReader(str(path))
    assert (reader.get_record("first"), reader.get_record("second")) == (first, second)
    assert reader.get_record_offset("second") % ALIGNMENT == 0  # type: ignore[attr-defined]
    with zipfile.ZipFile(path) as zipped:
        assert zipped.read("archive/first") == first
        assert zipped.read("archive/second") == second
        offset = zipped.getinfo("archive/second").header_offset
    assert offset >= gib << 30
    # The reader of torch 2.4 takes a zip64 offset below 4 GiB for corruption.
    with open(path, "rb") as file:
        file.seek(-500, 2)
        entry = file.read().rpartition(b"PK\x01\x02")[2]
    assert struct.unpack("<L", entry[38:42])[0] == (0xFFFFFFFF if zip64 else offset)


def test_no_byte_is_left_out_and_none_is_written_twice(tmp_path: Path) -> None:
    path, entries = tmp_path / "file.pt", {"a": b"1" * 70, "b": b"", "c": b"3" * 64}
    write(path, entries)
    archive = StoredZip()
    spans = [(archive.add(name, len(data)), data) for name, data in entries.items()]
    spans += archive.frame([zlib.crc32(data) for data in entries.values()])
    assert b"".join(data for _, data in sorted(spans)) == path.read_bytes()
    with zipfile.ZipFile(path) as zipped:
        assert zipped.testzip() is None
