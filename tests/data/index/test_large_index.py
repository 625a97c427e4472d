"""A large file comes back from its index record by record."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest

from fm9g.data.index.build import build
from fm9g.data.index.dataset import IndexedDataset

MEGABYTES = 500


def write_corpus(path: Path, megabytes: int) -> None:
    texts = [
        "床前明月光，疑是地上霜。" * 3,
        "x",
        "The quick brown fox jumps over the lazy dog. " * 40,
        'a "b" \\ \u2028',
    ]
    with path.open("w", encoding="utf-8") as file:
        number = 0
        while file.tell() < megabytes * 1_000_000:
            for _ in range(1000):
                record = {"input": "", "output": f"{number} {texts[number % len(texts)]}"}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                number += 1


def assert_identical(folder: Path, source: Path) -> None:
    dataset = IndexedDataset(folder)
    with source.open("rb") as lines:
        number = -1
        for number, line in enumerate(lines):
            assert dataset.read(number) == line[:-1], f"record {number}"
    assert len(dataset) == number + 1


def check_corpus(folder: Path, megabytes: int) -> None:
    source = folder / "corpus.jsonl"
    write_corpus(source, megabytes)
    build(source, folder / "set", "zh")
    assert_identical(folder / "set", source)
    # the old layout: where each record ends, without the leading 0
    with h5py.File(folder / "set/index.h5", "r+") as file:
        ends = file["index"][1:]
        del file["index"]
        file.create_dataset("index", data=ends)
    (folder / "set/index").write_text("".join(f"{end}\n" for end in ends))
    assert_identical(folder / "set", source)


def test_a_file_comes_back_record_by_record(tmp_path: Path) -> None:
    check_corpus(tmp_path, 5)


@pytest.mark.soak
def test_a_file_of_500_mb_comes_back_record_by_record(tmp_path: Path) -> None:
    check_corpus(tmp_path, MEGABYTES)
