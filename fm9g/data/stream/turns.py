"""Whose turn a lane's next row is.

One endless sequence of turns, the same for all lanes, gives each dataset its share: the k-th turn of dataset d is due
at (k + o(d)) / rate(d), with an o(d) in [0, 1) of the seed's, and turns follow each other as they fall due. The rates
are the shares, or where rows are not of one dataset each what gives the shares all the same (fm9g.data.stream.fills).
Of any stretch of the sequence each dataset has its rate, to about one turn. Row n of lane l has turn l + n. What lanes
side by side read at once, the G of a step or the 16 G of sixteen, is such a stretch, and so is what one lane reads. So
the shares are right from the first step on and stay so, however long documents are; lanes whose beginnings were drawn
by lot would be off by chance, and lanes that all began alike would swing together.

What a row holds is an estimate. What a dataset's tokens are ahead of those expected of the turns or behind them is let
be up to a slack of half a turn to one and a half, and beyond that makes its turns due so much later or earlier. The
slack differs from lane to lane, so that lanes do not all at once put right what all of them lack.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

from fm9g.data.stream.fills import Deal

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 are spread evenly, however many they are


class Turns:
    """The turns of lane `lane` after `rows` rows, of datasets with these shares (their sum is 1) and offsets."""

    def __init__(
        self, shares: Mapping[int, float], dealt: Deal, offsets: Sequence[float], lane: int, rows: int
    ) -> None:
        self.shares = shares
        self._rates = dict(zip(shares, dealt.turns, strict=True))
        self._places = dict(zip(shares, dealt.places, strict=True))  # of a row, by whose turn it is
        self._own = {task: row[number] for number, (task, row) in enumerate(self._places.items())}
        self._offsets, self.rows = offsets, rows
        self._before = self._counts(lane)
        self._counted = self._counts(lane + rows)
        turns = {task: count - self._before[task] for task, count in self._counted.items()}
        columns = zip(*([turns[task] * size for size in row] for task, row in self._places.items()), strict=True)
        self.expected = dict(zip(shares, map(sum, columns), strict=True))  # tokens that these rows' turns give
        self._slack = 0.5 + lane * GOLDEN % 1

    def _due(self, task: int, turns: float) -> float:
        """When the turn after so many of a dataset's is due."""
        return (turns + self._offsets[task]) / self._rates[task]

    def _counts(self, length: int) -> dict[int, int]:
        """How many of the first `length` turns each dataset has."""
        # those due by `length` less the number of datasets are as many or fewer, and not much fewer
        early = length - len(self.shares)
        counts = {task: max(0, math.ceil(early * s - self._offsets[task])) for task, s in self._rates.items()}
        due = [(self._due(task, count), task) for task, count in counts.items()]
        heapq.heapify(due)
        for _ in range(length - sum(counts.values()) if due else 0):
            task = due[0][1]
            counts[task] += 1
            heapq.heapreplace(due, (self._due(task, counts[task]), task))
        return counts

    def advance(self) -> None:
        """A row is done."""
        self.rows += 1
        if self.shares:
            turn = min(self.shares, key=lambda task: self._due(task, self._counted[task]))
            self._counted[turn] += 1
            for task, size in zip(self.expected, self._places[turn], strict=True):
                self.expected[task] += size

    def by_row(self, tokens: Sequence[int]) -> list[int]:
        """The datasets in the order in which they are due for the next row, whose turn it is first.

        `tokens` are those that each dataset has had in these rows.
        """
        whole = sum(self.expected.values())
        full = sum(tokens) / whole if whole else 1.0  # rows are a little less than expected, or more

        def due(task: int) -> float:
            surplus = (tokens[task] - self.expected[task] * full) / self._own[task]
            return self._due(task, self._counted[task] + (surplus if abs(surplus) > self._slack else 0.0))

        return sorted(self.shares, key=due)

    def by_document(self, tokens: Sequence[int], size: float) -> list[int]:
        """The datasets in the order in which they are due for the next document, of about `size` tokens."""
        return sorted(self.shares, key=lambda task: self._due(task, self._before[task] + tokens[task] / size))
