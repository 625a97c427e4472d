"""When the datasets of a mixture will have been read."""

from types import SimpleNamespace

import numpy as np
import pytest

from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.document import Document, Sequence
from fm9g.data.stream.forecast import (
    SAMPLED_DOCUMENTS,
    CorpusSample,
    describe,
    endings,
    sample_corpus,
    tokens_per_document,
)
from fm9g.data.stream.mixture import MixtureEntry
from fm9g.data.tokens.tokenizer import load_tokenizer
from tests.support.places import index


def corpus(name, share, records, epochs, size=10):
    """Stands for a Corpus whose documents all take `size` places."""
    return SimpleNamespace(
        entry=SimpleNamespace(task_name=name, share=share, epochs=epochs),
        records=records,
        end=np.inf if epochs is None else epochs * records,
        dataset=SimpleNamespace(span=lambda record: (0, 50)),
        nbytes=50 * records,
        examples=list,
        encoded=lambda examples: {},
        documents=lambda examples, ids: [
            Document(0, (Sequence(np.arange(size + 1), ((1, size + 1),)),), True) for _ in examples
        ],
    )


def test_the_mean_counts_records_that_give_nothing(tmp_path, place):
    folder = index(tmp_path / "set", [{"output": "the model reads " * 5}, {"output": ""}])
    found = opened(folder, load_tokenizer(place.tokenizer))
    documents = [found.document(0), found.document(1)]
    (document,) = [document for document in documents if isinstance(document, Document)]
    assert tokens_per_document(found) == pytest.approx(document.places / 2)


def test_the_estimate_goes_by_bytes_where_few_records_are_long(tmp_path, place):
    """A plain mean of 200 of 3,000 records, of which 10 are long, goes by how many of those it meets."""
    texts = ["the model reads " * (2000 if i % 300 == 7 else 1) + str(i) for i in range(3000)]
    found = opened(index(tmp_path / "set", [{"output": text} for text in texts]), load_tokenizer(place.tokenizer))
    sample = sample_corpus(found)
    real = sum(found.document(i).places for i in range(3000)) / 3000
    assert sample.mean == pytest.approx(real, rel=0.35)
    counted = [document.places for document in found.documents(sample.examples, sample.ids)]
    assert abs(np.mean(counted) / real - 1) > abs(sample.mean / real - 1)
    assert len(counted) == SAMPLED_DOCUMENTS
    assert sample.standard_error > 0


def opened(folder, tokenizer, row_length=1 << 20, rule="segment"):
    entry = MixtureEntry("set", folder, 1.0, None, True, rule, None, {})
    return Corpus(entry, tokenizer, 1, row_length)


@pytest.mark.parametrize(("rule", "lost", "cut"), [("segment", 5, 7), ("head", 5, 7), ("drop", 12, 0)])
def test_what_is_too_long_for_a_row_is_told(tmp_path, place, rule, lost, cut):
    long = "the model reads " * 30
    records = [{"input": long, "output": "words"}] * 5 + [{"input": "the", "output": long}] * 7
    records += [{"input": "the", "output": "words"}] * 48
    tokenizer = load_tokenizer(place.tokenizer)
    sample = sample_corpus(opened(index(tmp_path / "set", records), tokenizer, 32, rule))
    assert (sample.lost, sample.cut) == (lost, cut)
    assert sample.mean == np.mean(
        [document.places for document in sample.documents if isinstance(document, Document)] + [0] * lost
    )
    said = sample.warnings(tokenizer, 32)
    assert f"{lost} of 60 sampled records are longer than max_length 32 and give nothing" in said
    assert (f"{cut} of 60 sampled records are longer than max_length 32 and lose the end of their output" in said) == (
        cut > 0
    )
    whole = sample_corpus(opened(tmp_path / "set", tokenizer, 1 << 10, rule))
    assert (whole.lost, whole.cut, whole.warnings(tokenizer, 1 << 10)) == (0, 0, [])


def test_a_dataset_ends_when_its_tokens_are_read():
    corpora = [corpus("a", 0.25, 1000, 1.0), corpus("b", 0.75, 10, None)]
    (ending,) = endings(corpora, 100, [0, 0], 0)
    assert (ending.task_name, ending.tokens) == ("a", 10_000)
    assert ending.step == pytest.approx(400)
    (ending,) = endings(corpora, 100, [500, 7], 50)  # half of it is left
    assert ending.step == pytest.approx(50 + 200)


def test_the_others_go_faster_after_one_has_ended():
    corpora = [corpus("a", 0.5, 100, 1.0), corpus("b", 0.5, 100, 3.0), corpus("off", 0.0, 5, 1.0)]
    first, second = endings(corpora, 100, [0, 0, 0], 0)
    assert (first.task_name, first.step) == ("a", pytest.approx(20))
    assert (second.task_name, second.step) == ("b", pytest.approx(20 + 20))  # 2,000 of its 3,000 tokens were left


def test_what_is_known_is_not_counted_again():
    known, counted = corpus("a", 0.5, 100, 1.0), corpus("b", 0.5, 100, 3.0)
    known.encoded = None
    found = endings([known, counted], 100, [0, 0], 0, {"a": CorpusSample([], {}, [], 5.0, None)})
    assert [(ending.task_name, ending.tokens) for ending in found] == [("a", 500), ("b", 3000)]


def test_what_is_said():
    found = endings([corpus("a", 0.5, 100, 1.0), corpus("b", 0.5, 100, 3.0)], 100, [0, 0], 0)
    assert describe(found, 15, False, False) == []
    (said,) = describe(found, 30, False, False)
    assert said == "dataset 'a' ends at about step 20 of 30 (about 1,000 tokens are left of it)"
    assert describe(found, 50, False, False)[-1].endswith("the run fails there, unless stop_when_end=1")
    assert describe(found, 50, False, True)[-1].endswith("the run ends there")
    assert len(describe(found, 50, True, False)) == 2  # another one repeats for ever
