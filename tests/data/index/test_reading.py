"""Reading through failures that pass, and records that have changed."""

import errno
import os

import pytest

from fm9g.data.index import reading
from fm9g.data.index.dataset import DamagedRecord, IndexedDataset
from fm9g.data.index.reading import SteadyFile
from fm9g.errors import UserError
from tests.support.places import index


@pytest.fixture
def failing(monkeypatch):
    """Reads that fail so many times; the waits in between, which take no time."""
    waits, left = [], [0]
    original = os.pread

    def pread(descriptor, size, offset):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(reading.time, "sleep", waits.append)
    return left, waits


@pytest.fixture
def folder(tmp_path):
    return index(tmp_path / "set", [{"input": "", "output": f"text {i}"} for i in range(9)])


def test_a_file_that_cannot_be_read_for_five_seconds(folder, failing, capsys):
    """The waits grow, so that six tries are enough for more than that; nothing is lost."""
    left, waits = failing
    dataset = IndexedDataset(folder)
    left[0] = 6
    assert dataset.record(4) == {"input": "", "output": "text 4"}
    assert sum(waits) > 5
    assert waits == sorted(waits)
    assert dataset.retries == 6
    assert capsys.readouterr().err.count("Input/output error; trying again in") == 6


def test_a_file_that_stays_unreadable_is_an_error(folder, failing):
    left, waits = failing
    file = SteadyFile(folder / "data.jsonl")
    left[0] = 1000
    with pytest.raises(
        UserError, match=r"data\.jsonl: cannot be read \(Input/output error\), not after 9 more tries in"
    ):
        file.read(1, 0)
    assert len(waits) == len(reading.RETRY_SECONDS) == 9


def test_the_file_is_opened_again_if_it_is_still_the_same(folder, failing, monkeypatch):
    left, _ = failing
    opened = []
    original = os.open
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(arguments[0]) or original(*arguments))
    file = SteadyFile(folder / "data.jsonl")
    left[0] = 1
    assert file.read(1, 0) == b"{"
    assert len(opened) == 2
    (folder / "data.jsonl").rename(folder / "elsewhere")
    left[0] = 1
    assert file.read(1, 0) == b"{"
    assert len(opened) == 2


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_is_found_on_reading(folder, bit):
    place = IndexedDataset(folder).span(3)[0] + 5
    data = bytearray((folder / "data.jsonl").read_bytes())
    data[place] ^= 1 << bit
    with open(folder / "data.jsonl", "r+b") as file:
        file.write(data)
    os.utime(folder / "data.jsonl", ns=(10**17, 10**17))
    dataset = IndexedDataset(folder)
    with pytest.raises(
        DamagedRecord, match=r"record 3 \(line 4\), byte \d+: its bytes have changed since it was indexed \(CRC-32C\)"
    ):
        dataset.read(3)
    assert dataset.record(2) == {"input": "", "output": "text 2"}


def test_an_index_of_another_file_of_the_same_size(folder, tmp_path):
    other = index(tmp_path / "other", [{"input": "", "output": f"tExt {i}"} for i in range(9)])
    os.replace(other / "index.h5", folder / "index.h5")
    with pytest.raises(DamagedRecord):
        IndexedDataset(folder).read(0)
