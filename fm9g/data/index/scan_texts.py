"""Which records of a block give text to learn, told without making objects of most of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from fm9g.data.record import field_names, has_text, read_record
from fm9g.data.record_kinds import unread_kind

_TEXT_ONLY = b'{"input": "", "output": "'
_SEEN = np.dtype("V32")  # that, and some of the text
_WORDS = np.frombuffer(_TEXT_ONLY, "<u8", count=3).tolist()
_NEWLINE, _QUOTE = b'\n"'
MOST_FIELD_SETS = 8  # that are named of records without text
_LOOKED_AT = 4  # records of a block, for texts in other fields: those of a dataset are mostly alike


@dataclass
class TextScan:
    """What was found in the records of a block."""

    without: list[int] = field(default_factory=list)  # lines of records that have nothing to learn and are not empty
    empty: int = 0  # records whose `input` and `output`, as far as they are there, are empty strings
    fields: Counter[str] = field(default_factory=Counter)  # those that records without text have
    unread: Counter[str] = field(default_factory=Counter)  # advice on texts in other fields, of a few records


class _Texts(msgspec.Struct, gc=False):
    """The fields of a record that are its texts, as JSON."""

    output: msgspec.Raw = msgspec.Raw(b'""')
    input: msgspec.Raw = msgspec.Raw(b'""')


_DECODER = msgspec.json.Decoder(_Texts)


def scan_texts(block: bytes, ends: np.ndarray) -> TextScan:
    """Look at the records of a block of whole lines, which end before `ends` [n] and are known to be records."""
    found = TextScan()
    fields: Counter[tuple[str, ...]] = Counter()
    for number in _candidates(block, ends):
        record = read_record(_line(block, ends, number))
        if has_text(record):
            found.empty += not record.get("output")
        else:
            found.without.append(number)
            fields[tuple(record)] += 1
    for names, count in fields.most_common(MOST_FIELD_SETS):
        found.fields[field_names(names)] += count
    for number in range(0, len(ends), max(1, -(-len(ends) // _LOOKED_AT))):
        if kind := unread_kind(read_record(_line(block, ends, number))):
            found.unread[kind.advice] += 1
    return found


def _line(block: bytes, ends: np.ndarray, number: int) -> bytes:
    return block[ends[number - 1] if number else 0 : ends[number]]


def _lines(block: bytes, ends: np.ndarray, which: np.ndarray) -> bytes:
    """The lines of a block for which the booleans `which` [n] are true."""
    return block if np.all(which) else b"".join(_line(block, ends, n) for n in np.flatnonzero(which).tolist())


def _repeats_a_key(text: bytes, lines: int) -> bool:
    """Whether one of so many lines, each with one `input` and one `output`, may have another: the last counts."""
    return any(text.count(key) > lines for key in (b'"input"', b'"output"'))


def _candidates(block: bytes, ends: np.ndarray) -> list[int]:
    """The lines whose records may have nothing to learn, or texts that are no strings."""
    plain = _is_plain_text(block, ends)
    if np.any(plain) and _repeats_a_key(_lines(block, ends, plain), np.count_nonzero(plain)):
        plain[:] = False
    others = np.flatnonzero(~plain)
    if not len(others):
        return []
    text = _lines(block, ends, ~plain)
    try:
        records = _DECODER.decode_lines(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # half a surrogate pair, say
        return others.tolist()
    learned, prompts = _lengths([record.output for record in records]), _lengths([record.input for record in records])
    return others[(learned < 1) | (prompts < 0)].tolist()


def _lengths(values: Sequence[msgspec.Raw]) -> np.ndarray:
    """How many bytes each value has between its quotes, or -1 if it is no string; [n] int64."""
    joined = np.frombuffer(b"\n".join([*values, b""]), dtype=np.uint8)
    ends = np.flatnonzero(joined == _NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1])
    return np.where(joined[starts] == _QUOTE, ends - starts - 2, -1)


def _is_plain_text(block: bytes, ends: np.ndarray) -> np.ndarray:
    """Which lines are as convert_txt2jsonl.py writes them, not empty: the usual case, told fast."""
    starts = np.concatenate([[0], ends[:-1]])
    last = len(block) - _SEEN.itemsize  # from which so many bytes can be seen
    if last < 0:
        return np.zeros(len(ends), dtype=bool)
    # what each line begins with, at once: to gather its words one by one is slower
    words = np.ndarray(last + 1, _SEEN, block, strides=(1,))[np.minimum(starts, last)].view("<u8").reshape(-1, 4)
    found = starts <= last
    for place, word in enumerate(_WORDS):
        found &= words[:, place] == word
    return found & (words[:, 3] & 0xFF == _QUOTE) & (words[:, 3] >> 8 & 0xFF != _QUOTE)
