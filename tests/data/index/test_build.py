"""Building indexed datasets: figures against a plain loop, lines that are left out, several files, checking."""

import base64
import gzip
import json
import math
import os
import random
import subprocess
import sys

import google_crc32c
import h5py
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fm9g.data import jsonl_files
from fm9g.data.index import build as build_module
from fm9g.data.index.build import Options, build
from fm9g.data.index.check import check
from fm9g.data.index.dataset import IndexedDataset
from fm9g.errors import UserError
from fm9g.progress_bar import ProgressBar
from tests.support.builds import FILES, SKIP, dump, verified


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
    expected["avg_token_per_line"] = pytest.approx(
        expected["avg_token_per_line"], rel=1e-12
    )  # the loop adds up roundings
    assert {key: meta[key] for key in expected} == expected
    assert sum(count > 0 for count in meta["length_distribute"].values()) >= 7
    assert meta["xxh3_128"] == xxhash.xxh3_128(data).hexdigest()


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
        assert file["records"].id.get_offset() is not None
        assert file["records"].dtype.itemsize == 12
        assert file["records"]["end"].tolist() == bounds[1:]
        lines = source.read_bytes().split(b"\n")[:-1]
        assert file["records"]["crc32c"].tolist() == [google_crc32c.value(line) for line in lines]


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
        patch.setattr(jsonl_files, "BLOCK_BYTES", block)
        build(folder / "a.jsonl", folder / "set", "en")
    written = (folder / "set/data.jsonl").read_bytes()
    assert written == data if final else written == data + b"\n"
    dataset = IndexedDataset(folder / "set")
    assert [dataset.read(i).rstrip(b"\r") for i in range(len(dataset))] == lines
    assert [dataset.record(i) for i in range(len(dataset))] == records
    assert verified(folder / "set")


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
        (b'{"a": {"b": 1}', "not valid JSON"),
        (b"}", "not valid JSON"),
        (b'{"a": 1e5}} ', "not valid JSON: Extra data"),
        pytest.param(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply", id="deep"),
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


def test_lone_surrogates_are_records(tmp_path):
    """msgspec refuses them, the standard library and so the reader take them."""
    (tmp_path / "a.jsonl").write_text('{"output": "\\ud83d"}\n{"output": "a"}\n')
    meta = build(tmp_path / "a.jsonl", tmp_path / "set", "zh")
    assert meta["data_sample"] == {"output": "?"}
    assert IndexedDataset(tmp_path / "set").record(0) == {"output": "\ud83d"}


def test_huge_numbers_and_repeated_keys_are_json(tmp_path):
    huge = b"9" * 5000
    (tmp_path / "a.jsonl").write_bytes(
        b'{"output": "a", "n": ' + huge + b', "m": 1e999}\n{"output": "b", "output": "c"}\n'
    )
    build(tmp_path / "a.jsonl", tmp_path / "set", "zh")
    dataset = IndexedDataset(tmp_path / "set")
    assert dataset.record(0) == {"output": "a", "n": math.inf, "m": math.inf}
    assert dataset.record(1) == {"output": "c"}


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
    assert (meta["records_without_text"], meta["first_record_without_text"], meta["empty_records"]) == (3, 1, 1)
    assert meta["fields_without_text"] == {"'input'": 1, "'text'": 1, "'output'": 1}
    assert meta["unread_texts"] == [
        "they are texts: python tools/prepare_data.py --format text --path X --output Y.jsonl reads them"
    ]
    (tmp_path / "b.jsonl").write_bytes(dump(records[0]))
    meta = build(tmp_path / "b.jsonl", tmp_path / "set2", "en")
    assert (meta["records_without_text"], meta["first_record_without_text"]) == (1, 1)
    (tmp_path / "c.jsonl").write_bytes(dump(records[1]))
    meta = build(tmp_path / "c.jsonl", tmp_path / "set3", "en")
    assert (meta["records_without_text"], meta["first_record_without_text"]) == (0, None)
    assert (meta["fields_without_text"], meta["unread_texts"]) == ({}, [])


def test_line_longer_than_any_block(tmp_path, small_blocks):
    (tmp_path / "a.jsonl").write_bytes(dump({"output": "詩" * 10_000}) + dump({"output": "b"}))
    assert build(tmp_path / "a.jsonl", tmp_path / "set", "zh")["nlines"] == 2


def test_memory_is_bounded(tmp_path):
    """The peak of a build of 60 MB is about that of one of 6 MB."""
    program = (
        "import re, sys; from fm9g.data.index.build import build; build(*sys.argv[1:]);"
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


def test_check_finds_every_change(tmp_path, source):
    target = tmp_path / "set"
    build(source, target, "zh")
    os.utime(target / "data.jsonl", ns=(2**62, 2**62))  # as cp -r may do
    with pytest.raises(UserError, match=r"python tools/check_index\.py"):
        IndexedDataset(target)
    os.utime(target / "data.jsonl", ns=(10**18, 10**18))
    os.utime(target / "index.h5", ns=(10**17, 10**17))
    assert verified(target)
    assert len(IndexedDataset(target)) == 10

    data = (target / "data.jsonl").read_bytes()
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        (target / "data.jsonl").write_bytes(flipped)
        assert [number for number, _ in check(target).damaged] == [data.count(b"\n", 0, place)]
    (target / "data.jsonl").write_bytes(data)
    (target / "index").write_text("0\n7\n")
    with pytest.raises(UserError, match=r"differs from index\.h5"):
        check(target)


@pytest.mark.parametrize("change", [+1, -1])
def test_check_finds_wrong_bounds_without_checksums(tmp_path, source, change):
    build(source, tmp_path / "set", "zh", Options(checksums=False))
    (tmp_path / "set/meta.json").unlink()
    (tmp_path / "set/index").unlink()
    with h5py.File(tmp_path / "set/index.h5") as file:
        bounds = file["index"][:].tolist()
    bounds = [*bounds[:-1], bounds[-1] - 2, bounds[-1]] if change > 0 else bounds[:5] + bounds[6:]
    with h5py.File(tmp_path / "set/index.h5", "w") as file:
        file.create_dataset("index", data=bounds)
    assert check(tmp_path / "set").damaged_count == 1


def test_bad_lines_are_kept_apart(tmp_path, source, small_blocks):
    lines = source.read_bytes().split(b"\n")[:-1]
    bad = {3: b'{"output": 1', 7: b'{"output": "\xff"}', 12: b"[1]"}
    for number, line in bad.items():
        lines.insert(number - 1, line)
    source.write_bytes(b"\n".join(lines) + b"\n")
    meta = build(source, tmp_path / "set", "zh", SKIP)
    assert (meta["nlines"], meta["rejected_lines"]) == (10, 3)
    entries = [json.loads(line) for line in (tmp_path / "set/rejected.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in entries] == list(bad)
    for entry, line in zip(entries, bad.values(), strict=True):
        assert entry["file"] == str(source)
        assert source.read_bytes()[entry["offset"] :].startswith(line + b"\n")
        assert entry.get("text", "").encode() == line or base64.b64decode(entry["base64"]) == line
    assert "not UTF-8" in entries[1]["reason"]
    dataset = IndexedDataset(tmp_path / "set")
    assert [dataset.record(i)["output"] for i in range(10)] == [f"答 {i}" for i in range(10)]
    assert verified(tmp_path / "set")
    assert build(source, tmp_path / "set", "zh", SKIP) is None


def test_blank_lines_and_a_byte_order_mark_are_left_out(tmp_path, source, small_blocks):
    plain = source.read_bytes()
    source.write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\n\n \t\r\n", 3) + b"\n")
    meta = build(source, tmp_path / "set", "zh")
    assert (meta["nlines"], meta["blank_lines"], meta["rejected_lines"]) == (10, 7, 0)
    assert (tmp_path / "set/data.jsonl").read_bytes() == plain
    assert not (tmp_path / "set/rejected.jsonl").exists()
    assert build(source, tmp_path / "set", "zh") is None


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [0, 5, 10])
def test_a_line_beyond_the_limit_is_not_held_in_memory(tmp_path, source, small_blocks, packed, place):
    lines = source.read_bytes().split(b"\n")[:-1]
    lines.insert(place, b'{"output": "' + b"x" * 5000 + b'"}')
    source.write_bytes(b"\n".join(lines) + b"\n")
    path = source
    if packed:
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(source.read_bytes()))
    with pytest.raises(UserError, match=rf"line {place + 1}, byte \d+: longer than 1,000 bytes \(--max-line-bytes\)"):
        build(path, tmp_path / "set", "zh", Options(max_line_bytes=1000))
    meta = build(path, tmp_path / "set", "zh", Options(max_line_bytes=1000, on_error="skip"))
    assert (meta["nlines"], meta["rejected_lines"]) == (10, 1)
    (entry,) = [json.loads(line) for line in (tmp_path / "set/rejected.jsonl").read_text().splitlines()]
    assert (entry["line"], entry["text"]) == (place + 1, "")


def test_without_validation_and_checksums_lines_are_taken_as_they_are(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"no json\n{}\n")
    meta = build(tmp_path / "a.jsonl", tmp_path / "set", "en", Options(validate=False, checksums=False))
    assert meta["nlines"] == 2
    assert "xxh3_128" not in meta
    report = check(tmp_path / "set")
    assert (report.checksums, report.digest, report.damaged_count) == (False, False, 0)


def test_files_folders_and_compressed_ones_in_order(tmp_path):
    parts = [b"".join(dump({"output": f"{part} {i}"}) for i in range(50)) for part in "abcd"]
    (tmp_path / "many/deep").mkdir(parents=True)
    (tmp_path / "many/a.jsonl").write_bytes(parts[0][:-1])  # without its last newline
    (tmp_path / "many/b.jsonl.gz").write_bytes(gzip.compress(parts[1]))
    (tmp_path / "many/deep/c.jsonl.zst").write_bytes(zstandard.compress(parts[2]))
    (tmp_path / "many/notes.txt").write_text("no data")
    (tmp_path / "中文 d.jsonl").write_bytes(b"\xef\xbb\xbf" + parts[3])
    build([tmp_path / "many", tmp_path / "中文 d.jsonl"], tmp_path / "集 合", "en")
    assert (tmp_path / "集 合/data.jsonl").read_bytes() == b"".join(parts)
    assert verified(tmp_path / "集 合")
    assert build([tmp_path / "many", tmp_path / "中文 d.jsonl"], tmp_path / "集 合", "en") is None


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_file_that_is_cut_short(tmp_path, source, suffix):
    random_text = b"".join(dump({"output": random.Random(i).randbytes(40).hex()}) for i in range(2000))
    packed = gzip.compress(random_text) if suffix == "gz" else zstandard.compress(random_text)
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match="cannot be decompressed, it is cut short or damaged"):
        build(path, tmp_path / "set", "en")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_processes_makes_the_same_files(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(build_module, "_SMALL_BYTES", 0)
    monkeypatch.setattr(jsonl_files, "BLOCK_BYTES", 5000)
    lines = [dump({"output": "詩" * (i % 97), "n": i}) for i in range(3000)]
    for bad in (1500, 1501, 2600, 2999):
        lines[bad] = b"broken\n"
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines[:1000])[:-1])  # without its last newline
    (tmp_path / "b.jsonl").write_bytes(b"".join(lines[1000:]))
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    build(files, tmp_path / "set", "zh", Options(workers=workers, on_error="skip"))
    assert (tmp_path / "set/data.jsonl").read_bytes() == b"".join(lines).replace(b"broken\n", b"")
    assert verified(tmp_path / "set")
    assert {entry.name for entry in (tmp_path / "set").iterdir()} == FILES | {"rejected.jsonl"}


def test_progress_speaks_only_of_long_work(capsys):
    times = iter([0, 1, 31, 32, 62])
    with ProgressBar("indexing", 1240 * 10**6, clock=lambda: next(times)) as progress:
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
