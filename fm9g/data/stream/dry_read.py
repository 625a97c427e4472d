"""How full a mixture's rows are, and how many steps it takes to read so much of it, found out by packing rows.

Documents that must not be cut leave room at the end of a row, and a lane whose data ends leaves more. How much that is
depends on all of them, so the first rows are packed as a run packs them; what comes after is taken to be like them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.lane import Lane
from fm9g.data.stream.loader import LANES_PER_ROW, Plan
from fm9g.data.stream.prefetch import Prefetcher

MOST_PLACES = 1 << 19  # of the rows that are packed to count steps
_PLACES_FOR_FILL = 1 << 17


class _Read(NamedTuple):
    """What rows hold that have been packed: places that are filled, of so many; whether nothing is left to read."""

    filled: int
    places: int
    ended: bool


def steps_to_read(corpora: Sequence[Corpus], plan: Plan, filled: float, to_the_end: bool) -> float:
    """About how many steps fill so many places; `to_the_end`: there are no more, and all lanes are read out."""
    read = _Read(0, 0, False)
    per_step = plan.rows_per_step * plan.row_length
    for read in _reading(corpora, plan, MOST_PLACES):
        if read.ended or (read.filled >= filled and not to_the_end):
            return read.places / per_step
    last = LANES_PER_ROW / 2 if to_the_end else 0  # the last row of a lane is half empty
    return filled / (read.filled / read.places * per_step) + last


def fill(corpora: Sequence[Corpus], plan: Plan) -> float:
    """The share of places that is filled of rows, about: 1 where all documents may be cut."""
    read = _Read(1, 1, False)
    if any(corpus.pilots for corpus in corpora if corpus.entry.share > 0):
        for read in _reading(corpora, plan, _PLACES_FOR_FILL):
            if read.ended:
                break
    return read.filled / read.places


def _reading(corpora: Sequence[Corpus], plan: Plan, most: int) -> Iterator[_Read]:
    """After each row of a run, in their order, what has been read until then; until it is `most` places."""
    lanes = [
        Lane(number, plan.lanes, list(corpora), plan.seed, plan.row_length, Prefetcher(0, 0))
        for number in range(min(plan.lanes, -(-most // plan.row_length)))
    ]
    filled = places = 0
    for number, lane in enumerate(itertools.cycle(lanes), 1):
        filled += sum(piece.places for piece in lane.next_row().pieces)
        places += plan.row_length
        ended = number % plan.rows_per_step == 0 and all(each.exhausted for each in lanes)
        yield _Read(filled, places, ended and len(lanes) == plan.lanes)
        if ended or places >= most:
            return
