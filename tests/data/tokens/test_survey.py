"""What a tokenizer loses of texts."""

import io

import pytest
import sentencepiece

from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.inspect.dataset import token_lines
from fm9g.data.tokens.sample import sample_tokens
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.survey import Survey
from fm9g.data.tokens.tokenizer import load_tokenizer
from tests.support.places import index


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    """sentencepiece as it comes: runs of whitespace are one space, and what is not in the vocabulary is unknown."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a few plain words", "words and a few more words"] * 20),
        model_writer=model,
        vocab_size=24,
        model_type="bpe",
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("lossy") / "lossy.model"
    path.write_bytes(model.getvalue())
    return load_tokenizer(path)


def surveyed(tokenizer, *texts):
    survey = Survey(tokenizer)
    for text in texts:
        survey.add(text, tokenizer.encode(text))
    return survey


def test_a_faithful_tokenizer_loses_nothing(place):
    survey = surveyed(load_tokenizer(place.tokenizer), "a\n  b\t", "月光，😀", "half \ud83d of a pair")
    assert (survey.texts, survey.changed, survey.unknown, survey.lost_share) == (3, 0, 0, 0)
    assert survey.lines() == survey.warnings() == []


def test_what_is_lost_is_counted_and_named(lossy):
    survey = surveyed(lossy, "a few words\nand  more\nwords", "a few words")
    assert (survey.texts, survey.changed) == (2, 1)
    assert survey.lost["\n"] == 2
    (said,) = survey.warnings()
    assert "1 of 2 texts do not survive the tokenizer" in said
    assert "newline (2 of 2)" in said


def test_unknown_tokens_are_counted(lossy):
    survey = surveyed(lossy, "a 月 few words")
    assert survey.unknown == 1
    assert survey.unknown_share == pytest.approx(1 / survey.tokens)
    assert "unknown (UNK)" in survey.warnings()[0]
    assert "'月' (1 of 1)" in survey.warnings()[1]


def test_a_special_token_that_a_transform_wrote_is_no_loss(place):
    tokenizer = load_tokenizer(place.tokenizer)
    text = f"a word{tokenizer.special[tokenizer.eos_id]}"
    survey = Survey(tokenizer)
    survey.add(text, tokenizer.encode(text, Written.ALL))
    assert survey.changed == 0


def test_a_rare_loss_is_told_but_is_no_warning(lossy):
    survey = surveyed(lossy, "a few  words", *["a few words"] * 200)
    assert survey.warnings() == []
    ((warns, said),) = survey.lines()
    assert not warns
    assert "decoded, they lack less than 0.1% of the characters: space (1 of 3)" in said


def test_inspect_index_tells_it(tmp_path, lossy, place):
    dataset = IndexedDataset(index(tmp_path / "set", [{"output": f"a few\nwords {i}"} for i in range(5)]))
    told = [line for line in token_lines(sample_tokens(dataset, lossy, 5), {}) if "warning" in line]
    assert any("5 of 5 texts do not survive the tokenizer" in line and "newline (5 of 5)" in line for line in told)
    faithful = token_lines(sample_tokens(dataset, load_tokenizer(place.tokenizer), 5), {})
    assert not any("survive" in line for line in faithful)
