"""A saved stream: what of the present data continues it; and a corpus that goes on as a run has read it."""

import dataclasses

import pytest

from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.stream.corpus import Corpus, open_corpora
from fm9g.data.stream.loader import Plan
from fm9g.data.stream.mixture import read_mixture
from fm9g.data.stream.order import Generation
from fm9g.data.stream.record_formats import RECORD_FORMATS
from fm9g.data.stream.saved_stream import check_stream, describe_stream
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError

PLAN = Plan(3, 32, 1, 1)


@pytest.fixture
def tokenizer(place):
    return load_tokenizer(place.tokenizer)


@pytest.fixture
def opened(place, tokenizer, monkeypatch):
    """The corpora of the mixture, of which the second is read in another format where it is asked for."""
    monkeypatch.setitem(RECORD_FORMATS, "lyrics", RECORD_FORMATS["text"])

    def corpora(second="text"):
        first, other = read_mixture(place.mixture)
        return open_corpora([first, dataclasses.replace(other, format=second)], tokenizer, PLAN.seed, PLAN.row_length)

    return corpora


def test_a_change_of_format_is_refused_unless_accepted(opened, tokenizer):
    saved = describe_stream(PLAN, tokenizer, opened())
    check_stream(saved, PLAN, tokenizer, opened(), False)
    with pytest.raises(UserError, match="'questions': format was text when the checkpoint was made and is lyrics now"):
        check_stream(saved, PLAN, tokenizer, opened("lyrics"), False)
    check_stream(saved, PLAN, tokenizer, opened("lyrics"), True)


def test_older_saves_that_name_no_format_are_of_text(opened, tokenizer):
    saved = describe_stream(PLAN, tokenizer, opened("lyrics"))
    for task in saved["tasks"]:
        del task["format"]
    check_stream(saved, PLAN, tokenizer, opened(), False)
    with pytest.raises(UserError, match="format was text"):
        check_stream(saved, PLAN, tokenizer, opened("lyrics"), False)


def test_a_corpus_is_continued_without_opening_its_dataset_again(place, tokenizer, monkeypatch):
    entry = read_mixture(place.mixture)[0]
    corpus = Corpus(entry, tokenizer, 3, 32)
    assert corpus.continued([Generation(0, corpus.records)]) is corpus
    generations = [Generation(0, corpus.records - 20), Generation(2, corpus.records)]
    expected = Corpus(entry, tokenizer, 3, 32, generations)
    monkeypatch.setattr(IndexedDataset, "__init__", None)
    continued = corpus.continued(generations)
    assert continued.dataset is corpus.dataset
    positions = range(3 * corpus.records)
    order = [continued.record(position) for position in positions]
    assert order == [expected.record(position) for position in positions]
    assert order != [corpus.record(position) for position in positions]
    assert set(order[: corpus.records - 20]) == set(range(corpus.records - 20))
