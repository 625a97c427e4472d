"""What a template makes of a conversation: texts and tokens in order, and which of them are an answer's.

Pieces become the parts of a document here: texts that follow each other are one, since a tokenizer is to see them
together, as it does where the whole is rendered to a text first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from fm9g.data.example import Part

NOBODY = -1


class Piece(NamedTuple):
    """A text or the id of a token. `turn`: of which turn's answer it is a part, from its first token to its end token;
    `ends`: it is the last of them."""

    content: str | int
    turn: int = NOBODY
    ends: bool = False


Strips = Mapping[int, tuple[bool, bool]]
"""{token: whether white space to its left, and to its right, is a part of it}."""


def make_parts(pieces: Iterable[Piece], learned: Callable[[int], bool], strips: Strips) -> tuple[Part, ...]:
    """The parts of a document; `learned` says of a turn (or of NOBODY) whether its pieces are."""
    parts: list[Part] = []
    texts: list[Piece] = []
    strip_left = False
    for piece in pieces:
        if isinstance(piece.content, str):
            texts.append(piece)
            continue
        left, right = strips.get(piece.content, (False, False))
        parts += _text_part(texts, learned, strip_left, left)
        parts.append(Part(piece.content, learned(piece.turn), ends=piece.ends))
        texts, strip_left = [], right
    return (*parts, *_text_part(texts, learned, strip_left, False))


def _text_part(texts: list[Piece], learned: Callable[[int], bool], left: bool, right: bool) -> list[Part]:
    """[the part of texts that follow each other], without white space at the ends where a token beside takes it; [] of
    no text."""
    whole = "".join(str(piece.content) for piece in texts)
    first = len(whole) - len(whole.lstrip()) if left else 0
    last = len(whole.rstrip()) if right else len(whole)
    if first >= last:
        return []
    spans: list[tuple[int, int]] = []
    start = 0
    for piece in texts:
        stop = start + len(str(piece.content))
        if learned(piece.turn) and max(start, first) < min(stop, last):
            begin = spans.pop()[0] if spans and spans[-1][1] == max(start, first) - first else max(start, first) - first
            spans.append((begin, min(stop, last) - first))
        start = stop
    ends = any(piece.ends for piece in texts)
    whole = whole[first:last]
    if spans == [(0, len(whole))]:
        return [Part(whole, True, ends=ends)]
    return [Part(whole, False, tuple(spans), ends)]
