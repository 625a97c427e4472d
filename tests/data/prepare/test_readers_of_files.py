"""Whatever file the records come in, they are the same records, and a file that is wrong says where."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from fm9g.data.prepare.readers import read_source
from fm9g.errors import UserError

RECORDS = [
    {"text": '第一, "行"\nsecond line\u2028third', "note": "a"},
    {"text": " 空格 \r\n", "note": ""},
    {"text": "0123", "note": "null"},
]
KINDS = ["a.jsonl", "a.json", "a.JSON.GZ", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.parquet", "no_suffix"]


def write(path: Path, records: list[dict], mark: bytes = b"") -> Path:
    """Write records in the form that the suffix says."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=2)
        return path
    packed = gzip.open if name.endswith(".gz") else open
    if ".csv" in name:
        with packed(path, "wt", encoding="utf-8-sig" if mark else "utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        return path
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    text = "\n [\n" + ",\n".join(lines) + "]\n" if ".json" in name and ".jsonl" not in name else "\n".join(lines)
    with packed(path, "wb") as file:
        file.write(mark + text.encode())
    return path


@pytest.mark.parametrize("name", KINDS)
def test_the_same_records_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    assert list(read_source(write(tmp_path / name, RECORDS), ["text"], ["note", "absent"])) == RECORDS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.csv"])
def test_a_byte_order_mark_is_dropped(tmp_path: Path, name: str) -> None:
    assert list(read_source(write(tmp_path / name, RECORDS, b"\xef\xbb\xbf"), ["text"])) == RECORDS


def test_parquet_gives_the_fields_asked_for_and_nested_ones(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "好"}, {"from": "gpt", "value": None}]
    path = write(tmp_path / "a.parquet", [{"conversations": turns, "big": "x"}, {"conversations": None, "big": "y"}])
    assert list(read_source(path, ["conversations"])) == [{"conversations": turns}, {"conversations": None}]


def test_an_open_pipe_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"text": "a"}\n{"text": "b"}\n')
    os.close(writing)
    assert list(read_source(f"/dev/fd/{reading}", ["text"])) == [{"text": "a"}, {"text": "b"}]
    os.close(reading)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text" "b"}\n', r"a.jsonl, line 2, byte 14: not valid JSON"),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n\n', r"line 2, byte 17: the line is blank"),
        ("a.json", b'[{"text": "a"}, 3]', r"a.json, record 1 \(the first is 0\): not a JSON object"),
        ("a.json", b'[{"text": "a"},', r"a.json, line 1, column 16: not valid JSON"),
        ("a.jsonl.gz", b"no gzip", r"a.jsonl.gz: damaged or incomplete"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-12], r"a.jsonl.gz: damaged or incomplete"),
        ("a.csv", b"Text,b\nx,y\n", r"a.csv.*no field 'text' \(did you mean 'Text'\?\); there are 'Text', 'b'"),
        ("a.csv", b"", r"a.csv.*no field 'text'; there are none"),
        ("a.csv", b'text,b\n\n"x\ny",z\nx,y,z\n', r"a.csv, line 5: 3 cells, but line 1 names 2 columns"),
        ("a.csv", b'text,b\nx,y\n"x,y\nx,y\n', r"a.csv, the row that begins on line 3: not valid csv"),
        ("a.csv", b'text,b\n"x"x,y\n', r"a.csv, the row that begins on line 2: not valid csv"),
        ("a.csv", b"text,text\nx,y\n", r"a.csv, line 1: two columns are called 'text'"),
        ("a.csv", "text,b\nx,y\n中,文\n".encode("gbk"), r"a.csv, line 3: not UTF-8: .*iconv"),
    ],
)
def test_a_faulty_file_says_where(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_source(tmp_path / name, ["text"]))


def test_faulty_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", RECORDS)
    with pytest.raises(UserError, match=r"a.parquet.*no field 'texts' \(did you mean 'text'\?\)"):
        list(read_source(path, ["texts"]))
    for content in (b"", b"no parquet at all", path.read_bytes()[:-9]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a.parquet: not readable as parquet: "):
            list(read_source(path, ["text"]))


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"a.parquet: reading parquet needs pyarrow .*: pip install --upgrade pyarrow"):
        list(read_source(tmp_path / "a.parquet", ["text"]))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; give one file"):
        read_source(tmp_path, ["text"])
    with pytest.raises(UserError, match=r"a.csv: no such file"):
        read_source(tmp_path / "a.csv", ["text"])


READ = """
import resource, sys
from fm9g.data.prepare.readers import read_source
before, count = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
for record in read_source(sys.argv[1], ["text"]):
    if not count:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count += len(record["text"])
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv", "a.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    """60 MB of text, in parquet one row group of it, in less than 30 MB more than its beginning takes."""
    texts = [f"{i} " + chr(97 + i % 26) * 2000 for i in range(30000)]
    path = tmp_path / name
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.table({"text": texts}), path, compression=None, use_dictionary=False)
    else:
        write(path, [{"text": text} for text in texts])
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, check=True, timeout=120)
    count, grown = map(int, done.stdout.split())
    assert count == sum(map(len, texts))
    assert grown < 30_000  # KiB
