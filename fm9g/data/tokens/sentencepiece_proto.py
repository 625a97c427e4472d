"""The parts of a sentencepiece `.model` file that decide token ids, read from its protobuf without protobuf.

Field numbers and defaults are those of sentencepiece_model.proto, which has not renumbered any.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm9g.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE, WORD, CHAR = range(1, 5)


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place in the list."""

    text: str
    score: float  # a float32
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """Pieces in the order of ids, and what is done to a text before they are looked for."""

    pieces: list[Piece]
    algorithm: int
    byte_fallback: bool
    whitespace_as_suffix: bool
    charsmap: bytes  # precompiled normalization rules, empty for identity
    dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    def texts(self, *kinds: int) -> list[str]:
        """The pieces of these kinds."""
        return [piece.text for piece in self.pieces if piece.kind in kinds]


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Parse a `.model` file; UserError where it is none."""
    try:
        model = _fields(path.read_bytes())
        trainer, normalizer = (_merged(model.get(number, [])) for number in (2, 3))
        return SentencePieceModel(
            pieces=[_piece(data) for data in model.get(1, [])],
            algorithm=_last(trainer, 3, UNIGRAM),
            byte_fallback=bool(_last(trainer, 35, 0)),
            whitespace_as_suffix=bool(_last(trainer, 24, 0)),
            charsmap=_last(normalizer, 2, b""),
            dummy_prefix=bool(_last(normalizer, 3, 1)),
            remove_extra_whitespaces=bool(_last(normalizer, 4, 1)),
            escape_whitespaces=bool(_last(normalizer, 5, 1)),
        )
    except (ValueError, IndexError, TypeError, struct.error) as error:
        raise UserError(f"{path}: not a sentencepiece model: {error}") from None


def for_normalized_text(data: bytes) -> bytes:
    """The `.model` file of the same pieces that takes text as it is, once a model of `data` has normalized it."""
    model = _fields(data)
    nothing_done = bytes([2 << 3 | 2, 0, *(byte for number in (3, 4, 5) for byte in (number << 3, 0))])
    parts = [(1, piece) for piece in model.get(1, [])] + [(2, b"".join(model.get(2, []))), (3, nothing_done)]
    return _written(parts)


def with_pieces(data: bytes, pieces: Sequence[Piece]) -> bytes:
    """The `.model` file `data` with `pieces` after its own.

    Texts that it tests itself with (field 4) are left out: they may be cut otherwise now.
    """
    kept = [(number, part) for number, part in _read(data) if number != 4 and isinstance(part, bytes)]
    size = sum(number == 1 for number, _ in kept) + len(pieces)
    new = [
        (
            1,
            _written([(1, piece.text.encode())])
            + struct.pack("<Bf", 2 << 3 | 5, piece.score)
            + bytes([3 << 3, piece.kind]),
        )
        for piece in pieces
    ]
    return _written([*kept, *new, (2, bytes([4 << 3]) + _size(size))])  # vocab_size, over what the trainer's part says


def _written(parts: Sequence[tuple[int, bytes]]) -> bytes:
    """A message of these fields, each with a length."""
    return b"".join(bytes([number << 3 | 2]) + _size(len(part)) + part for number, part in parts)


def _piece(data: bytes) -> Piece:
    fields = _fields(data)
    (score,) = struct.unpack("<f", _last(fields, 2, bytes(4)))
    return Piece(_last(fields, 1, b"").decode("utf-8"), score, _last(fields, 3, NORMAL))


def _merged(messages: list[Any]) -> dict[int, list[Any]]:
    """A message given twice is the two merged, and the same bytes in a row say just that."""
    return _fields(b"".join(messages))


def _last(fields: dict[int, list[Any]], number: int, default: Any) -> Any:
    return fields[number][-1] if number in fields else default


def _fields(data: bytes) -> dict[int, list[Any]]:
    """Field number -> its values: int for a varint, bytes for what has a length or a fixed size."""
    found: dict[int, list[Any]] = {}
    for number, value in _read(data):
        found.setdefault(number, []).append(value)
    return found


def _read(data: bytes) -> Iterator[tuple[int, Any]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, position = _varint(data, position)
        if size is None or position + size > len(data):
            raise ValueError(f"damaged at byte {position}")
        yield tag >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"damaged at byte {position}")


def _size(value: int) -> bytes:
    """A varint."""
    parts = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(part | 0x80 for part in parts[:-1]), parts[-1]])
