"""A template of ours as Jinja: what others make of it is what training makes of the template."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest

from fm9g.data.chat.as_jinja import as_jinja
from fm9g.data.chat.render import Learned, Renderer
from fm9g.data.chat.template import read_template, template_path
from fm9g.data.record import NoText
from tests.support.chats import (
    NAMES,
    RECORDS,
    conversation,
    messages,
    their_ids,
    tokens_and_ranges,
    transformers_tokenizer,
)

CALLED: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": "月", "y": [1.5]}}}]},
        {"role": "tool", "content": "r"},
        {"role": "assistant", "content": "a"},
    ]
}
ASKED, CALLS, RESULT, SAID = CALLED["messages"]
CALL_AS_TEXT = {"function": {"name": "f", "arguments": '{"x": "月", "y": [1.5]}'}}
PARTS = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "a"}]
}
AS_TEXT = {"messages": [ASKED, {**CALLS, "tool_calls": [CALL_AS_TEXT]}, RESULT, SAID]}
CALL_OF_SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name":"f","arguments":{"x":"\\u6708","y":[1.50]}}'},
        {"from": "observation", "value": "r"},
        {"from": "gpt", "value": "a"},
    ]
}
COMPACT = {"function": {"name": "f", "arguments": '{"x":"月","y":[1.5]}'}}
TWICE = {"messages": [ASKED, {**CALLS, "tool_calls": [CALL_AS_TEXT] * 2}, RESULT, SAID]}
TWO_RESULTS = {"messages": [ASKED, CALLS, RESULT, RESULT, SAID]}
TOOLS = [{"name": "f", "parameters": {"x": "月"}}, {"name": "g"}]


@pytest.fixture
def both(tokenizer_of):
    """A renderer by our template, and transformers' tokenizer with its Jinja."""

    def opened(name):
        tokenizer = tokenizer_of(name, as_jinja(read_template(template_path(name))))
        return Renderer(name, tokenizer, Learned()), transformers_tokenizer(tokenizer)

    return opened


@pytest.mark.parametrize("name", NAMES)
def test_the_ids_are_those_of_transformers(name, both):
    ours, theirs = both(name)
    for record in RECORDS[::3]:
        assert tokens_and_ranges(ours, record)[0] == their_ids(theirs, record)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_what_comes_before_an_answer(name, both):
    ours, theirs = both(name)
    tokens, ranges = tokens_and_ranges(ours, conversation(2))
    prompt = theirs.apply_chat_template(messages(conversation(2))[:-1], tokenize=True, add_generation_prompt=True)
    prompt = prompt if isinstance(prompt, list) else prompt["input_ids"]
    start = len(tokens) - 1 - tokens[::-1].index(ranges[-1][-1]) - len(ranges[-1]) + 1
    assert prompt == tokens[:start]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "record",
    [conversation(2, system="Be brief."), CALLED, {**CALLED, "tools": TOOLS}, PARTS, AS_TEXT, TWICE, TWO_RESULTS],
)
def test_what_one_has_no_place_for_the_other_has_none_for_either(name, record, both):
    ours, theirs = both(name)
    given = (
        messages(record)
        if "conversations" in record
        else [{**message, "content": message.get("content", "")} for message in record["messages"]]
    )
    try:
        ids = theirs.apply_chat_template(given, tools=record.get("tools"), tokenize=True)
    except jinja2.TemplateError as error:
        assert "the template has no place for" in str(error)  # noqa: PT017
        with pytest.raises(NoText, match="has no place"):
            ours.parts(record)
        return
    assert tokens_and_ranges(ours, record)[0] == (ids if isinstance(ids, list) else ids["input_ids"])


@pytest.mark.parametrize("name", ["qwen", "qwen3"])
def test_a_call_is_trained_as_it_is_served(name, both):
    """However it is spelled in the data: who serves gets an object."""
    ours, theirs = both(name)
    served = theirs.apply_chat_template(
        [{**message, "content": message.get("content", "")} for message in CALLED["messages"]], tokenize=True
    )
    compact = {"messages": [ASKED, {**CALLS, "tool_calls": [COMPACT]}, RESULT, SAID]}
    for record in (CALLED, AS_TEXT, compact, CALL_OF_SHAREGPT):
        assert tokens_and_ranges(ours, record)[0] == (served if isinstance(served, list) else served["input_ids"])
