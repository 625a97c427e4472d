"""The records of jsonl files, as tokenizers are trained on them."""

import gzip
import os

import pytest
import zstandard

from fm9g.data.index.build import build
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.jsonl_records import read_records
from fm9g.errors import UserError
from tests.support.builds import dump

RECORDS = [{"input": "", "output": "甲"}, {"input": "a", "output": "b" * 100}]
CONTENT = b"\xef\xbb\xbf" + dump(RECORDS[0]) + b"\r\n\n" + dump(RECORDS[1]).rstrip()


@pytest.fixture
def files(tmp_path):
    """A folder with one content in each form that is indexed."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_bytes(CONTENT)
    (tmp_path / "in/b.jsonl.gz").write_bytes(gzip.compress(CONTENT))
    (tmp_path / "in/c.jsonl.zst").write_bytes(zstandard.compress(CONTENT))
    return tmp_path / "in"


def test_what_is_indexed_is_read(files, tmp_path):
    for path in files.iterdir():
        assert list(read_records([path])) == RECORDS
    assert list(read_records([files, files / "a.jsonl"])) == RECORDS * 4
    build([files, files / "a.jsonl"], tmp_path / "set", "zh")
    assert [IndexedDataset(tmp_path / "set").record(i) for i in range(8)] == RECORDS * 4


def test_an_open_pipe_is_read():
    reading, writing = os.pipe()
    os.write(writing, CONTENT)
    os.close(writing)
    assert list(read_records([f"/dev/fd/{reading}"])) == RECORDS
    os.close(reading)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_malformed_record_is_located(tmp_path, suffix):
    content = CONTENT + b"\n[1]\n"
    packed = {"": content, ".gz": gzip.compress(content), ".zst": zstandard.compress(content)}[suffix]
    (tmp_path / f"x.jsonl{suffix}").write_bytes(packed)
    with pytest.raises(UserError) as error:
        list(read_records([tmp_path / f"x.jsonl{suffix}"]))
    place = f"line 5, byte {len(CONTENT) + 1}"
    assert str(error.value) == f"{tmp_path}/x.jsonl{suffix}, {place}: not a JSON object but an array"


def test_a_packed_file_that_is_cut_short_is_refused(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(CONTENT)[:-9])
    with pytest.raises(UserError, match=r"x.jsonl.gz: cannot be decompressed"):
        list(read_records([tmp_path / "x.jsonl.gz"]))
