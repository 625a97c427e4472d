"""Damage to files: bytes that flip, vanish and repeat, and JSON whose values are not what one expects."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

ODD_TEXTS = [b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", "²".encode(), b"{", b"]", b'"', b"\n", b"\r\n"]
ODD_TEXTS += [b"null", b"NaN", b"-1", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\\ud800", b"~", b"../"]
ODD_NUMBERS = [2**k + d for k in (7, 8, 15, 16, 31, 32, 62, 63, 64) for d in (-1, 0)] + [0, 1]
ODD_VALUES: list[Any] = [None, True, False, 0, 1, -1, 1.5, -0.0, 1e300, float("nan"), float("inf"), 2**63, 10**400]
ODD_VALUES += [
    "",
    "²",
    "~",
    "../x",
    "a\0b",
    "\ud800",
    "x" * 10000,
    [],
    [[]],
    {},
    {"a": None},
    [None],
    ["a", 1],
    [2**70],
]


def damage_bytes(content: bytes, r: random.Random) -> bytes:
    """A few bytes of a file changed, removed, repeated or put in."""
    result = bytearray(content)
    for _ in range(r.choice([1, 1, 1, 2, 8])):
        place = r.randrange(len(result) + 1)
        end = min(len(result), place + r.choice([1, 2, 4, 8, 64, 1024]))
        kind = r.randrange(7)
        if kind == 0 and place < len(result):
            result[place] ^= 1 << r.randrange(8)
        elif kind == 1:
            del result[place:end]
        elif kind == 2:
            result[place:place] = result[place:end]
        elif kind == 3:
            result[place:place] = r.choice(ODD_TEXTS)
        elif kind == 4:
            result[place:end] = r.randbytes(end - place)
        elif kind == 5:
            number, size = r.choice(ODD_NUMBERS), r.choice([1, 2, 4, 8])
            result[place : place + size] = (number % (1 << 8 * size)).to_bytes(size, r.choice(["little", "big"]))
        else:
            del result[place:]
    return bytes(result)


def damage_json(content: bytes, r: random.Random) -> bytes:
    """A value in the JSON file replaced, removed, renamed or given twice."""
    value = copy.deepcopy(json.loads(content))
    for _ in range(r.choice([1, 1, 2])):
        places = list(_places(value))
        if not places or r.random() < 0.03:
            value = _odd_value(r)
            continue
        holder, key = r.choice(places)
        kind = r.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[r.choice(["", "²", "__class__", f"{key} ", "x" * 300])] = holder[key]
        elif kind == 2:
            other_holder, other_key = r.choice(places)
            holder[key] = copy.deepcopy(other_holder[other_key]) if holder is not other_holder else None
        else:
            holder[key] = _odd_value(r)
    return json.dumps(value, indent=r.choice([None, 1])).encode()


def _odd_value(r: random.Random) -> Any:
    return copy.deepcopy(r.choice(ODD_VALUES))  # it may be damaged in turn


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value inside."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        yield value, key
        yield from _places(inner)


def damage(content: bytes, r: random.Random, is_json: bool) -> bytes:
    """A damaged copy of a file; one that holds JSON is mostly damaged as JSON, so that it still can be parsed."""
    return damage_json(content, r) if is_json and r.random() < 0.75 else damage_bytes(content, r)
