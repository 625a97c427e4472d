"""Instructions with answers, as conversations of one question and its answer."""

from __future__ import annotations

import os
from typing import Any

from fm9g.data.chat.conversation import ASSISTANT, USER, read_history
from fm9g.data.prepare.writer import Report, rewrite
from fm9g.data.record import optional_text, text_of

Conversation = dict[str, Any]
QUESTIONS = {"alpaca": ("instruction", "output"), "qa": ("input", "output")}  # a question's field and its answer's


_BESIDE = ("system", "tools", "weight")  # fields of a record that stay what they are


def with_ids(source: str | os.PathLike[str], output: str | os.PathLike[str], name: str) -> Report:
    """Write {"id", "conversations"} of instructions; a human turn is instruction + input, as they are. Earlier rounds
    (`history`) come before it; a system text, tools and a weight are kept.

    A record without an id is called after the dataset's `name` and its number, from 1.
    """

    def make(record: dict[str, Any], report: Report) -> list[Conversation]:
        id = record.get("id")
        asked = text_of(record, "instruction") + optional_text(record, "input")
        turns = _turns(record, asked, text_of(record, "output"), "assistant")
        return [{"id": f"{name}-{report.read}" if id in (None, "") else id, "conversations": turns, **_beside(record)}]

    return rewrite(source, output, ("instruction", "output"), ("id", "input", "history", *_BESIDE), make)


def without_ids(source: str | os.PathLike[str], output: str | os.PathLike[str], kind: str) -> Report:
    """Write {"conversations"} of records of a `kind` of QUESTIONS, with the rest as `with_ids` does; an alpaca's input
    stands below a blank line."""
    question, answer = QUESTIONS[kind]

    def make(record: dict[str, Any], report: Report) -> list[Conversation]:
        texts = [text_of(record, question), *([optional_text(record, "input")] if kind == "alpaca" else [])]
        asked = "\n\n".join(text for number, text in enumerate(texts) if number == 0 or text.strip())
        return [{"conversations": _turns(record, asked, text_of(record, answer), "gpt"), **_beside(record)}]

    optional = ("history", *_BESIDE, *(("input",) if kind == "alpaca" else ()))
    return rewrite(source, output, (question, answer), optional, make)


def _turns(record: dict[str, Any], asked: str, answer: str, speaker: str) -> list[dict[str, str]]:
    said = {USER: "human", ASSISTANT: speaker}
    earlier = [{"from": said[turn.role], "value": turn.text} for turn in read_history(record.get("history"))]
    return [*earlier, {"from": "human", "value": asked}, {"from": speaker, "value": answer}]


def _beside(record: dict[str, Any]) -> dict[str, Any]:
    return {field: record[field] for field in _BESIDE if record.get(field) not in (None, "")}
