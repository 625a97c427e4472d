"""Opening and reading indexed datasets: both layouts, every fault, constant cost."""

import json
import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest

from fm9g.data.index.build import Options, build
from fm9g.data.index.check import Report, check
from fm9g.data.index.dataset import IndexedDataset
from fm9g.errors import UserError

RECORDS = [{"input": "", "output": f"第{i}首\u2028詩 " + "x" * (i % 7)} for i in range(50)]
LINES = [json.dumps(record, ensure_ascii=False).encode() for record in RECORDS]


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_bytes(b"".join(line + b"\n" for line in LINES))
    build(source, tmp_path / "set", "zh")
    return tmp_path / "set"


@pytest.fixture(params=["held", "in place"])
def index_is(request, monkeypatch):
    if request.param == "in place":  # as a large one
        monkeypatch.setattr("fm9g.data.index.dataset._HELD_BYTES", 0)


def bounds_of(folder):
    with h5py.File(folder / "index.h5") as file:
        return file["index"][:]


def rewrite_h5(folder, bounds, **options):
    (folder / "index.h5").unlink()
    with h5py.File(folder / "index.h5", "w") as file:
        file.create_dataset("index", data=bounds, **options)


def shift_in_one_column(folder):
    with h5py.File(folder / "index.h5", "r+") as file:
        file["index"][20] += 1


def declare_a_petabyte(folder):
    (folder / "index.h5").unlink()
    with h5py.File(folder / "index.h5", "w") as file:
        file.create_dataset("index", shape=(10**14,), dtype="<i8", chunks=(1024,))


def shorten_checksums(folder):
    with h5py.File(folder / "index.h5", "r+") as file:
        records = file["records"][:-1]
        del file["records"]
        file.create_dataset("records", data=records)


def make_newest(folder, name):
    later = max(entry.stat().st_mtime_ns for entry in folder.iterdir()) + 1_000_000_000
    os.utime(folder / name, ns=(later, later))


def all_lines(folder):
    dataset = IndexedDataset(folder)
    return [dataset.read(i) for i in range(len(dataset))]


@pytest.mark.usefixtures("index_is")
def test_records_and_spans(folder):
    dataset = IndexedDataset(folder)
    assert len(dataset) == 50
    assert all_lines(folder) == LINES
    assert [dataset.record(i) for i in range(50)] == RECORDS
    assert dataset.span(0) == (0, len(LINES[0]) + 1)
    assert dataset.span(49)[1] == dataset.nbytes == (folder / "data.jsonl").stat().st_size
    assert dataset.meta["nlines"] == 50
    dataset.will_need(3)
    for outside in (-1, 50):
        with pytest.raises(IndexError):
            dataset.read(outside)


@pytest.mark.parametrize("dtype", ["<i8", "<u8", ">i8"])
@pytest.mark.parametrize("options", [{}, {"chunks": (8,), "compression": "gzip"}], ids=["contiguous", "compressed"])
@pytest.mark.parametrize("first", [0, 1], ids=["bounds", "ends only"])
@pytest.mark.usefixtures("index_is")
def test_layouts(folder, dtype, options, first):
    rewrite_h5(folder, bounds_of(folder)[first:].astype(dtype), **options)
    assert all_lines(folder) == LINES
    assert IndexedDataset(folder).span(1) == (len(LINES[0]) + 1, len(LINES[0]) + len(LINES[1]) + 2)


@pytest.mark.parametrize("first", [0, 1], ids=["bounds", "ends only"])
@pytest.mark.usefixtures("index_is")
def test_text_index_and_no_meta(folder, first):
    text = (folder / "index").read_text().splitlines(keepends=True)
    (folder / "index").write_text("".join(text[first:]))
    (folder / "index.h5").unlink()
    (folder / "meta.json").unlink()
    dataset = IndexedDataset(folder)
    assert dataset.meta == {}
    assert all_lines(folder) == LINES


