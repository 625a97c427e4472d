"""Conversations of all forms that datasets have them in."""

from __future__ import annotations

import json

import pytest

from fm9g.data.chat.conversation import Conversation, Turn, read_conversation
from fm9g.data.record import NoText

ROUND = (Turn("user", "q"), Turn("assistant", "a"))
SAME = [
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}], "id": 7},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "tools": "[]"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "a"}]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "conversations": None},
    {"messages": [{"from": None, "role": "user", "content": "q"}, {"role": "assistant", "content": "a", "from": None}]},
    {"instruction": "q", "input": "", "output": "a", "history": []},
    {"instruction": "q", "output": "a", "system": None, "history": None},
    {"prompt": "q", "completion": "a"},
    {"prompt": "q", "response": "a"},
    {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
    {"question": "q", "answer": "a"},
    {"query": "q", "response": "a"},
    {"Question": "q", "Response": "a"},
    {"input": "q", "output": "a"},
]


@pytest.mark.parametrize("record", SAME, ids=lambda record: ",".join(record))
def test_one_round_in_every_form(record):
    assert read_conversation(record) == Conversation(ROUND)


def test_an_instruction_has_its_input_below_it():
    read = read_conversation({"instruction": "Add.", "input": "1 1", "output": "2"})
    assert read.turns[0].text == "Add.\n1 1"


def test_history_and_system_of_an_instruction():
    record = {"instruction": "q", "input": "", "output": "a", "history": [["q0", "a0"]], "system": "s"}
    assert read_conversation(record) == Conversation((Turn("user", "q0"), Turn("assistant", "a0"), *ROUND), "s")


@pytest.mark.parametrize("record", [{"system": "s"}, {"system": "  "}, {}])
def test_a_system_text_is_a_field_or_the_first_turn(record):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    system = record.get("system", "").strip()
    assert read_conversation({"conversations": turns, **record}).system == system
    first = [{"from": "system", "value": "s"}, *turns]
    if system:
        with pytest.raises(NoText, match="both a 'system' field and a system turn"):
            read_conversation({"conversations": first, **record})
    else:
        assert read_conversation({"conversations": first, **record}).system == "s"


def test_questions_at_the_end_are_left_out():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "thanks"}]
    assert read_conversation({"conversations": turns}).turns == ROUND


def test_turns_that_are_not_to_be_learned():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "loss": False}]
    turns += [{"from": "human", "value": "q", "weight": 0}, {"from": "gpt", "value": "a", "weight": 0}]
    turns += [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "loss": True, "weight": 1}]
    read = read_conversation({"conversations": turns})
    assert [turn.weight for turn in read.turns if turn.answers] == [0, 0, 1]


def test_weights_of_turns_and_of_a_record():
    turns = [Q, {**A, "weight": 0.25}, Q, {**A, "weight": 3, "loss": True}, Q, {**A, "weight": 3, "loss": False}, Q, A]
    read = read_conversation({"conversations": turns, "weight": 1.5, "loss": 2.3})
    assert [turn.weight for turn in read.turns if turn.answers] == [0.25, 3, 0, 1]
    assert read.weight == 1.5
    assert read_conversation({"conversations": [Q, A], "weight": None}).weight == 1


def test_a_call_its_result_and_tools():
    turns = [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}]
    turns += [{"from": "observation", "value": ""}, {"from": "gpt", "value": "a"}]
    read = read_conversation({"conversations": turns, "tools": '[{"name": "f"}]'})
    assert [turn.role for turn in read.turns] == ["user", "call", "observation", "assistant"]
    assert read.tools == '[{"name": "f"}]'
    function = {"name": "f", "arguments": "{}"}
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"function": function}]}]
    messages += [{"role": "tool", "content": ""}, {"role": "assistant", "content": "a"}]
    assert read_conversation({"messages": messages, "tools": [{"name": "f"}]}) == read
    messages[1] = {"role": "assistant", "content": "wait", "tool_calls": [{"function": function}] * 2}
    call = read_conversation({"messages": messages}).turns[1]
    assert (call.said, json.loads(call.text)) == ("wait", [{"name": "f", "arguments": {}}] * 2)


