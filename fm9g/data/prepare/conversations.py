"""Instructions with answers, as conversations of one question and its answer."""

from __future__ import annotations

import os
from typing import Any

from fm9g.data.prepare.writer import Report, rewrite
from fm9g.data.record import optional_text, text_of

Conversation = dict[str, Any]
QUESTIONS = {"alpaca": ("instruction", "output"), "qa": ("input", "output")}  # a question's field and its answer's


def with_ids(source: str | os.PathLike[str], output: str | os.PathLike[str], name: str) -> Report:
    """Write {"id", "conversations"} of instructions; a human turn is instruction + input, as they are.

    A record without an id is called after the dataset's `name` and its number, from 1.
    """

    def make(record: dict[str, Any], report: Report) -> list[Conversation]:
        id = record.get("id")
        asked = text_of(record, "instruction") + optional_text(record, "input")
        turns = _turns(asked, text_of(record, "output"), "assistant")
        return [{"id": f"{name}-{report.read}" if id in (None, "") else id, "conversations": turns}]

    return rewrite(source, output, ("instruction", "output"), ("id", "input"), make)


def without_ids(source: str | os.PathLike[str], output: str | os.PathLike[str], kind: str) -> Report:
    """Write {"conversations"} of records of a `kind` of QUESTIONS; an alpaca's input stands below a blank line."""
    question, answer = QUESTIONS[kind]

    def make(record: dict[str, Any], report: Report) -> list[Conversation]:
        texts = [text_of(record, question), *([optional_text(record, "input")] if kind == "alpaca" else [])]
        asked = "\n\n".join(text for number, text in enumerate(texts) if number == 0 or text.strip())
        return [{"conversations": _turns(asked, text_of(record, answer), "gpt")}]

    return rewrite(source, output, (question, answer), ("input",) if kind == "alpaca" else (), make)


def _turns(asked: str, answer: str, speaker: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": asked}, {"from": speaker, "value": answer}]
