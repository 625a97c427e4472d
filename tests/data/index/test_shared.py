"""Records that two datasets share, told from their indexes."""

import json
import os
import random

import numpy as np
import pytest

from fm9g.data.index import shared
from fm9g.data.index.build import build
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.index.shared import Part, SharedRecords, has_checksums


def part_of(folder, texts, records=None):
    source = folder.with_suffix(".jsonl")
    source.write_text("".join(json.dumps({"input": "", "output": text}) + "\n" for text in texts))
    build(source, folder, "en")
    dataset = IndexedDataset(folder)
    return Part(folder.name, dataset, len(dataset) if records is None else records)


def found_in(parts, others):
    searched, done = SharedRecords(parts), []
    for other in others:
        searched.look(other, done.append)
    return {(s.part.name, s.record, s.other.name, s.other_record) for s in searched.found}


def test_it_finds_what_comparing_all_lines_finds(tmp_path, monkeypatch):
    """In pieces that cut datasets anywhere, and with texts that are in a dataset several times."""
    monkeypatch.setattr(shared, "_RECORDS_AT_ONCE", 7)
    chance = random.Random(3)
    texts = {name: [f"text {chance.randrange(300)}" for _ in range(50)] for name in ("a", "b", "c", "d")}
    parts = {name: part_of(tmp_path / name, of, 40) for name, of in texts.items()}
    others = [(name, number) for name in ("c", "d") for number in range(40)]
    expected = set()
    for name in ("a", "b"):
        for number in range(40):
            same = [at for at in others if texts[at[0]][at[1]] == texts[name][number]]
            expected |= {(name, number, *at) for at in same[:1]}
    assert len(expected) > 5
    assert found_in([parts["a"], parts["b"]], [parts["c"], parts["d"]]) == expected


def test_equal_checksums_are_not_taken_for_equal_records(tmp_path, monkeypatch):
    parts = part_of(tmp_path / "a", ["one", "two"]), part_of(tmp_path / "b", ["six", "ten"])

    def same_keys(part):
        yield 0, np.full(part.records, 5, dtype=np.uint64)

    monkeypatch.setattr(shared, "_keys", same_keys)
    assert found_in(parts[:1], parts[1:]) == set()
    assert found_in(parts[:1], parts[:1]) == {("a", 0, "a", 0)}


def test_a_damaged_record_is_passed_over(tmp_path):
    texts = ["one", "two", "three"]
    ours, theirs = part_of(tmp_path / "a", texts), part_of(tmp_path / "b", texts)
    data = tmp_path / "b/data.jsonl"
    data.write_bytes(data.read_bytes().replace(b"two", b"twx"))
    os.utime(tmp_path / "b/index.h5")
    assert found_in([ours], [theirs]) == {("a", 0, "b", 0), ("a", 2, "b", 2)}


@pytest.mark.parametrize("name", ["index.h5", "records"])
def test_folders_of_older_builders_have_no_checksums(tmp_path, name):
    part = part_of(tmp_path / "a", ["one", "two"])
    assert has_checksums(part)
    if name == "records":
        import h5py

        with h5py.File(tmp_path / "a/index.h5", "a") as file:
            del file["records"]
    else:
        (tmp_path / "a/index.h5").unlink()
    assert not has_checksums(part)
