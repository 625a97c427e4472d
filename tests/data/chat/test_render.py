"""From records to tokens: what is learned, what is cut, and that text is text."""

from __future__ import annotations

from itertools import pairwise

import pytest
import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers

from fm9g.data.chat.render import Learned, Renderer
from fm9g.data.record import NoText
from fm9g.data.stream.document import Document, Skip
from fm9g.data.tokens.tokenizer import load_tokenizer
from tests.support.chats import (
    RECORDS,
    answers,
    conversation,
    document,
    their_ids,
    tokens_and_ranges,
    transformers_tokenizer,
)
from tests.support.jinja_templates import LLAMA2, PHI3
from tests.support.tiny_tokenizers import save, sentence_pieces

CHATML = "chatml"


@pytest.fixture
def chatml(tokenizer_of):
    return tokenizer_of(CHATML)


def said(renderer, tokenizer, record):
    return [tokenizer.decode(ids[:-1]).strip() for ids in tokens_and_ranges(renderer, record)[1]]


def test_the_last_answer_alone(chatml):
    renderer = Renderer(CHATML, chatml, Learned(mask_history=True))
    assert said(renderer, chatml, conversation(3)) == [answer.strip() for answer in answers(conversation(3))[-1:]]


def test_all_of_a_conversation(chatml):
    tokens, ranges = tokens_and_ranges(Renderer(CHATML, chatml, Learned(train_on_prompt=True)), conversation(3))
    assert ranges == [tokens[1:]]


def test_answers_that_say_so_are_not_learned(chatml):
    renderer, record = Renderer(CHATML, chatml, Learned()), conversation(3)
    record["conversations"][3]["loss"] = False
    expected = [answer.strip() for answer in answers(record)]
    assert said(renderer, chatml, record) == [expected[0], expected[2]]
    for turn in record["conversations"]:
        turn["weight"] = 0
    with pytest.raises(NoText, match="has no answer to learn"):
        renderer.parts(record)


def weights_of(renderer, record):
    """(text, weight) of each range of learned tokens that weigh the same."""
    made = document(renderer, record)
    assert isinstance(made, Document)
    (sequence,) = made.sequences
    assert sequence.weights is not None and len(sequence.weights) == len(sequence.tokens)
    return [
        (start + first, start + last, weight)
        for start, stop in sequence.targets
        for weight, first, last in _runs(sequence.weights[start:stop].tolist())
    ]


def _runs(values):
    bounds = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return [(values[first], first, last) for first, last in pairwise(bounds)]


@pytest.mark.parametrize("name", [CHATML, "belle", "vicuna"])  # with tokens around answers, and with text alone
def test_tokens_of_answers_have_the_weights_of_turn_times_record(tokenizer_of, name):
    tokenizer = tokenizer_of(name)
    renderer, record = Renderer(name, tokenizer, Learned()), conversation(3)
    plain = document(renderer, record)
    assert isinstance(plain, Document) and plain.sequences[0].weights is None
    for number, weight in ((1, 0.5), (3, 4)):
        record["conversations"][number]["weight"] = weight
    expected = [(*bounds, weight) for bounds, weight in zip(plain.sequences[0].targets, (1.0, 8, 2), strict=True)]
    assert weights_of(renderer, record | {"weight": 2}) == expected
    record["conversations"][3]["weight"] = 0
    assert weights_of(renderer, record) == [(*expected[0][:2], 0.5), (*expected[2][:2], 1.0)]


def test_weights_that_come_to_one_are_none(chatml):
    renderer, record = Renderer(CHATML, chatml, Learned()), conversation(3)
    for turn in record["conversations"]:
        turn["weight"] = 0.5
    made = document(renderer, record | {"weight": 2})
    assert isinstance(made, Document) and made.sequences[0].weights is None


def test_where_all_is_learned_answers_keep_their_weights(chatml):
    renderer, record = Renderer(CHATML, chatml, Learned(train_on_prompt=True)), conversation(2)
    plain = document(Renderer(CHATML, chatml, Learned()), record)
    assert isinstance(plain, Document)
    (first, stop), _ = plain.sequences[0].targets
    record["conversations"][1]["weight"], record["conversations"][3]["weight"] = 4, 0
    size = len(tokens_and_ranges(renderer, record)[0])
    assert weights_of(renderer, record | {"weight": 0.5}) == [(1, first, 0.5), (first, stop, 2.0), (stop, size, 0.5)]


def test_a_record_of_weight_0_is_not_learned(chatml):
    with pytest.raises(NoText, match="has the weight 0, so that nothing of it is learned"):
        Renderer(CHATML, chatml, Learned(train_on_prompt=True)).parts(conversation(2) | {"weight": 0})


def test_what_is_too_long_is_cut_after_an_answer(chatml):
    renderer, record = Renderer(CHATML, chatml, Learned()), conversation(3)
    whole = document(renderer, record)
    assert isinstance(whole, Document)
    ends = [stop for _, stop in whole.sequences[0].targets]
    for row_length in range(1, whole.places + 2):
        made = document(renderer, record, row_length)
        fitting = [end for end in ends if end <= row_length + 1]
        if row_length >= whole.places:
            assert isinstance(made, Document) and made.lost == 0
        elif not fitting:
            assert isinstance(made, Skip) and made.long
        else:
            assert isinstance(made, Document)
            assert len(made.sequences[0].tokens) == fitting[-1] == whole.places + 1 - made.lost
            assert made.sequences[0].targets == whole.sequences[0].targets[: len(fitting)]


