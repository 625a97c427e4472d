"""Building indexed datasets: figures against a plain loop, refusals, atomicity, checking."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm9g.data import build as build_module
from fm9g.data import scan, swap
from fm9g.data.build import build, check
from fm9g.data.index import IndexedDataset
from fm9g.errors import UserError
from fm9g.progress import Progress

FILES = {"data.jsonl", "index", "index.h5", "meta.json"}


def dump(record):
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.jsonl"
    path.write_bytes(b"".join(dump({"input": "問", "output": f"答 {i}"}) for i in range(10)))
    return path


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(scan.read_blocks, "__defaults__", (64,))


def plain_meta(data, language):
    """meta.json by the plain loop over lines."""
    names = ["less_4k", "4k-8k", "8k-16k", "16k-32k", "32k-64k", "64k-128k", "128k-256k", "more_256k"]
    lengths, total = dict.fromkeys(names, 0), 0.0
    lines = [line + b"\n" for line in data.split(b"\n")[:-1]]
    for line in lines:
        text = line.decode()
        tokens = 0.7 * len(text) if language == "zh" else 1.5 * len(text.split(" "))
        total += tokens
        lengths[names[sum(tokens >= 4000 * 2**k for k in range(7))]] += 1
    return {
        "language": language,
        "nlines": len(lines),
        "nbytes": len(data),
        "length_distribute": lengths,
        "avg_token_per_line": total / len(lines),
    }


@pytest.mark.parametrize("language", ["zh", "en", "code"])
def test_meta_equals_plain_loop(tmp_path, language):
    rng = random.Random(5)
    texts = ["".join(rng.choice("ab é詩𠀀 \u2028") for _ in range(rng.randrange(200))) for _ in range(3000)]
    texts += ["詩 " * (1000 * 2**k) for k in range(9)]
    data = b"".join(dump({"output": text}) for text in texts)
    (tmp_path / "a.jsonl").write_bytes(data)
    meta = build(tmp_path / "a.jsonl", tmp_path / "set", language)
    assert meta == json.loads((tmp_path / "set/meta.json").read_text())
    expected = plain_meta(data, language)
    assert {key: meta[key] for key in expected} == expected  # the average to the last bit
    assert sum(count > 0 for count in meta["length_distribute"].values()) >= 7
    assert meta["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("characters", "slot"), [(5713, "less_4k"), (5715, "4k-8k")])
def test_limits_are_thousands(tmp_path, characters, slot):
    empty = len(dump({"output": ""}))
    (tmp_path / "a.jsonl").write_bytes(dump({"output": "x" * (characters - empty)}))
    assert build(tmp_path / "a.jsonl", tmp_path / "set", "zh")["length_distribute"][slot] == 1


def test_files(tmp_path, source):
    build(source, tmp_path / "set", "zh")
    assert {entry.name for entry in (tmp_path / "set").iterdir()} == FILES
    bounds = [0]
    for line in source.read_bytes().split(b"\n")[:-1]:
        bounds.append(bounds[-1] + len(line) + 1)
    assert (tmp_path / "set/data.jsonl").read_bytes() == source.read_bytes()
    assert [int(line) for line in (tmp_path / "set/index").read_text().split("\n")[:-1]] == bounds
    with h5py.File(tmp_path / "set/index.h5") as file:
        assert file["index"].dtype == "<i8"
        assert file["index"].chunks is None
        assert file["index"].id.get_offset() is not None
        assert file["index"][:].tolist() == bounds


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(records=st.lists(st.dictionaries(st.text(), values, max_size=3), min_size=1, max_size=30), crlf=st.booleans(),
       ascii=st.booleans(), final=st.booleans(), block=st.integers(1, 200))  # fmt: skip
def test_round_trip(tmp_path_factory, records, crlf, ascii, final, block):
    folder = tmp_path_factory.mktemp("round")
    end = b"\r\n" if crlf else b"\n"
    lines = [json.dumps(record, ensure_ascii=ascii).encode() for record in records]
    data = end.join(lines) + (end if final else b"")
    (folder / "a.jsonl").write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan.read_blocks, "__defaults__", (block,))
        build(folder / "a.jsonl", folder / "set", "en")
    written = (folder / "set/data.jsonl").read_bytes()
    assert written == data if final else written == data + b"\n"
    dataset = IndexedDataset(folder / "set")
    assert [dataset.read(i).rstrip(b"\r") for i in range(len(dataset))] == lines
    assert [dataset.record(i) for i in range(len(dataset))] == records
    assert check(folder / "set") is True


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"output": "x"', "not valid JSON: Expecting ',' delimiter"),
        (b"plain text", "not valid JSON"),
        (b'{"a": 1} {"b": 2}', "not valid JSON: Extra data"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'["a"]', "not a JSON object but an array"),
        (b'"a"', "not a JSON object but a string"),
        (b"null", "not a JSON object but null"),
        (b'{"a": "\xc3\x28"}', "not UTF-8: invalid continuation byte, 0xc3 at byte 7 of the line"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a": "\t"}', "not valid JSON: Invalid control character"),
        (b'\xef\xbb\xbf{"a": 1}', "Unexpected UTF-8 BOM"),
        (b"", "the line is blank"),
        (b" \t\r", "the line is blank"),
    ],
)
@pytest.mark.parametrize("position", [0, 4, 9])
def test_bad_lines_are_named(tmp_path, source, small_blocks, bad, reason, position):
    lines = source.read_bytes().split(b"\n")[:-1]
    lines[position] = bad
    source.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UserError) as caught:
        build(source, tmp_path / "set", "zh")
    start = sum(len(line) + 1 for line in lines[:position])
    assert str(caught.value).startswith(f"{source}, line {position + 1}, byte {start}: ")
    assert reason in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["source.jsonl"]  # nothing half done is left


def test_lone_surrogates_and_deep_records_are_records(tmp_path):
    """orjson refuses both, the standard library and so the reader take them."""
    (tmp_path / "a.jsonl").write_text('{"output": "\\ud83d"}\n{"output": "a"}\n')
    meta = build(tmp_path / "a.jsonl", tmp_path / "set", "zh")
    assert meta["data_sample"] == {"output": "?"}
    assert IndexedDataset(tmp_path / "set").record(0) == {"output": "\ud83d"}


def test_data_sample_is_cut(tmp_path):
    first = {"a": "詩" * 51, "b": ["x" * 50, {"c": "y" * 60}], "n": 3, "z": None}
    (tmp_path / "a.jsonl").write_bytes(dump(first) + dump({}))
    meta = build(tmp_path / "a.jsonl", tmp_path / "set", "zh")
    assert meta["data_sample"] == {"a": "詩" * 50 + "...", "b": ["x" * 50, {"c": "y" * 50 + "..."}], "n": 3, "z": None}


def test_records_without_text_are_counted(tmp_path, small_blocks):
    records = [{"input": "a"}, {"output": "b", "input": ""}, {"text": "c" * 100}, {"input": "", "output": ""},
               {"output": ["d"]}, {"output": "e"}]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"".join(map(dump, records)))
    meta = build(tmp_path / "a.jsonl", tmp_path / "set", "en")
    assert (meta["records_without_text"], meta["first_record_without_text"]) == (3, 3)
    (tmp_path / "b.jsonl").write_bytes(dump(records[0]))
    meta = build(tmp_path / "b.jsonl", tmp_path / "set2", "en")
    assert (meta["records_without_text"], meta["first_record_without_text"]) == (0, None)


def test_line_longer_than_any_block(tmp_path, small_blocks):
    (tmp_path / "a.jsonl").write_bytes(dump({"output": "詩" * 10_000}) + dump({"output": "b"}))
    assert build(tmp_path / "a.jsonl", tmp_path / "set", "zh")["nlines"] == 2


def test_memory_is_bounded(tmp_path):
    """The peak of a build of 60 MB is about that of one of 6 MB."""
    program = (
        "import re, sys; from fm9g.data.build import build; build(*sys.argv[1:]);"
        # not ru_maxrss, which a process inherits from the one that started it
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    peaks = []
    for repeat in (20_000, 200_000):
        path = tmp_path / f"{repeat}.jsonl"
        path.write_bytes(dump({"output": "詩" * 100}) * repeat)
        command = [sys.executable, "-c", program, path, tmp_path / f"set{repeat}", "zh"]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 12_000  # kB


def test_refused_sources(tmp_path, source):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    cases = {
        "is empty": (empty, "set", "zh"),
        "no such file": (tmp_path / "absent.jsonl", "set", "zh"),
        "is a folder": (tmp_path, "set", "zh"),
        "did you mean 'en'": (source, "set", "eng"),
        "is a file": (source, "source.jsonl", "zh"),
    }
    for message, (path, output, language) in cases.items():
        with pytest.raises(UserError, match=message):
            build(path, tmp_path / output, language)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_source_inside_the_output(tmp_path, source, overwrite):
    build(source, tmp_path / "set", "zh")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    for output in ("set", "link", "."):
        with pytest.raises(UserError, match="lies inside the output folder"):
            build(tmp_path / "set/data.jsonl", tmp_path / output, "zh", overwrite)
    assert len(IndexedDataset(tmp_path / "set")) == 10


def test_same_command_twice(tmp_path, source):
    assert build(source, tmp_path / "set", "zh") is not None
    times = {entry.name: entry.stat().st_mtime_ns for entry in (tmp_path / "set").iterdir()}
    assert build(source, tmp_path / "set", "zh") is None
    assert times == {entry.name: entry.stat().st_mtime_ns for entry in (tmp_path / "set").iterdir()}
    source.write_bytes(source.read_bytes()[:-1])  # the dataset has the newline that is missing here
    assert build(source, tmp_path / "set", "zh") is None


def test_occupied_output(tmp_path, source):
    (tmp_path / "set").mkdir()
    assert build(source, tmp_path / "set", "zh") is not None  # empty is as good as absent
    with pytest.raises(UserError, match=r"language 'zh'.*--overwrite"):
        build(source, tmp_path / "set", "en")
    other = tmp_path / "other.jsonl"
    other.write_bytes(source.read_bytes().replace("答".encode(), "達".encode()))
    with pytest.raises(UserError, match=r"other data.*--overwrite"):
        build(other, tmp_path / "set", "zh")
    (tmp_path / "set/index.h5").unlink()
    (tmp_path / "set/index").unlink()
    with pytest.raises(UserError, match=r"no complete dataset.*--overwrite"):
        build(source, tmp_path / "set", "zh")
    assert (tmp_path / "set/data.jsonl").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_overwrite(tmp_path, source, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(swap, "exchange", lambda first, second: False)
    build(source, tmp_path / "set", "zh")
    (tmp_path / "set/notes.txt").write_text("mine")
    source.write_bytes(dump({"output": "new"}))
    build(source, tmp_path / "set", "en", overwrite=True)
    dataset = IndexedDataset(tmp_path / "set")
    assert [dataset.record(i) for i in range(len(dataset))] == [{"output": "new"}]
    assert {entry.name for entry in (tmp_path / "set").iterdir()} == FILES | {"notes.txt"}
    assert {entry.name for entry in tmp_path.iterdir()} == {"set", "source.jsonl"}
    source.write_bytes(b"broken\n")
    with pytest.raises(UserError, match="line 1"):
        build(source, tmp_path / "set", "en", overwrite=True)
    assert len(IndexedDataset(tmp_path / "set")) == 1  # the old one stands


def test_source_changed_while_read(tmp_path, source):
    def append(done, total):
        with open(source, "ab") as file:
            file.write(b"{}\n")
        os.utime(source, ns=(1, 1))

    with pytest.raises(UserError, match="changed while it was being indexed"):
        build(source, tmp_path / "set", "zh", progress=append)


LOOP = "import sys; from fm9g.data.build import build\nprint(1, flush=True); build(*sys.argv[1:4], len(sys.argv) > 4)"


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_builder_leaves_all_or_nothing(tmp_path, overwrite):
    rng = random.Random(1)
    old, new, target = tmp_path / "old.jsonl", tmp_path / "new.jsonl", tmp_path / "set"
    old.write_bytes(dump({"output": "old"}) * 5)
    new.write_bytes(dump({"output": "new " * 20}) * 100_000)
    seen = set()
    for _ in range(4):
        if overwrite:
            build(old, target, "en", overwrite=True)
        command = [sys.executable, "-c", LOOP, new, target, "en"] + ["overwrite"] * overwrite
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.read(2)  # imports are done
            time.sleep(rng.random() * 0.6)
            process.send_signal(signal.SIGKILL)
        if overwrite or target.exists():
            assert check(target) is True
            seen.add(len(IndexedDataset(target)))
        if not overwrite and target.exists():
            build(old, target, "en", overwrite=True)
            os.rename(target, tmp_path / f"done{rng.random()}")
    assert seen <= {5, 100_000}


def test_check_finds_every_change(tmp_path, source):
    target = tmp_path / "set"
    build(source, target, "zh")
    os.utime(target / "data.jsonl", ns=(2**62, 2**62))  # as cp -r may do
    with pytest.raises(UserError, match="--check"):
        IndexedDataset(target)
    os.utime(target / "data.jsonl", ns=(10**18, 10**18))
    os.utime(target / "index.h5", ns=(10**17, 10**17))
    assert check(target) is True
    assert len(IndexedDataset(target)) == 10

    data = (target / "data.jsonl").read_bytes()
    (target / "data.jsonl").write_bytes(data.replace("問".encode(), "間".encode(), 1))
    with pytest.raises(UserError, match="has changed since it was indexed"):
        check(target)
    (target / "data.jsonl").write_bytes(data.replace(b"}\n{", b"} {", 1))
    with pytest.raises(UserError, match=r"line 1 of data\.jsonl ends at byte"):
        check(target)
    (target / "data.jsonl").write_bytes(data)
    (target / "index").write_text("0\n7\n")
    with pytest.raises(UserError, match=r"differs from index\.h5"):
        check(target)


@pytest.mark.parametrize("change", [+1, -1])
def test_check_counts_lines(tmp_path, source, change):
    build(source, tmp_path / "set", "zh")
    (tmp_path / "set/meta.json").unlink()
    (tmp_path / "set/index").unlink()
    with h5py.File(tmp_path / "set/index.h5") as file:
        bounds = file["index"][:].tolist()
    bounds = [*bounds[:-1], bounds[-1] - 2, bounds[-1]] if change > 0 else bounds[:5] + bounds[6:]
    with h5py.File(tmp_path / "set/index.h5", "w") as file:
        file.create_dataset("index", data=bounds)
    with pytest.raises(UserError, match=r"line \d+ of data.jsonl ends at byte"):
        check(tmp_path / "set")


def test_progress_speaks_only_of_long_work(capsys):
    times = iter([0, 1, 31, 32, 62])
    with Progress("indexing", 1240 * 10**6, clock=lambda: next(times)) as progress:
        progress.add(10 * 10**6)
        progress.add(300 * 10**6)
        progress.add(10 * 10**6)
        progress(620 * 10**6, 1240 * 10**6)
    assert capsys.readouterr().err.splitlines() == [
        "indexing: 0.31 GB, 10 MB/s, 25%, 0:01:33 left",
        "indexing: 0.62 GB, 10 MB/s, 50%, 0:01:02 left",
    ]


def test_build_reports_progress(tmp_path, source):
    seen = []
    build(source, tmp_path / "set", "zh", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(source.stat().st_size, source.stat().st_size)]
    assert build_module.no_progress(1, 2) is None
