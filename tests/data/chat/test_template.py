"""The templates of chat_templates/: of each, what is learned is what the assistant says, with its end token."""

from __future__ import annotations

import json

import pytest

from fm9g.data.chat.render import Learned, Renderer
from fm9g.data.chat.template import read_template, template_path
from fm9g.data.record import NoText
from fm9g.errors import UserError
from tests.support.chats import NAMES, RECORDS, conversation, said_in, to_learn, tokens_and_ranges

ISSUED = """vicuna alpaca belle cpm chatml llama2 llama2-zh llama3 mistral zephyr qwen qwen3 baichuan baichuan2 chatglm2
chatglm3 internlm internlm2 xverse yi orion deepseek deepseek3 starchat phoenix aquila ziya linly cohere gemma phi3
minicpm fm9g"""


def test_every_template_that_users_know_is_there():
    assert sorted(ISSUED.split()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learned_is_every_answer_with_its_end(name, tokenizer_of):
    tokenizer = tokenizer_of(name)
    renderer = Renderer(name, tokenizer, Learned())
    for record in RECORDS:
        _, ranges = tokens_and_ranges(renderer, record)
        assert said_in(ranges, tokenizer) == to_learn(record, name, tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_asked_is_there_and_not_learned(name, tokenizer_of):
    tokenizer = tokenizer_of(name)
    renderer = Renderer(name, tokenizer, Learned())
    tokens, ranges = tokens_and_ranges(renderer, conversation(3))
    text = tokenizer.decode(tokens)
    at = 0
    for turn in conversation(3)["conversations"]:
        at = text.index(turn["value"].strip(), at) + len(turn["value"].strip())
    assert not any("again" in tokenizer.decode(ids) for ids in ranges)


def test_a_system_text_is_where_the_template_has_it(tokenizer_of):
    with_system = {name: read_template(template_path(name)).rows.keys() for name in NAMES}
    for name, rows in with_system.items():
        tokenizer = tokenizer_of(name)
        renderer, record = Renderer(name, tokenizer, Learned()), conversation(2, system="Be brief.")
        if not rows & {"system", "first_user_with_system"}:
            with pytest.raises(NoText, match=r"has a system text, for which the template .* has no place"):
                renderer.parts(record)
            continue
        text = tokenizer.decode(tokens_and_ranges(renderer, record)[0])
        assert text.count("Be brief.") == 1 and text.index("Be brief.") < text.index("What is a lane?")


def test_a_default_system_text_gives_way_to_a_given_one(tokenizer_of):
    tokenizer = tokenizer_of("vicuna")
    renderer = Renderer("vicuna", tokenizer, Learned())
    assert "curious" in tokenizer.decode(tokens_and_ranges(renderer, conversation(1))[0])
    assert "curious" not in tokenizer.decode(tokens_and_ranges(renderer, conversation(1, system="Be brief."))[0])


def test_rounds_are_numbered(tokenizer_of):
    tokenizer = tokenizer_of("chatglm2")
    text = tokenizer.decode(tokens_and_ranges(Renderer("chatglm2", tokenizer, Learned()), conversation(3))[0])
    assert [text.count(f"[Round {number}]") for number in (0, 1, 2, 3, 4)] == [0, 1, 1, 1, 0]


def test_an_unknown_template_is_refused_with_those_that_are_there(tokenizer_of):
    with pytest.raises(
        UserError, match=r"template 'vicunna': .*vicunna.json: no such file.*'vicuna'.*; there are alpaca"
    ):
        Renderer("vicunna", tokenizer_of("vicuna"), Learned())


def test_a_template_that_the_tokenizer_cannot_express_is_refused_by_its_token(place):
    from fm9g.data.tokens.tokenizer import load_tokenizer

    with pytest.raises(UserError, match=r"template llama3 .* has no token '<\|\w+\|>'"):
        Renderer("llama3", load_tokenizer(place.tokenizer), Learned())


def test_text_that_spells_a_special_token_of_this_tokenizer_is_refused(tokenizer_of):
    with pytest.raises(
        UserError, match=r"template zephyr .*: system has the text .*<\|system\|>.* is spelled: write it"
    ):
        Renderer("zephyr", tokenizer_of("phi3"), Learned())


SYSTEM = ["{system}", "{content}"]
USER, ASSISTANT = ["{content}"], ["{content}", {"token": "eos"}]
ROWS = {"user": USER, "assistant": ASSISTANT}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "expected an object"),
        ({"user": USER}, "assistant is missing"),
        ({"user": USER, "assistant": ASSISTANT, "sytem": ["x"]}, "unknown key 'sytem'.*'system'"),
        ({"user": ["Hi"], "assistant": ASSISTANT}, r"user: must have \{content\}"),
        ({"user": ["Q: {content}"], "assistant": ASSISTANT}, "user: a slot stands alone"),
        ({"user": "{content}", "assistant": ASSISTANT}, "user: expected a list"),
        ({"user": [1], "assistant": ASSISTANT}, "user: must be a text, a slot or"),
        ({"user": USER, "assistant": ASSISTANT, "prompt": ["{content}"]}, "prompt: must have no slot"),
        ({"user": USER, "assistant": ASSISTANT, "default_system": "x"}, "default_system has no row"),
        ({"user": USER, "assistant": ASSISTANT, "default_system": 1}, "default_system must be a text"),
        ({"user": USER, "assistant": ASSISTANT, "stop": "x"}, "stop must be a list"),
        (
            {**ROWS, "system": USER, "first_user_with_system": SYSTEM},
            "system and first_user_with_system are both there",
        ),
        (
            {**ROWS, "first_user": USER, "first_user_with_system": SYSTEM},
            "first_user and first_user_with_system are both",
        ),
        ({**ROWS, "tools": ["T: ", "{tools}"]}, "tools is there without system"),
        ({**ROWS, "observation": USER}, "observation is there without call"),
    ],
)
def test_a_wrong_template_is_refused_by_its_key(tmp_path, content, says):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"mine.json: {says}"):
        read_template(path)
