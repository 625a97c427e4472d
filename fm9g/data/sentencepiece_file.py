"""The pieces of a sentencepiece model, changed in the file's own bytes (a protocol buffer).

The layout is that of sentencepiece_model.proto: field 1 of the model is a piece, many times; of a piece, field 1 is its
text and field 3 its type. (The wire format: https://protobuf.dev/programming-guides/encoding)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

CONTROL, USER_DEFINED = 3, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def with_pieces(model: bytes, changed: Mapping[int, tuple[str, int]]) -> bytes:
    """The model with other texts and types for some pieces, by id; `model` is one that sentencepiece has read."""
    parts, number, done = [], 0, 0
    for field, start, end, begin in _fields(model):
        if field != 1:
            continue
        if number in changed:
            text, kind = changed[number]
            kept = b"".join(model[start:end][b:e] for f, _, e, b in _fields(model[start:end]) if f not in (1, 3))
            encoded = text.encode()
            piece = b"\x0a" + _varint(len(encoded)) + encoded + kept + b"\x18" + _varint(kind)
            parts += [model[done:begin], b"\x0a", _varint(len(piece)), piece]
            done = end
        number += 1
    return b"".join([*parts, model[done:]])


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(number, where its value starts and ends, where its tag starts) of each field."""
    place = 0
    while place < len(message):
        begin = place
        tag, place = _read_varint(message, place)
        start = place
        if tag & 7 == _VARINT:
            place = _read_varint(message, place)[1]
        elif tag & 7 == _BYTES:
            length, start = _read_varint(message, place)
            place = start + length
        else:
            place += {_FIXED64: 8, _FIXED32: 4}[tag & 7]
        yield tag >> 3, start, place, begin


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return value, place
        shift += 7


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
