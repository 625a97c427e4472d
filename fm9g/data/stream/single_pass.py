"""Every document of some datasets once, in rows that are the same whoever reads them: for evaluation.

Rows are packed by lanes, as in training, and a rank reads whole lanes: neither the number of ranks nor the size of a
batch changes which documents are in a row. Lanes are so many that each has some ROWS_OF_LANE rows, of which the last is
seldom full; where a part is read, one row. Ranks that have fewer rows than others are given empty ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.forecast import places_of_a_pass
from fm9g.data.stream.lane import Lane, Row
from fm9g.data.stream.loader import StepBatch, step_batch
from fm9g.data.stream.prefetch import Prefetcher

ROWS_OF_LANE, MOST_LANES = 4, 1024


def about_rows(corpora: Sequence[Corpus], row_length: int) -> int:
    """An estimate of how many rows a pass over corpora has; where transforms draw chance, not the same each time."""
    return math.ceil(places_of_a_pass(corpora) / row_length)


class SinglePass:
    """Iterates over this rank's batches of `batch_size` rows, without end: after the last one they are empty.

    `corpora` end after an epoch at the latest, and are opened with `seed` and `row_length`. `rows`: about how many
    there are, the same on every rank. `most_rows`: so many of all ranks' rows are read, the first ones of each lane;
    None for all.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        seed: int,
        row_length: int,
        batch_size: int,
        rank: int,
        ranks: int,
        rows: int,
        most_rows: int | None,
        prefetcher: Prefetcher,
    ) -> None:
        self._corpora, self._seed, self._row_length, self._batch_size = list(corpora), seed, row_length, batch_size
        self._most_rows, self._prefetcher = most_rows, prefetcher
        lanes = rows // ROWS_OF_LANE if most_rows is None or most_rows >= rows else most_rows
        self._lanes = max(1, min(MOST_LANES, lanes))
        self._mine = range(rank, self._lanes, ranks)
        self.exhausted = False  # whether this rank has nothing left after the last batch

    def __iter__(self) -> Iterator[StepBatch]:
        rows = self._rows()
        following = next(rows, None)
        step = 0
        while True:
            batch: list[Row] = []
            while following is not None and len(batch) < self._batch_size:
                batch.append(following)
                following = next(rows, None)
            self.exhausted = following is None
            batch += [Row() for _ in range(self._batch_size - len(batch))]
            yield step_batch(step, batch, self._corpora, self._batch_size, self._row_length)
            step += 1

    def _rows(self) -> Iterator[Row]:
        for number in self._mine:
            yield from self._rows_of(number)

    def _rows_of(self, number: int) -> Iterator[Row]:
        """A lane's rows; the last may hold nothing but records that are left out."""
        lane = Lane(number, self._lanes, self._corpora, self._seed, self._row_length, self._prefetcher)
        left = math.inf if self._most_rows is None else len(range(number, self._most_rows, self._lanes))
        while left and not lane.exhausted:
            row = lane.next_row()
            left -= 1
            if left and not lane.exhausted:
                lane.prepare()  # its tokens are made while this one is computed with
            if row.pieces or row.skipped:
                yield row
