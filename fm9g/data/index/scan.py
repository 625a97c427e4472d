"""What an index needs to know about the lines of a block of jsonl.

`scan_block` is a pure function of its block, so that blocks can be scanned in any order or process. A block is first
looked at as a whole: simdjson or msgspec goes through its JSON without making objects of it. Where something is odd
its lines are judged one by one with the standard library, which takes a few records more (escaped lone surrogates) and
explains what is wrong with the others.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field

import google_crc32c
import msgspec
import numpy as np
import simdjson

from fm9g.data.index.scan_texts import TextScan, scan_texts
from fm9g.data.record import MAX_DEPTH, may_be_too_deep, parse_record

TOKENS_PER_UNIT = {"zh": 0.7, "en": 1.5, "code": 1.5}  # of a character; of a piece between spaces
SHORT_TOKENS = 4000  # so many, and more, make a line long


@dataclass(frozen=True)
class ScanRules:
    """What is looked at: the JSON of each line, its checksum; and how tokens are estimated."""

    language: str
    validate: bool = True
    checksums: bool = True
    max_line_bytes: int = 1 << 30


@dataclass(frozen=True)
class Rejected:
    """A line that is no record: its number and byte offset in the block (from 0), its bytes, and the reason."""

    line: int
    offset: int
    size: int
    reason: str


@dataclass
class BlockScan:
    """What a block holds. Arrays have an entry for each line kept; if all were, `kept` is None, else their bytes."""

    ends: np.ndarray  # int64, byte offset just after each line's newline, from the start of the kept bytes
    units: int  # of all lines: characters (zh) or pieces between spaces (en, code)
    long_units: np.ndarray  # of each of those lines that might have SHORT_TOKENS tokens or more
    checksums: np.ndarray | None  # uint32, CRC-32C of each line without its newline
    texts: TextScan  # of the lines kept
    lines: int  # of the block
    rejected: list[Rejected] = field(default_factory=list)
    blank: int = 0
    kept: bytes | None = None
    place: int | None = None  # the offset in the data where they were written

    @classmethod
    def of_nothing(cls, rejected: Rejected) -> BlockScan:
        """The scan of a single line that is rejected unread."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none, 0, none, none.astype(np.uint32), TextScan(), 1, [rejected], kept=b"")


class _Object(msgspec.Struct, gc=False):
    """Any JSON object; its fields are checked and passed over."""


_ARRAYS = simdjson.Parser()
_MOST_AT_ONCE = 8 << 20  # it takes several times as much memory, and keeps it
_VALUE_END = re.compile(rb"\}[ \t\r]*,").match
_DECODER = msgspec.json.Decoder(_Object)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BEFORE_VALUE = np.isin(np.arange(256), list(b":[,\n\r\t "))  # what stands before a bracket that is not in a string
_NEWLINE, _RETURN, _OPEN, _CLOSE, _SPACE, _BEGIN, _COMMA, _END = b"\n\r{} [,]"


def _crc_table() -> np.ndarray:
    """The table of CRC-32C by bytes, from what it makes of single ones."""
    singles = np.array([google_crc32c.value(bytes([0xFF ^ entry])) for entry in range(256)], dtype=np.uint32)
    return ~singles ^ np.uint32(0x00FFFFFF)


_CRC_TABLE = _crc_table()
_ENTRY_OF_TOP = np.argsort(_CRC_TABLE >> 24).astype(np.uint32)


def scan_block(block: bytes, rules: ScanRules) -> BlockScan:
    """Validate and measure the lines of a block, which ends in a newline."""
    characters = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(characters == _NEWLINE) + 1
    rejected: list[Rejected] = []
    count, blank = len(ends), 0
    if rules.validate and not _is_sound(block, characters, ends, rules.max_line_bytes):
        good, rejected, blank = _sort_out(block.split(b"\n")[:-1], rules.max_line_bytes)
        if len(good) < count:
            block = b"".join(line + b"\n" for line in good)
            characters = np.frombuffer(block, dtype=np.uint8)
            ends = np.flatnonzero(characters == _NEWLINE) + 1
    return BlockScan(
        ends,
        *_count_units(characters, ends, rules.language),
        _checksums(block, len(ends)) if rules.checksums else None,
        scan_texts(block, ends) if rules.validate else TextScan(),
        count,
        rejected,
        blank,
        block if len(ends) < count else None,
    )


def _is_sound(block: bytes, characters: np.ndarray, ends: np.ndarray, limit: int) -> bool:
    """Whether each line is surely a JSON object of at most `limit` bytes.

    Parsers of many objects take ones that go on in the next line or share one. But all lines begin with { and end
    with }, so it is enough to show that an object can end at the end of a line only, or go on in no next one: then as
    many objects as lines are one in each.
    """
    starts = np.concatenate([[0], ends[:-1]])
    if np.diff(ends, prepend=0).max() - 1 > limit or np.any(characters[starts] != _OPEN):
        return False
    last = characters[ends - 2]  # after a { there is one
    if np.any(last != _CLOSE) and np.any(np.where(last == _RETURN, characters[ends - 3], last) != _CLOSE):
        return False
    closes = characters == _CLOSE
    within = np.count_nonzero(closes) - len(ends)
    brackets = within + (np.count_nonzero(characters == _BEGIN) if b"[" in block else 0)
    if brackets >= MAX_DEPTH and _may_be_too_deep(block, characters, ends):
        return False
    try:
        if len(block) <= _MOST_AT_ONCE and _no_value_ends_within(block, closes, within, ends):
            return _count_elements(_as_array(characters, ends)) == len(ends)
        block.decode("utf-8")  # msgspec leaves that to its caller for what it passes over
        return len(_DECODER.decode_lines(block)) == len(ends)  # in an object, no { comes after a } and a newline
    except (ValueError, RuntimeError, msgspec.MsgspecError):  # RuntimeError: large numbers, deep nesting
        return False


