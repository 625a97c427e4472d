"""Formats of records: what each turns a record into. A new one is a function and a line of RECORD_FORMATS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fm9g.data.chat.render import Renderer, beginnings
from fm9g.data.example import Example, Part
from fm9g.data.record import plain_text, quick_text
from fm9g.data.tokens.tokenizer import Tokenizer


class Reading(NamedTuple):
    """What the records of a dataset are read with. `renderer`: of its template, where its format takes one."""

    tokenizer: Tokenizer
    renderer: Renderer | None = None


class RecordFormat(NamedTuple):
    """`example(number, record, reading)` is what a record gives; NoText where that is nothing.

    `quick(number, line, reading)` gives the same from a line of jsonl, or None where `example` should look at it.
    `template`: whether it renders records by a chat template.
    """

    example: Callable[[int, dict[str, Any], Reading], Example]
    quick: Callable[[int, bytes, Reading], Example | None] | None = None
    template: bool = False


def text_example(
    number: int, prompt: str, answer: str, tokenizer: Tokenizer, strings: tuple[str, ...] | None = None
) -> Example:
    """BOS + input + output + EOS, loss on output and EOS; without input it may be cut. `strings`: as of Example."""
    parts = (Part(answer, True),) if answer else ()
    if prompt:
        parts = (Part(prompt, False), *parts)
    if tokenizer.bos_id is not None:
        parts = (Part(tokenizer.bos_id, False), *parts)
    return Example(number, ((*parts, Part(tokenizer.eos_id, True)),), not prompt, strings)


def _text(number: int, record: dict[str, Any], reading: Reading) -> Example:
    return text_example(number, *plain_text(record), reading.tokenizer)


def _quick_text(number: int, line: bytes, reading: Reading) -> Example | None:
    texts = quick_text(line)
    return text_example(number, *texts, reading.tokenizer) if texts else None


def _chat(number: int, record: dict[str, Any], reading: Reading) -> Example:
    """A conversation as its template has it, loss on answers and their end tokens."""
    assert reading.renderer, "a format with a template is read with its renderer"
    parts = reading.renderer.parts(record)
    return Example(number, (parts,), beginnings=beginnings(parts), short=sum(part.short for part in parts))


TEXT = "text"
RECORD_FORMATS = {TEXT: RecordFormat(_text, _quick_text), "chat": RecordFormat(_chat, template=True)}