def test_thoughts_stand_before_what_is_said():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "hm"}]
    assert read_conversation({"messages": messages}).turns[1].text == "<think>\nhm\n</think>\n\na"


Q, A = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"title": "x"}, "is no conversation (its fields: 'title')"),
        ({"conversations": []}, "is a conversation without an answer"),
        ({"conversations": [Q]}, "is a conversation without an answer"),
        ({"conversations": [Q, Q, A]}, "turn 2: user follows user; assistant or call should"),
        ({"conversations": [A, Q, A]}, "turn 1: assistant comes first; user should"),
        ({"conversations": [Q, A, A]}, "turn 3: assistant follows assistant; user should"),
        ({"conversations": [Q, {"from": "gpt", "value": " "}]}, "turn 2: the answer is empty"),
        ({"conversations": [{"from": "human", "value": None}, A]}, "turn 1: the question is empty"),
        ({"conversations": [Q, A, {"from": "system", "value": "s"}]}, "turn 3: a system text is not the first turn"),
        ({"conversations": [Q, {"from": "gtp", "value": "a"}]}, "turn 2: unknown role 'gtp'"),
        ({"conversations": [Q, {"from": "gpt", "value": 1}]}, "turn 2: 'value' is not a string but 1"),
        ({"conversations": [Q, {"from": "gpt"}]}, "turn 2: no field 'value'"),
        ({"conversations": [Q, "a"]}, "turn 2: not an object with 'from' and 'value' but 'a'"),
        ({"conversations": "x"}, "'conversations' is not a list but 'x'"),
        ({"conversations": [Q, {**A, "weight": -1}]}, "turn 2: weight must be a number from 0 to 1,000, not -1"),
        ({"conversations": [Q, {**A, "weight": "1"}]}, "turn 2: weight must be a number from 0 to 1,000, not '1'"),
        ({"conversations": [Q, A], "weight": float("nan")}, "weight must be a number from 0 to 1,000, not nan"),
        ({"conversations": [Q, A], "weight": 1001}, "weight must be a number from 0 to 1,000, not 1001"),
        ({"conversations": [Q, {**A, "loss": "no"}]}, "turn 2: loss must be true or false, not 'no'"),
        ({"conversations": [Q, A], "tools": 1}, "'tools' is neither a list nor a text but 1"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "'history', round 1: not a question and an answer"),
        ({"instruction": "q", "output": "a", "history": "x"}, "'history' is not a list"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "turn 1: content has a part that is no text",
        ),
        ({"messages": [{"role": "user", "content": "q", "tool_calls": [1]}]}, "turn 1: tool_calls of a user turn"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [1]}]},
            "turn 1: tool_calls: not a call of a function but 1",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "turn 1: tool_calls: the arguments of 'f' are not JSON",
        ),
    ],
)
def test_what_is_no_conversation_says_why(record, says):
    with pytest.raises(NoText) as error:
        read_conversation(record)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "text", ["f(x=1)", '{"name": "f"}', '{"name":"f","arguments":"x"}', '{"name":"f","parameters":{}}', "[1]"]
)
def test_a_call_of_another_form_stays_as_it_is(text):
    turns = [{"from": "human", "value": "q"}, {"from": "function_call", "value": text}]
    assert read_conversation({"conversations": turns}).turns[1].text == text


@pytest.mark.parametrize("depth", [3000, 200_000])
def test_what_is_nested_too_deeply_is_no_conversation(depth):
    deep = "[" * depth + "]" * depth
    call = {"function": {"name": "\ud800", "arguments": deep}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(NoText, match=r"tool_calls: the arguments of '\\ud800' are not JSON"):
        read_conversation({"messages": turns})
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    answered = [turns[0], {"role": "assistant", "content": "a"}]
    with pytest.raises(NoText, match="'tools': nested too deeply"):
        read_conversation({"messages": answered, "tools": [value]})


def test_a_weight_is_a_number():
    with pytest.raises(NoText, match="weight must be a number from 0"):
        read_conversation({"prompt": "q", "response": "a", "weight": True})


def test_of_two_spellings_that_which_is_filled_is_taken():
    record = {"prompt": "q", "completion": None, "response": "r"}
    assert [turn.text for turn in read_conversation(record).turns] == ["q", "r"]
