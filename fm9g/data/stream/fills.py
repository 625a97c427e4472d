"""What a row holds whose turn is a given dataset's: where documents must not be cut, it is not the dataset's alone.

A document of over half a row that may not be cut leaves room that another dataset takes. Turns that fell to datasets by
their shares would then not give them their shares. So each dataset's part in the rows of every other one is estimated
from its first documents, and turns are dealt so that the parts add up to the shares.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from fm9g.data.stream.corpus import Pilot

_STARTS = 8  # pilots with which a row is tried as its first document
_ROUNDS = 100
_LEAST = 1e-6
_SMALL = 1 / 16  # of a row: less room than that is left to chance
_MOSTLY_OTHERS = 0.02  # of a dataset's places: what its own turns give one that lives on the room that others leave


@dataclass(frozen=True)
class Deal:
    """How turns are dealt to datasets: `turns` [datasets] their shares of the turns; `places` [turns][datasets] what
    each takes of a row, by whose turn that is; `rooms` [datasets] what each takes of another's row at most."""

    turns: list[float]
    places: list[list[int]]
    rooms: list[int]


@functools.lru_cache(16)  # lanes that read the same datasets ask alike
def deal(pilots: tuple[tuple[Pilot, ...], ...], shares: tuple[float, ...], row_length: int) -> Deal:
    """The turns that give datasets with these first documents their shares (which sum to 1), as far as any do.

    A dataset of which there are no pilots fills its rows. Plain floats in a fixed order: any machine gets the same.
    """
    places = _places(pilots, shares, row_length)
    others = [[row[task] for turn, row in enumerate(places) if turn != task] for task in range(len(shares))]
    rooms = [max(sizes, default=0.0) for sizes in others]
    turns = list(shares)
    for _ in range(_ROUNDS if any(rooms) else 0):
        sums = [math.fsum(map(operator.mul, turns, sizes)) for sizes in zip(*places, strict=True)]
        whole = math.fsum(sums)
        lacks = [share * whole / max(got, _LEAST) for share, got in zip(shares, sums, strict=True)]
        _take_less(places, turns, sums, lacks)
        turns = [max(turn * lack, _LEAST * share) for turn, lack, share in zip(turns, lacks, shares, strict=True)]
        whole = math.fsum(turns)
        turns = [turn / whole for turn in turns]
    return Deal(turns, [list(map(round, row)) for row in places], list(map(round, rooms)))


def _take_less(
    places: list[list[float]], turns: Sequence[float], sums: Sequence[float], lacks: Sequence[float]
) -> None:
    """Have datasets that would get too much, and that from the turns of others alone, take less of them.

    So it is with lanes: they let no dataset run ahead, and rather leave some room.
    """
    for task, lack in enumerate(lacks):
        if lack < 1 and turns[task] * places[task][task] < _MOSTLY_OTHERS * sums[task]:
            for turn, row in enumerate(places):
                row[task] *= 1.0 if turn == task else lack


def _places(pilots: Sequence[Sequence[Pilot]], shares: Sequence[float], row_length: int) -> list[list[float]]:
    """What each dataset could take of each one's rows; what the first leaves goes to the others by their shares."""
    rows = []
    for turn in range(len(shares)):
        own = _filled(pilots[turn], row_length)
        left = row_length - round(own)
        if left < _SMALL * row_length:
            own, left = float(row_length), 0
        found = [_filled(some, left) if left and task != turn else 0.0 for task, some in enumerate(pilots)]
        whole = math.fsum(share for share, size in zip(shares, found, strict=True) if size)
        row = [size * share / whole if size else 0.0 for share, size in zip(shares, found, strict=True)]
        row[turn] = own
        rows.append(row)
    return rows


def _filled(pilots: Sequence[Pilot], room: int) -> float:
    """How much of `room` places a dataset takes by itself, on average over some documents that it may begin with."""
    if not pilots:
        return float(room)
    whole = sum(size for size, _ in pilots)
    before = max(0, room // whole - 1) * whole  # of small documents all are taken, several times
    totals = []
    for first in range(0, len(pilots), max(1, len(pilots) // _STARTS)):
        total = before
        for size, may_cut in 3 * [*pilots[first:], *pilots[:first]]:
            if total + size <= room:
                total += size
            elif may_cut:
                total = room
        totals.append(total)
    return sum(totals) / len(totals)
