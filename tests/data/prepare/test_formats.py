"""What each format makes of a record: which texts, what is left out, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fm9g.data.prepare.formats import Alpaca, Format, ShareGPT, Text
from fm9g.data.prepare.writer import prepare_records
from fm9g.errors import UserError


def convert(form: Format, record: dict[str, Any]) -> tuple[list[tuple[str, str]], dict[str, int]]:
    left_out: Counter[str] = Counter()
    return list(form.pairs(record, left_out)), {reason: count for reason, count in left_out.items() if count}


def talk(*turns: str) -> list[dict[str, str]]:
    """Turns spelled 'h question', 'g answer', 's system'."""
    roles = {"h": "human", "g": "gpt", "s": "system"}
    return [{"from": roles[turn[0]], "value": turn[2:]} for turn in turns]


def test_text() -> None:
    assert convert(Text(), {"text": " 詩\n", "url": 3}) == ([("", " 詩\n")], {})
    assert convert(Text("content"), {"content": "a", "text": "b"}) == ([("", "a")], {})
    for empty in ("", " \n\u3000", None):
        assert convert(Text(), {"text": empty}) == ([], {"empty texts": 1})


def test_alpaca() -> None:
    record = {"instruction": "翻譯", "input": "你好\n", "output": " hello"}
    assert convert(Alpaca(), record) == ([("翻譯\n你好\n", " hello")], {})
    for nothing in ({"input": ""}, {"input": None}, {}):
        assert convert(Alpaca(), {"instruction": "q", "output": "a", **nothing}) == ([("q", "a")], {})
    assert convert(Alpaca(), {"instruction": "", "input": "q", "output": "a"}) == ([("q", "a")], {})
    assert convert(Alpaca("q", "c", "a"), {"q": "1", "c": "2", "a": "3", "input": "x"}) == ([("1\n2", "3")], {})
    assert convert(Alpaca(), {"instruction": " ", "output": "a"}) == ([], {"answers to an empty question": 1})
    assert convert(Alpaca(), {"instruction": "q", "output": ""}) == ([], {"empty answers": 1})


def test_alpaca_with_earlier_rounds() -> None:
    record = {"instruction": "q2", "output": "a2", "system": "S", "history": [["q1", "a1"]]}
    with pytest.raises(UserError, match="give --user-tag and --assistant-tag"):
        convert(Alpaca(), record)
    tagged = Alpaca(user_tag="<U>", assistant_tag="<A>", system_tag="<S>")
    assert convert(tagged, record)[0] == [("<S>S<U>q1<A>", "a1"), ("<S>S<U>q1<A>a1<U>q2<A>", "a2")]
    assert convert(tagged, {"instruction": "q", "output": "a"})[0] == [("<U>q<A>", "a")]
    assert convert(Alpaca(), {"instruction": "q", "output": "a", "system": None, "history": []})[0] == [("q", "a")]


def test_every_answer_of_a_conversation_is_a_target() -> None:
    pairs, left_out = convert(ShareGPT(), {"conversations": talk("h 1", "g 2", "h 3", "g 4")})
    assert pairs == [("<用户>1<AI>", "2"), ("<用户>1<AI>2<用户>3<AI>", "4")]
    assert left_out == {}


@pytest.mark.parametrize(
    ("turns", "pairs", "left_out"),
    [
        (["s 0", "h 1", "g 2"], [("[s]0[u]1[a]", "2")], {}),
        (["h 1", "h 2", "g 3", "g 4"], [("[u]1[u]2[a]", "3"), ("[u]1[u]2[a]3[a]", "4")], {}),
        (["h 1", "g 2", "h 3", "h 4"], [("[u]1[a]", "2")], {"turns at the end without an answer": 2}),
        (["g 1", "h 2", "g 3"], [("[a]1[u]2[a]", "3")], {"answers before any question": 1}),
        (["h 1", "g  ", "h 2", "g 3"], [("[u]1[a] [u]2[a]", "3")], {"empty answers": 1}),
        (["h  ", "g 1", "h 2", "g 3"], [("[u] [a]1[u]2[a]", "3")], {"answers to an empty question": 1}),
        (["h 1"], [], {"turns at the end without an answer": 1}),
        (["s 1"], [], {"empty conversations": 1}),
        ([], [], {"empty conversations": 1}),
    ],
)
def test_conversations_of_other_shapes(turns: list[str], pairs: list, left_out: dict) -> None:
    form = ShareGPT(system_tag="[s]", user_tag="[u]", assistant_tag="[a]")
    assert convert(form, {"conversations": talk(*turns)}) == (pairs, left_out)


def test_other_spellings_of_a_conversation() -> None:
    turns = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    assert convert(ShareGPT("messages"), {"messages": turns})[0] == [("S<用户>q<AI>", "a")]
    assert convert(ShareGPT(), {"conversations": talk("h q", "g a"), "system": "S"})[0] == [("S<用户>q<AI>", "a")]
    filled = [{"from": None, "value": None, **turn} for turn in turns[1:]]  # as rows of a table have it
    filled.append({"from": "human", "value": "r", "role": None, "content": None})
    filled.append({"from": "gpt", "value": "b", "role": None, "content": None})
    pairs = [("<用户>q<AI>", "a"), ("<用户>q<AI>a<用户>r<AI>", "b")]
    assert convert(ShareGPT("messages"), {"messages": filled})[0] == pairs
    assert convert(ShareGPT(), {"conversations": None, "system": None}) == ([], {"empty conversations": 1})


@pytest.mark.parametrize(
    ("form", "record", "message"),
    [
        (Text(), {"text": 3}, r"'text' is not a string but 3"),
        (Alpaca(), {"instruction": "q", "output": ["a"]}, r"'output' is not a string but \['a'\]"),
        (Alpaca(), {"instruction": "q", "output": "a", "input": {}}, r"'input' is not a string but \{\}"),
        (Alpaca(), {"instruction": "q", "output": "a", "history": "x"}, r"'history' is not a list but 'x'"),
        (Alpaca(), {"instruction": "q", "output": "a", "history": [["x"]]}, r"'history', round 1: not a question"),
        (ShareGPT(), {"conversations": "x"}, r"'conversations' is not a list but 'x'"),
        (ShareGPT(), {"conversations": ["x"]}, r"turn 1: not an object with 'from' and 'value' but 'x'"),
        (ShareGPT(), {"conversations": [{"from": "humn", "value": ""}]}, r"turn 1: unknown role 'humn' \(did you mean"),
        (
            ShareGPT(),
            {"conversations": [{"from": "tool", "value": ""}]},
            r"turn 1: observation: a tool's, which .* in the mixture reads",
        ),
        (ShareGPT(), {"conversations": [{"from": "gpt", "values": ""}]}, r"no field 'value' \(did you mean 'values'"),
        (
            ShareGPT(),
            {"conversations": [*talk("h q"), {"from": "gpt", "value": 1}]},
            r"turn 2: 'value' is not a string",
        ),
        (ShareGPT(), {"conversations": talk("h q", "s x")}, r"turn 2: a system text is not the first turn"),
        (ShareGPT(), {"conversations": talk("s x"), "system": "y"}, r"both a 'system' field and a system turn"),
    ],
)
def test_records_of_another_form(form: Format, record: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert(form, record)


def test_the_record_at_fault_is_named(tmp_path: Path) -> None:
    source, output = tmp_path / "a.json", tmp_path / "b.jsonl"
    good = {"instruction": "q", "output": "a"}
    source.write_text(json.dumps([good, {"Instruction": "q", "output": "a"}]))
    with pytest.raises(
        UserError, match=r"a.json, record 1 \(the first is 0\): no field 'instruction' \(did you mean 'Instruction'\?\)"
    ):
        prepare_records(source, output, Alpaca())
    source.write_text(json.dumps([good, {**good, "output": 1}]))
    with pytest.raises(UserError, match=r"a.json, record 1 \(the first is 0\): 'output' is not a string but 1"):
        prepare_records(source, output, Alpaca())
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_what_only_json_can_spell_survives(tmp_path: Path) -> None:
    source, output = tmp_path / "a.jsonl", tmp_path / "new" / "b.jsonl"
    source.write_text('{"text": "half \\ud83d 字"}\n{}\n')
    report = prepare_records(source, output, Text())
    assert str(report) == "1 records written from 2 read; left out: 1 empty records"
    assert json.loads(output.read_bytes()) == {"input": "", "output": "half \ud83d 字"}


def test_an_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    source, output = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    source.write_text('{"text": "x"}\n{"text": "y"}\n')

    class Slow(Text):
        def pairs(self, record, left_out):
            output.write_text("someone else's")
            return super().pairs(record, left_out)

    with pytest.raises(UserError, match="exists already"):
        prepare_records(source, output, Slow())
    assert output.read_text() == "someone else's"
    assert len(list(tmp_path.iterdir())) == 2
