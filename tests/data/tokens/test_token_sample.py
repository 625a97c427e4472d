"""Counting the tokens of a sample."""

import random

import numpy as np
import pytest

from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.inspect.dataset import token_lines
from fm9g.data.tokens.sample import sample_tokens, spread
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from tests.support.places import index


@pytest.fixture(scope="module")
def tokenizer(place):
    return load_tokenizer(place.tokenizer)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """2,000 records, a few of them very long."""
    r = random.Random(4)
    records = [
        {
            "input": "q" if i % 3 else "",
            "output": " ".join(r.choices(["the", "a", "月光", "word"], k=int(r.paretovariate(0.9)) + 1)[:3000]),
        }
        for i in range(2000)
    ]
    return IndexedDataset(index(tmp_path_factory.mktemp("uneven") / "set", records))


def real_tokens(dataset, tokenizer):
    found = [dataset.record(i) for i in range(len(dataset))]
    return [len(tokenizer.encode(r["input"])) + len(tokenizer.encode(r["output"])) + 2 for r in found]


def test_all_records_where_there_are_fewer(place, tokenizer):
    dataset = IndexedDataset(place.root / "questions")
    sample, real = sample_tokens(dataset, tokenizer, 1000), real_tokens(dataset, tokenizer)
    assert sample.tokens.tolist() == real
    assert sample.total == pytest.approx(sum(real))
    assert sample.standard_error == 0
    assert sample.bytes_per_token == pytest.approx(dataset.nbytes / sum(real))
    assert f"all {len(dataset)} records" in token_lines(sample, dataset.meta)[0]


def test_the_standard_error_is_honest(uneven, tokenizer):
    real = real_tokens(uneven, tokenizer)
    true_mean = sum(real) / len(real)
    off = []
    for size in range(100, 400, 10):
        sample = sample_tokens(uneven, tokenizer, size)
        assert len(sample.tokens) == size
        off.append((sample.mean - true_mean) / sample.standard_error)
    assert 0.3 < np.sqrt(np.mean(np.square(off))) < 2
    # the bytes are known, so that a few long records do not spoil it
    assert abs(sample_tokens(uneven, tokenizer, 300).mean / true_mean - 1) < 0.1


def test_the_estimate_of_meta_is_judged(uneven, tokenizer):
    sample = sample_tokens(uneven, tokenizer, 2000)
    meta = {"avg_token_per_line": sample.mean * 1.25}
    assert "25.0% too many" in "\n".join(token_lines(sample, meta))
    assert "20.0% too few" in "\n".join(token_lines(sample, {"avg_token_per_line": sample.mean * 0.8}))
    assert "has no estimate" in "\n".join(token_lines(sample, {}))


def test_records_without_text(tmp_path, tokenizer):
    mixed = IndexedDataset(
        index(tmp_path / "mixed", [{"output": "a word"}, {"text": "b"}, {"output": 3}, {"input": "c"}])
    )
    sample = sample_tokens(mixed, tokenizer, 10)
    assert sample.tokens[1:].tolist() == [0, 0, 0]
    assert sample.without_text == 3
    assert "3 of them have no text" in token_lines(sample, mixed.meta)[-1]
    with pytest.raises(UserError, match="transform"):
        sample_tokens(IndexedDataset(index(tmp_path / "none", [{"text": "b"}])), tokenizer, 10)
    with pytest.raises(UserError, match="sample must be at least 1"):
        sample_tokens(mixed, tokenizer, 0)


def test_one_record_says_nothing_of_the_others(uneven, tokenizer):
    sample = sample_tokens(uneven, tokenizer, 1)
    assert sample.standard_error is None
    assert "not known" in "\n".join(token_lines(sample, {}))


def test_samples_are_spread_evenly():
    assert spread(10, 2) == [2, 7]
    assert spread(3, 3) == spread(3, 50) == [0, 1, 2]
    for length, count in ((1000, 7), (10**12, 1000), (11, 10)):
        found = spread(length, count)
        assert len(set(found)) == count
        assert 0 <= found[0] <= length - 1 - found[-1] + 1 <= length / count + 1
        assert max(np.diff(found)) - min(np.diff(found)) <= 1
