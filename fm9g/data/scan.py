"""Blocks of whole jsonl lines, and what an index needs to know about the lines of one.

`scan_block` is a pure function of its block, so that blocks can be scanned in any order or process. It parses with
orjson, several times faster than the standard library. What orjson refuses is judged again by the standard
library, which takes a few records more (escaped lone surrogates) and explains what is wrong with the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import orjson

BLOCK_BYTES = 1 << 20  # small enough that a block's records stay in the cache
TOKENS_PER_UNIT = {"zh": 0.7, "en": 1.5, "code": 1.5}  # of a character; of a piece between spaces


class BadLine(Exception):
    """A line that is no record: its index in the block, its byte offset in the block, and the reason."""

    def __init__(self, line: int, offset: int, reason: str):
        super().__init__(line, offset, reason)  # all of args, so that the exception pickles
        self.line, self.offset, self.reason = line, offset, reason


@dataclass
class BlockScan:
    """What the lines of one block look like; arrays have one entry a line."""

    ends: np.ndarray  # int64, byte offset just after each line's newline, from the block's start
    tokens: np.ndarray  # float64, estimated tokens
    without_text: list[int]  # lines whose record has no text in `input` nor `output`


def read_blocks(stream: BinaryIO, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the stream as blocks of whole lines, of about `size` bytes; a missing final newline is added."""
    parts: list[bytes] = []
    while chunk := stream.read(size):
        cut = chunk.rfind(b"\n") + 1
        if cut:
            parts.append(chunk[:cut])
            yield b"".join(parts)
            parts = []
        if cut < len(chunk):
            parts.append(chunk[cut:])
    if parts:
        yield b"".join(parts) + b"\n"


def parse_record(raw: bytes, allow_constants: bool = True) -> dict[str, Any]:
    """Parse one line into a record; ValueError says in words why it is not one.

    `allow_constants` takes NaN and Infinity, which are not JSON but which Python writes.
    """
    if not raw.strip():
        raise ValueError("the line is blank (remove blank lines with: sed '/^[[:space:]]*$/d')")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8: {error.reason}, 0x{raw[error.start]:02x} at byte {error.start} of the line"
        ) from None
    try:
        value = json.loads(text) if allow_constants else json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise ValueError("not usable JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {_JSON_NAMES[type(value)]}")
    return value


_JSON_NAMES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"not valid JSON: {name} is not a JSON number")


def scan_block(block: bytes, language: str) -> BlockScan:
    """Validate and measure the lines of a block (which ends in a newline); BadLine is the first line that is wrong."""
    lines = block.split(b"\n")
    lines.pop()  # what follows the last newline: nothing
    records = _parse_lines(lines)
    characters = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(characters == 0x0A) + 1
    return BlockScan(ends, _count_units(characters, ends, language) * TOKENS_PER_UNIT[language], _without_text(records))


def _parse_lines(lines: list[bytes]) -> list[dict[str, Any]]:
    try:
        records = list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        return _parse_line_by_line(lines)
    if set(map(type, records)) - {dict}:
        return _parse_line_by_line(lines)
    return records


def _parse_line_by_line(lines: list[bytes]) -> list[dict[str, Any]]:
    """The slow way, for a block in which something is odd: find out which line, and whether it is wrong."""
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            records.append(parse_record(line, allow_constants=False))
        except ValueError as error:
            offset = sum(map(len, lines[:number])) + number  # each line before has a newline too
            raise BadLine(number, offset, str(error)) from None
    return records


def _without_text(records: list[dict[str, Any]]) -> list[int]:
    return [
        number
        for number, record in enumerate(records)
        if not (
            (type(text := record.get("output")) is str and text)  # written out: this runs once for every record
            or (type(text := record.get("input")) is str and text)
        )
    ]


def _count_units(characters: np.ndarray, ends: np.ndarray, language: str) -> np.ndarray:
    """Characters (zh), or pieces as of ``line.split(" ")`` (en, code), of each line with its newline."""
    if language == "zh":
        starts = np.concatenate([[0], ends[:-1]])
        is_first_byte = characters.view(np.int8) >= -64  # UTF-8 continuation bytes are 0x80 .. 0xBF
        counter = np.int32 if len(characters) < 2**31 else np.int64  # int32 is four times faster
        return np.add.reduceat(is_first_byte, starts, dtype=counter)
    spaces = np.flatnonzero(characters == 0x20)
    return np.diff(np.searchsorted(spaces, ends), prepend=0) + 1