def test_the_last_answer_that_is_cut_away_leaves_nothing(chatml):
    renderer, record = Renderer(CHATML, chatml, Learned(mask_history=True)), conversation(3)
    whole = document(renderer, record)
    assert isinstance(whole, Document)
    made = document(renderer, record, whole.places - 3)
    assert isinstance(made, Skip) and "have none to learn" in made.reason and made.long


@pytest.mark.parametrize(
    "name", ["vicuna", "alpaca", "belle", "cpm", "llama2", "xverse", "linly", "deepseek", "aquila"]
)
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_templates_of_text_with_sentencepiece(tmp_path, name, kind):
    pieces = sentence_pieces(
        tmp_path / "sp",
        model_type=kind,
        byte_fallback=True,
        vocab_size=320,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    tokenizer = load_tokenizer(pieces / "tokenizer.model")
    renderer = Renderer(name, tokenizer, Learned())
    for record in RECORDS:
        more = "###" if name == "aquila" else ""
        assert said(renderer, tokenizer, record) == [
            (answer.strip() if not more else answer + more).strip() for answer in answers(record)
        ]


@pytest.mark.parametrize("form", ["a piece of the vocabulary", "an added token that is not special"])
def test_a_token_of_a_template_is_not_given_by_text(tmp_path, form):
    """<reserved_106> of Baichuan, say: a template writes it, so that a text does not."""
    names = ["<reserved_102>", "<reserved_103>"]
    if form == "a piece of the vocabulary":
        options = {"byte_fallback": True, "vocab_size": 320, "model_type": "bpe", "user_defined_symbols": names}
        tokenizer = load_tokenizer(sentence_pieces(tmp_path / "t", **options) / "tokenizer.model")
    else:
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = tokenizers.decoders.ByteLevel()
        made.train_from_iterator(
            [], tokenizers.trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        )
        added = [AddedToken(text, special=text in ("<s>", "</s>")) for text in ("<s>", "</s>", *names)]
        tokenizer = load_tokenizer(save(made, tmp_path / "t", added))
    renderer = Renderer("baichuan", tokenizer, Learned())
    record = {"prompt": "a<reserved_103>b<reserved_102>" * 700, "completion": "<reserved_103> and"}
    tokens, ranges = tokens_and_ranges(renderer, record)
    ids = [tokenizer.id_of(name) for name in names]
    assert [tokens.count(id) for id in ids] == [1, 1]
    assert tokenizer.decode(ranges[0]) == "<reserved_103> and"
    assert "a<reserved_103>b<reserved_102>a<reserved_103>b" in tokenizer.decode(tokens)
    assert not {*ids} & set(ranges[0])


def hugging_face(tmp_path, jinja, pre_tokenizer, added=()):
    """A Unigram with such a pre-tokenizer and added tokens, ours and transformers'."""
    texts = [turn["value"] for record in RECORDS for turn in record["conversations"]]
    characters = sorted({char for text in [*texts, "user: assistant\n▁"] for char in text})
    pieces = [("<unk>", 0.0), *((char, -5.0) for char in characters), ("▁the", -2.0), ("▁What", -2.0), ("▁A", -3.0)]
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer = pre_tokenizer
    made.decoder = tokenizers.decoders.Metaspace()
    flags = {"<s>": {}, "</s>": {}, **dict(added)}
    special = [AddedToken(text, special=True, **flags) for text, flags in flags.items()]
    folder = save(made, tmp_path / "t", special, chat_template=jinja)
    tokenizer = load_tokenizer(folder)
    theirs = transformers_tokenizer(tokenizer)
    return tokenizer, lambda record: their_ids(theirs, record)


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_only_a_first_text_is_marked_where_the_vocabulary_has_it_so(tmp_path, scheme):
    pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer, ids = hugging_face(tmp_path, LLAMA2, pre_tokenizer)
    for template in ("tokenizer", "llama2"):
        renderer = Renderer(template, tokenizer, Learned())
        for record in RECORDS:
            assert tokens_and_ranges(renderer, record)[0] == ids(record)


def test_a_conversation_that_begins_with_text_is_marked_too(tmp_path):
    jinja = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    tokenizer, ids = hugging_face(tmp_path, jinja, pre_tokenizers.Metaspace(prepend_scheme="first"))
    for record in RECORDS:
        assert tokens_and_ranges(Renderer("tokenizer", tokenizer, Learned()), record)[0] == ids(record)


def test_tokens_that_take_white_space_along(tmp_path):
    names = ("<|user|>", "<|assistant|>", "<|end|>")
    added = {name: {"rstrip": True} for name in names}
    tokenizer, ids = hugging_face(tmp_path, PHI3, pre_tokenizers.Metaspace(prepend_scheme="always"), added)
    renderer = Renderer("tokenizer", tokenizer, Learned())
    for record in RECORDS:
        assert tokens_and_ranges(renderer, record)[0] == ids(record)
        assert said(renderer, tokenizer, record) == [answer.strip() for answer in answers(record)]