def _may_be_too_deep(block: bytes, characters: np.ndarray, ends: np.ndarray) -> bool:
    """Whether a line may be nested deeper than records are: brackets within its strings do not count."""
    opening = np.flatnonzero((characters == _OPEN) | (characters == _BEGIN))
    before = characters[opening - 1]  # of the very first, what ends the last line
    before = np.where(before == _SPACE, characters[opening - 2], before)
    brackets = np.diff(np.searchsorted(opening[_BEFORE_VALUE[before]], ends), prepend=0)
    many = np.flatnonzero(brackets > MAX_DEPTH).tolist()
    lines = b"".join(block[ends[number - 1] if number else 0 : ends[number]] for number in many)
    try:
        records = _FIELDS.decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return True
    values = (memoryview(value) for record in records for value in record.values())
    return any(value[0] in (_OPEN, _BEGIN) and may_be_too_deep(bytes(value)) for value in values)


def _as_array(characters: np.ndarray, ends: np.ndarray) -> bytearray:
    """The values of lines as a JSON array."""
    text = bytearray(len(characters) + 1)
    array = np.frombuffer(text, dtype=np.uint8)
    array[0], array[1:], array[ends], array[-1] = _BEGIN, characters, _COMMA, _END
    return text


def _count_elements(text: bytearray) -> int:
    array = _ARRAYS.parse(text)
    assert isinstance(array, simdjson.Array)
    return len(array)


def _no_value_ends_within(block: bytes, closes: np.ndarray, count: int, ends: np.ndarray) -> bool:
    """Whether none of `count` } within lines has a comma after it, so that no object of an array can end there."""
    if count == 0:
        return True
    if count > len(ends):  # code perhaps: not worth the looking
        return False
    closes[ends - 2] = False
    within = np.flatnonzero(closes)
    return not any(_VALUE_END(block, place) for place in within.tolist())


def _sort_out(lines: list[bytes], limit: int) -> tuple[list[bytes], list[Rejected], int]:
    """The slow way, for a block in which something is odd: lines that are records, those that are not, blank ones."""
    good: list[bytes] = []
    rejected: list[Rejected] = []
    blank = offset = 0
    for number, line in enumerate(lines):
        try:
            if len(line) > limit:
                raise ValueError(f"longer than {limit:,} bytes (--max-line-bytes)")
            if line.strip():
                parse_record(line, allow_constants=False)
                good.append(line)
            else:
                blank += 1
        except ValueError as error:
            rejected.append(Rejected(number, offset, len(line), str(error)))
        offset += len(line) + 1
    return good, rejected, blank


def _checksums(block: bytes, count: int) -> np.ndarray:
    """CRC-32C of each line without its newline, uint32."""
    return _without_newline(np.fromiter(map(google_crc32c.value, io.BytesIO(block)), dtype=np.uint32, count=count))


def _without_newline(checksums: np.ndarray) -> np.ndarray:
    """The CRC-32C of lines from those of the lines with a newline at the end.

    To go through the lines with it is faster than to split them. A step of the CRC is r' = table[(r ^ byte) & 255] ^
    (r >> 8); as the upper 8 bits of r' are those of the table's entry alone, and differ from entry to entry, r follows
    from r' (the registers r are the complements of the checksums).
    """
    after = ~checksums
    entry = _ENTRY_OF_TOP[after >> 24]
    return ~((after ^ _CRC_TABLE[entry]) << 8 | (entry ^ _NEWLINE))


def _count_units(characters: np.ndarray, ends: np.ndarray, language: str) -> tuple[int, np.ndarray]:
    """Characters (zh), or pieces as of ``line.split(" ")`` (en, code): of all lines, and of each of the long ones.

    A line's newline counts as a character, and belongs to its last piece.
    """
    # UTF-8 continuation bytes are 0x80 .. 0xBF
    counted = characters.view(np.int8) >= -64 if language == "zh" else characters == _SPACE
    first = 0 if language == "zh" else 1  # pieces are one more than spaces
    sizes = np.diff(ends, prepend=0)
    long = np.flatnonzero(sizes * TOKENS_PER_UNIT[language] >= SHORT_TOKENS)  # a unit is a byte at least
    bounds = zip((ends[long] - sizes[long]).tolist(), ends[long].tolist(), strict=True)
    units = [np.count_nonzero(counted[start:end]) + first for start, end in bounds]
    return np.count_nonzero(counted) + first * len(ends), np.array(units, dtype=np.int64)
