"""Searching all records of a dataset for a piece of text, at the speed of the disk where it is rare.

Only strings in records count, as they are once JSON's escapes are resolved; keys and punctuation do not. A line must be
parsed where its bytes alone do not tell: a character can be spelled ``\\uXXXX`` anywhere in JSON, and some must be.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fm9g.data.index.dataset import DATA, IndexedDataset
from fm9g.data.jsonl_files import read_blocks
from fm9g.data.record import parse_record, record_name
from fm9g.errors import UserError
from fm9g.progress_bar import ProgressCallback, no_progress

_SHORT_ESCAPES = re.compile(r'["\\/\x00-\x1f]')  # characters that JSON can or must spell with a backslash
_UNICODE_ESCAPE = b"\\u"
CONTEXT = 60


@dataclass(frozen=True)
class Hit:
    """A string of a record that holds the text. `before` and `after` are what stands around its first occurrence."""

    record: int  # from 0: line record + 1 of data.jsonl
    field: str  # "output", "messages[2].content"
    count: int  # occurrences in this string, not overlapping
    place: int  # of the first occurrence, in characters
    length: int  # of the string, in characters
    before: str
    after: str


def search(
    dataset: IndexedDataset, text: str, progress: ProgressCallback = no_progress, context: int = CONTEXT
) -> Iterator[Hit]:
    """Yield every string that holds `text` (exactly, upper and lower case differ), in the order of the data.

    Reads the file once, in memory for a block of lines. UserError where `text` is empty or no Unicode text.
    """
    if not text:
        raise UserError("the text to search for is empty")
    try:
        # the longest part that stands in a line as it is, if no \u does; where it is empty every line is parsed
        part = max(_SHORT_ESCAPES.split(text), key=len).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError("the text to search for is not valid UTF-8") from None
    done = line = 0
    for piece in read_blocks(dataset.path / DATA, sys.maxsize):
        block = piece.read()
        if part in block or _UNICODE_ESCAPE in block:
            for number, raw in enumerate(block.split(b"\n")[:-1], line):
                if part in raw or _UNICODE_ESCAPE in raw:
                    yield from _hits(dataset, number, raw, text, context)
        line += block.count(b"\n")
        done += len(block)
        progress(done, dataset.nbytes)


def _hits(dataset: IndexedDataset, number: int, raw: bytes, text: str, context: int) -> Iterator[Hit]:
    for field, value in _strings(_parse(dataset, number, raw)):
        place = value.find(text)
        if place >= 0:
            end = place + len(text)
            before, after = value[max(0, place - context) : place], value[end : end + context]
            yield Hit(number, field, value.count(text), place, len(value), before, after)


def _parse(dataset: IndexedDataset, number: int, raw: bytes) -> Any:
    try:
        return parse_record(raw)
    except ValueError as error:
        raise UserError(f"{dataset.path / DATA}, {record_name(number)}: {error}") from None


def _strings(record: Any) -> Iterator[tuple[str, str]]:
    """(field, text) of every string in a record, in its order, however deep."""
    waiting: list[tuple[str, Any]] = [("", record)]
    while waiting:
        field, value = waiting.pop()
        if isinstance(value, str):
            yield field, value
        elif isinstance(value, dict):
            waiting += [(f"{field}.{key}" if field else key, value[key]) for key in reversed(value)]
        elif isinstance(value, list):
            waiting += [(f"{field}[{i}]", value[i]) for i in reversed(range(len(value)))]
