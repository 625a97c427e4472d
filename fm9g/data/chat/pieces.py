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
    `ends`: it is the last of them; `short`: it is the first of one of which the template leaves out something."""

    content: str | int
    turn: int = NOBODY
    ends: bool = False
    short: bool = False


Strips = Mapping[int, tuple[bool, bool]]
"""{token: whether white space to its left, and to its right, is a part of it}."""


def make_parts(pieces: Iterable[Piece], weight: Callable[[int], float], strips: Strips) -> tuple[Part, ...]:
    """The parts of a document; `weight` says of a turn (or of NOBODY) what its pieces have, 0: not learned."""
    parts: list[Part] = []
    texts: list[Piece] = []
    strip_left = False
    for piece in pieces:
        if isinstance(piece.content, str):
            texts.append(piece)
            continue
        left, right = strips.get(piece.content, (False, False))
        parts += _text_part(texts, weight, strip_left, left)
        mine = weight(piece.turn)
        short = int(piece.short and mine > 0)
        parts.append(Part(piece.content, mine > 0, ends=piece.ends, weights=_told([mine]), short=short))
        texts, strip_left = [], right
    return (*parts, *_text_part(texts, weight, strip_left, False))


def _text_part(texts: list[Piece], weight: Callable[[int], float], left: bool, right: bool) -> list[Part]:
    """[the part of texts that follow each other], without white space at the ends where a token beside takes it; [] of
    no text."""
    whole = "".join(str(piece.content) for piece in texts)
    first = len(whole) - len(whole.lstrip()) if left else 0
    last = len(whole.rstrip()) if right else len(whole)
    if first >= last:
        return []
    spans: list[tuple[int, int]] = []
    weights: list[float] = []
    start = 0
    for piece in texts:
        stop = start + len(str(piece.content))
        mine, begin = weight(piece.turn), max(start, first) - first
        if mine and begin < min(stop, last) - first:
            if spans and spans[-1][1] == begin and weights[-1] == mine:
                begin = spans.pop()[0]
                weights.pop()
            spans.append((begin, min(stop, last) - first))
            weights.append(mine)
        start = stop
    ends = any(piece.ends for piece in texts)
    short = sum(piece.short and weight(piece.turn) > 0 for piece in texts)
    whole = whole[first:last]
    if spans == [(0, len(whole))]:
        return [Part(whole, True, ends=ends, weights=_told(weights), short=short)]
    return [Part(whole, False, tuple(spans), ends, _told(weights), short)]


def _told(weights: list[float]) -> tuple[float, ...]:
    """The weights of a part: () where nothing but 1 and 0 is among them, which its bounds tell."""
    return tuple(weights) if any(weight not in (0, 1) for weight in weights) else ()
