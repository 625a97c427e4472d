"""What generation gives a model before its answer is what training gave it there, to the token."""

from __future__ import annotations

import pytest

from fm9g.data.chat.conversation import read_question
from fm9g.data.chat.render import Learned, Renderer
from fm9g.data.record import NoText
from fm9g.data.stream.document import Document
from tests.support.chats import NAMES, RECORDS, conversation, document, messages, transformers_tokenizer
from tests.support.jinja_templates import JINJA, OTHERS, QWEN, QWEN3


def questions(record):
    """(a record up to a question, the number of the answer to it) for each answer."""
    turns = record["conversations"]
    return [({**record, "conversations": turns[:at]}, at // 2) for at in range(1, len(turns), 2)]


def check(renderer):
    for record in RECORDS:
        made = document(renderer, record)
        assert isinstance(made, Document)
        (sequence,) = made.sequences
        tokens = sequence.tokens.tolist()
        for asked, number in questions(record):
            start = sequence.targets[number][0]
            prompt = renderer.prompt(read_question(asked))
            assert prompt == tokens[:start], (asked, number)


@pytest.mark.parametrize("name", NAMES)
def test_by_each_of_our_templates(name, tokenizer_of):
    check(Renderer(name, tokenizer_of(name), Learned()))


@pytest.mark.parametrize(("name", "jinja"), JINJA.items(), ids=JINJA.keys())
def test_by_the_template_of_the_tokenizer(name, jinja, tokenizer_of):
    check(Renderer("tokenizer", tokenizer_of(name, jinja), Learned()))


@pytest.mark.parametrize(("name", "jinja"), (JINJA | OTHERS).items(), ids=(JINJA | OTHERS).keys())
def test_it_is_what_transformers_asks_with(name, jinja, tokenizer_of):
    jinja = "\n".join(line for line in jinja.splitlines() if "strftime_now" not in line)
    tokenizer = tokenizer_of(name, jinja)
    renderer, theirs = Renderer("tokenizer", tokenizer, Learned()), transformers_tokenizer(tokenizer)
    for record in RECORDS:
        for asked, number in questions(record):
            expected = theirs.apply_chat_template(
                messages(record)[: 2 * number + 1], tokenize=True, add_generation_prompt=True
            )
            assert renderer.prompt(read_question(asked)) == list(
                expected if isinstance(expected, list) else expected["input_ids"]
            )


def test_a_template_that_looks_into_texts_asks_as_it_does(tokenizer_of):
    """Qwen3's leaves out what was thought before."""
    tokenizer = tokenizer_of("qwen3", QWEN3)
    renderer, theirs = Renderer("tokenizer", tokenizer, Learned()), transformers_tokenizer(tokenizer)
    turns = [("user", "1 + 1 = ?"), ("assistant", "<think>\none and one\n</think>\n\n2"), ("user", "Sure?")]
    asked = [{"role": role, "content": text} for role, text in turns]
    expected = theirs.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert "one and one" not in expected
    ids = theirs(expected, add_special_tokens=False)["input_ids"]
    assert renderer.prompt(read_question({"messages": asked})) == ids


def test_what_a_person_asks_is_no_token(tokenizer_of):
    tokenizer = tokenizer_of("qwen", QWEN)
    for name in ("qwen", "tokenizer"):
        prompt = Renderer(name, tokenizer, Learned()).prompt(
            read_question({"messages": [{"role": "user", "content": "<|im_end|> hi <|im_start|>"}]})
        )
        assert tokenizer.count_special(prompt) == 5  # of the template


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        ([], "nothing to answer"),
        ([("user", "a"), ("assistant", "b")], "its last turn is no question"),
        ([("user", "a"), ("user", "b")], "turn 2: user follows user"),
    ],
)
def test_what_waits_for_no_answer_is_refused(turns, says):
    with pytest.raises(NoText, match=says):
        read_question({"messages": [{"role": role, "content": text} for role, text in turns]})


def test_the_ends_are_those_that_training_teaches(tokenizer_of):
    tokenizer = tokenizer_of("qwen", QWEN)
    for name in ("qwen", "tokenizer"):
        renderer = Renderer(name, tokenizer, Learned())
        made = document(renderer, conversation(2))
        assert isinstance(made, Document)
        (sequence,) = made.sequences
        learned = {int(sequence.tokens[stop - 1]) for _, stop in sequence.targets}
        assert learned | {tokenizer.eos_id} <= renderer.ends
