"""What a record is: the one rule that indexing, checking, dry runs, training and all tools follow.

A record is a line of UTF-8 that holds one JSON object, nested at most MAX_DEPTH levels deep. Where no transform says
otherwise, its `input` and `output` are its texts. Both must be strings, as far as they are there, and `output` is what
is learned: without text there, nothing of the record is. Records count from 0: record i is line i + 1.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from fm9g.errors import UserError, closest, shown
from fm9g.files import load_json

MAX_DEPTH = 200  # Python's own readers and writers of JSON take a few hundred more, depending on who calls them

_JSON_NAMES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


class NoText(UserError):
    """A record that gives no text; the message says why, and leaves it to the caller to name the record."""


def record_name(number: int, lines: bool = True) -> str:
    """How messages name a record; `lines`: of a file that has one a line."""
    return f"record {number} (line {number + 1})" if lines else f"record {number} (the first is 0)"


def parse_record(raw: bytes, allow_constants: bool = True) -> dict[str, Any]:
    """Parse one line into a record; ValueError says in words why it is not one.

    `allow_constants` takes NaN and Infinity, which are not JSON but which Python writes.
    """
    if not raw.strip():
        raise ValueError("the line is blank")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8: {error.reason}, 0x{raw[error.start]:02x} at byte {error.start} of the line"
        ) from None
    try:
        value = load_json(text) if allow_constants else load_json(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {_JSON_NAMES[type(value)]}")
    if may_be_too_deep(raw) and _is_too_deep(value):
        raise ValueError(_TOO_DEEP)
    return value


def read_record(raw: bytes) -> dict[str, Any]:
    """parse_record, several times as fast for most lines."""
    try:
        record = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # that says why, or takes it
        return parse_record(raw)
    return record if isinstance(record, dict) and not may_be_too_deep(raw) else parse_record(raw)


_TOO_DEEP = f"not usable JSON: nested too deeply (more than {MAX_DEPTH} levels)"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def may_be_too_deep(raw: bytes) -> bool:
    """Whether JSON has brackets enough for about MAX_DEPTH levels."""
    return len(raw) >= 2 * MAX_DEPTH - 2 and raw.count(b"[") + raw.count(b"{") >= MAX_DEPTH


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for holder in level for inner in _values(holder)]
    return any(isinstance(holder, dict | list) for holder in level)


def _values(holder: Any) -> Iterator[Any]:
    yield from holder.values() if isinstance(holder, dict) else holder if isinstance(holder, list) else ()


def plain_text(data: dict[str, Any]) -> tuple[str, str]:
    """(input, output) of a record that holds them already; NoText where it does not, or has nothing to learn.

    Both are empty where the record is.
    """
    prompt, answer = checked_texts(data.get("input", ""), data.get("output", ""))
    if not has_text(data):
        raise NoText(f'no text to learn in "output" (its fields: {field_names(data)})')
    return prompt, answer


class _Texts(msgspec.Struct, gc=False):
    output: str
    input: str = ""


_decode_texts = msgspec.json.Decoder(_Texts).decode


def quick_text(raw: bytes) -> tuple[str, str] | None:
    """What plain_text finds in a line, in a third of the time; None where that should look at it."""
    try:
        texts = _decode_texts(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return (texts.input, texts.output) if texts.output else None


def has_text(data: dict[str, Any]) -> bool:
    """Whether `input` and `output` of a record are texts, the latter not empty; or both are empty."""
    prompt, answer = data.get("input", ""), data.get("output", "")
    if not isinstance(prompt, str) or not isinstance(answer, str):
        return False
    return bool(answer) or (not prompt and ("input" in data or "output" in data))


def field_names(fields: Collection[str]) -> str:
    """The names of a record's fields for a message, the first few."""
    names = [shown(name, 40) for name in list(fields)[:8]]
    return ", ".join(names + ["…"] * (len(fields) > 8)) or "none"


def checked_texts(prompt: Any, answer: Any) -> tuple[str, str]:
    """Both, if they are strings; else NoText."""
    for key, value in (("input", prompt), ("output", answer)):
        if not isinstance(value, str):
            raise NoText(f"{key} must be a string, not {shown(value)}")
    return prompt, answer


def text_of(record: dict[str, Any], field: str) -> str:
    """The text in a field that must be there; null is an empty one."""
    if field not in record:
        raise NoText(f"no field {field!r}{closest(field, record)}")
    value = record[field]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NoText(f"{field!r} is not a string but {shown(value)}")
    return value


def optional_text(record: dict[str, Any], field: str) -> str:
    """The text in a field, "" where there is none."""
    return text_of(record, field) if field in record else ""
