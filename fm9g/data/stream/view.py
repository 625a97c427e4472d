"""A part of a dataset's records, the same for ever: held out of training, or left for it.

Of each BLOCK of records the same places are held out, so that which part a record is in depends on its number alone:
neither on a seed nor on records that are appended later. Imports no dataset.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from fm9g.data.stream.order import Permutation

BLOCK = 1000


class View(NamedTuple):
    """Records by their place in a part. `places`: those of the part in each BLOCK, ascending; `limit`: the part ends
    there."""

    places: tuple[int, ...] = tuple(range(BLOCK))
    limit: int | None = None

    def count(self, records: int) -> int:
        """How many of a dataset's first `records` records are in the part."""
        blocks, rest = divmod(records, BLOCK)
        found = blocks * len(self.places) + bisect_left(self.places, rest)
        return found if self.limit is None else min(found, self.limit)

    def record(self, place: int) -> int:
        """The number in the dataset of the record at a place of the part."""
        block, rest = divmod(place, len(self.places))
        return block * BLOCK + self.places[rest]


WHOLE = View()


def trained(share: float, limit: int | None = None) -> View:
    """What is left to train on where a share of the records is held out."""
    out = set(held_out(share).places)
    return View(tuple(place for place in range(BLOCK) if place not in out), limit)


def held_out(share: float, limit: int | None = None) -> View:
    """A share of the records, to a thousandth."""
    order = Permutation(BLOCK, "held out")
    return View(tuple(sorted(order(i) for i in range(round(share * BLOCK)))), limit)
