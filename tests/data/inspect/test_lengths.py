"""The lengths of a dataset's records."""

import itertools
import json
import sys

import numpy as np
import pytest

from fm9g.data.index.build import build
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.inspect import lengths as module
from fm9g.data.inspect.lengths import measure_lengths, plot_lengths, token_bins
from fm9g.errors import UserError

SIZES = [64, 63, 128, 127, 1024, 40, 40, 5000, 1023, 5000]


@pytest.fixture
def dataset(tmp_path):
    """Records of SIZES bytes, newline included."""
    empty = len(json.dumps({"output": ""})) + 1
    lines = [json.dumps({"output": "x" * (size - empty)}) + "\n" for size in SIZES]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    build(tmp_path / "a.jsonl", tmp_path / "set", "en")
    return IndexedDataset(tmp_path / "set")


def check(found):
    assert (found.records, found.nbytes, found.mean) == (len(SIZES), sum(SIZES), sum(SIZES) / len(SIZES))
    assert found.shortest == (40, 5)  # the first of two
    assert found.longest == (5000, 7)
    bins = found.bins()
    assert [bin for bin in bins if bin[1]] == [
        ("40-48", 2), ("56-64", 1), ("64-80", 1), ("112-128", 1), ("128-160", 1), ("896-1K", 1), ("1K-2K", 1),
        ("4K-8K", 2),
    ]  # fmt: skip
    bounds = [label.split("-") for label, _ in bins]
    assert all(high == low for (_, high), (low, _) in itertools.pairwise(bounds))  # none is left out between them


@pytest.mark.parametrize("window", [1, 3, 1 << 20])
def test_every_record_is_measured_however_many_at_once(dataset, monkeypatch, window):
    monkeypatch.setattr(module, "_WINDOW", window)
    check(measure_lengths(dataset))


def test_folders_of_older_builders(dataset):
    (dataset.path / "index.h5").unlink()
    check(measure_lengths(IndexedDataset(dataset.path)))
    (dataset.path / "index").write_text("".join(f"{end}\n" for end in np.cumsum(SIZES)))  # without the leading 0
    (dataset.path / "meta.json").unlink()
    old = IndexedDataset(dataset.path)
    check(measure_lengths(old))
    assert token_bins(old.meta) == []


def test_tokens_of_meta(dataset):
    assert dict(token_bins(dataset.meta)) == dataset.meta["length_distribute"]


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch, dataset, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"needs matplotlib.*pip install matplotlib"):
        plot_lengths(tmp_path / "a.png", measure_lengths(dataset), dataset.meta)
    assert not (tmp_path / "a.png").exists()


def test_a_png(dataset, tmp_path):
    for meta in (dataset.meta, {}):
        plot_lengths(tmp_path / "a.png", measure_lengths(dataset), meta)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "set", "a.png"}
