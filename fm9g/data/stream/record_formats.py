"""Formats of records: what each turns a record into. A new one is a function and a line of RECORD_FORMATS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fm9g.data.record import plain_text, quick_text
from fm9g.data.stream.document import Example, Part
from fm9g.data.tokens.tokenizer import Tokenizer


class RecordFormat(NamedTuple):
    """`example(number, record, tokenizer)` is what a record gives; NoText where that is nothing.

    `quick(number, line, tokenizer)` gives the same from a line of jsonl, or None where `example` should look at it.
    """

    example: Callable[[int, dict[str, Any], Tokenizer], Example]
    quick: Callable[[int, bytes, Tokenizer], Example | None] | None = None


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


def _text(number: int, record: dict[str, Any], tokenizer: Tokenizer) -> Example:
    return text_example(number, *plain_text(record), tokenizer)


def _quick_text(number: int, line: bytes, tokenizer: Tokenizer) -> Example | None:
    texts = quick_text(line)
    return text_example(number, *texts, tokenizer) if texts else None


TEXT = "text"
RECORD_FORMATS = {TEXT: RecordFormat(_text, _quick_text)}