def test_old_data_without_final_newline(folder):
    data = (folder / "data.jsonl").read_bytes()[:-1]
    (folder / "data.jsonl").write_bytes(data)
    (folder / "meta.json").unlink()
    bounds = bounds_of(folder)
    bounds[-1] -= 1
    rewrite_h5(folder, bounds[1:])
    (folder / "index").unlink()
    assert all_lines(folder) == LINES
    assert check(folder) == Report(checksums=False, digest=False)  # all bounds fit


def shift_bound(folder):
    bounds = bounds_of(folder)
    bounds[20] += 1
    rewrite_h5(folder, bounds)


def swap_bounds(folder):
    bounds = bounds_of(folder)
    bounds[[20, 21]] = bounds[[21, 20]]
    rewrite_h5(folder, bounds)


def append_record(folder):
    with open(folder / "data.jsonl", "ab") as file:
        file.write(b"{}\n")


def truncate(folder, name, size):
    with open(folder / name, "r+b") as file:
        file.truncate(size)
    make_newest(folder, "index.h5")


def edit_meta(folder, **changes):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | changes))


def use_text_index(folder, text):
    (folder / "index.h5").unlink()
    (folder / "index").write_text(text)


FAULTS = {
    "no data": (lambda f: (f / "data.jsonl").unlink(), "data.jsonl is missing"),
    "no index": (lambda f: [(f / n).unlink() for n in ("index", "index.h5")], "both missing"),
    "meta not JSON": (lambda f: (f / "meta.json").write_text("{"), "meta.json, line 1"),
    "meta not an object": (lambda f: (f / "meta.json").write_text("[]"), "JSON object"),
    "h5 cut": (lambda f: truncate(f, "index.h5", 2100), "cut short or damaged"),
    "h5 empty file": (lambda f: truncate(f, "index.h5", 0), "cut short or damaged"),
    "h5 other dataset": (lambda f: rewrite_h5(f, np.zeros((2, 2))), 'no one-dimensional integer dataset "index"'),
    "h5 of a petabyte": (declare_a_petabyte, "has 100000000000000 bounds, which is more than data.jsonl has bytes"),
    "h5 a pipe": (lambda f: [(f / "index.h5").unlink(), os.mkfifo(f / "index.h5")], "index.h5: is a pipe"),
    "meta of another kind": (lambda f: edit_meta(f, nlines="50"), 'nlines must be a count, not "50"'),
    "generations of another kind": (lambda f: edit_meta(f, generations=[7]), "generations must be"),
    "fewer bounds": (lambda f: rewrite_h5(f, bounds_of(f)[:-5]), "has 45 records but meta.json says nlines 50"),
    "last bound": (lambda f: rewrite_h5(f, np.append(bounds_of(f)[:-1], 10**6)), "the index ends at byte 1000000"),
    "no bounds": (lambda f: rewrite_h5(f, np.zeros(1, dtype=np.int64)), "empty"),
    "zero bounds": (lambda f: rewrite_h5(f, np.zeros(0, dtype=np.int64)), "empty"),
    "empty data": (lambda f: truncate(f, "data.jsonl", 0), "empty"),
    "data cut": (lambda f: truncate(f, "data.jsonl", 1000), "has 1000 bytes but the index ends at"),
    "data grown": (append_record, "bytes but the index ends at"),
    "bound not at a line's end": (shift_bound, "record 19 ends at byte"),
    "bounds fall": (swap_bounds, "do not increase at record 20"),
    "absurd bounds": (lambda f: rewrite_h5(f, np.r_[[0, 2**63], bounds_of(f)[2:]].astype("u8")), "do not increase"),
    "columns differ": (shift_in_one_column, 'its datasets "index" and "records" differ at record 19'),
    "fewer checksums": (shorten_checksums, 'its dataset "records" does not hold the checksums of 50 records'),
    "meta of other data": (lambda f: edit_meta(f, nbytes=7), "says nbytes 7"),
    "meta of more lines": (lambda f: edit_meta(f, nlines=51), "says nlines 51"),
    "text index not numbers": (lambda f: use_text_index(f, "0\n1x\n"), "one byte offset a line"),
    "text index empty": (lambda f: use_text_index(f, ""), "empty"),
    "data newer": (lambda f: make_newest(f, "data.jsonl"), "check_index.py"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_at_open(folder, fault):
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(UserError) as caught:
        IndexedDataset(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        IndexedDataset(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        IndexedDataset(tmp_path / "file")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"output": "x"', "not valid JSON"),
        (b"[1]", "not a JSON object but an array"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"   ", "blank"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_malformed_record_is_named(tmp_path, line, reason):
    (tmp_path / "data.jsonl").write_bytes(b"{}\n" + line + b"\n{}\n")
    (tmp_path / "index").write_text(f"0\n3\n{4 + len(line)}\n{7 + len(line)}\n")
    dataset = IndexedDataset(tmp_path)
    assert dataset.read(1) == line
    with pytest.raises(UserError, match=r"data\.jsonl, record 1 \(line 2\), byte 3: ") as caught:
        dataset.record(1)
    assert reason in str(caught.value)
    assert dataset.record(2) == {}


def test_data_cut_while_in_use(folder):
    dataset = IndexedDataset(folder)
    truncate(folder, "data.jsonl", 100)
    with pytest.raises(UserError, match=r"record 49 \(line 50\), byte .*: the file was cut short"):
        dataset.read(49)


def test_fingerprint(folder, tmp_path):
    fingerprint = IndexedDataset(folder).fingerprint
    assert fingerprint == json.loads((folder / "meta.json").read_text())["xxh3_128"]
    (folder / "meta.json").unlink()
    old = IndexedDataset(folder).fingerprint
    assert old == IndexedDataset(folder).fingerprint
    data = (folder / "data.jsonl").read_bytes()
    (folder / "data.jsonl").write_bytes(data.replace(b"xxxxxx", b"yyyyyy"))
    make_newest(folder, "index.h5")
    assert IndexedDataset(folder).fingerprint != old


def test_pickle_and_fork(folder, tmp_path):
    dataset = IndexedDataset(folder)
    copy = pickle.loads(pickle.dumps(dataset))
    assert [copy.read(i) for i in range(50)] == LINES
    child = os.fork()
    if child == 0:
        os._exit(0 if [dataset.read(i) for i in range(50)] == LINES else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert dataset.read(7) == LINES[7]

    pickled = pickle.dumps(dataset)
    other = tmp_path / "b.jsonl"
    other.write_text('{"output": "other"}\n')
    build(other, folder, "zh", Options(overwrite=True))
    assert dataset.read(7) == LINES[7]  # an open dataset keeps the files it opened
    with pytest.raises(UserError, match="replaced while in use"):
        pickle.loads(pickled)


OPEN_AND_MEASURE = """
import sys
from fm9g.data.index.dataset import IndexedDataset
def resident():  # kB, with the pages of mapped files
    return int(open("/proc/self/statm").read().split()[1]) * 4
IndexedDataset(sys.argv[1])  # imports and first allocations
before = resident()
big = IndexedDataset(sys.argv[2])
assert big.record(len(big) - 1) == {} and big.record(10_000_000) == {}
print(len(big), resident() - before)
"""


def test_opening_20_million_records_takes_no_memory(folder, tmp_path):
    count, big = 20_000_000, tmp_path / "big"
    big.mkdir()
    with open(big / "data.jsonl", "wb") as data:
        for _ in range(20):
            data.write(b"{}\n" * (count // 20))
    with h5py.File(big / "index.h5", "w") as file:
        file.create_dataset("index", shape=(count + 1,), dtype="<i8").write_direct(np.arange(0, 3 * count + 1, 3))
    command = [sys.executable, "-c", OPEN_AND_MEASURE, str(folder), str(big)]
    found, grown = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert found == count
    assert grown < 24_000  # kB; the index has 160,000


def test_checking_compares_both_columns_of_bounds(folder):
    shift_in_one_column(folder)
    with pytest.raises(UserError, match=r"index\.h5: its two columns of bounds differ"):
        check(folder)
