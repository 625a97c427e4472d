"""Whose turn a lane's next row is.

One endless sequence of turns, the same for all lanes, gives each dataset its share: the k-th turn of dataset d is due
at (k + o(d)) / share(d), with an o(d) in [0, 1) of the seed's, and turns follow each other as they fall due. Of any
stretch of the sequence each dataset has its share, to about one turn. Row n of lane l has turn l + n. What lanes side
by side read at once, the G of a step or the 16 G of sixteen, is such a stretch, and so is what one lane reads. So the
shares are right from the first step on and stay so, however long documents are; lanes whose beginnings were drawn by
lot would be off by chance, and lanes that all began alike would swing together.

Rows are not equally full, so turns are not tokens. What a dataset's tokens are ahead of its turns or behind them is
let be up to a slack of half a row to one and a half, and beyond that makes its turns due so much later or earlier. The
slack differs from lane to lane, so that lanes do not all at once put right what all of them lack.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 are spread evenly, however many they are


class Turns:
    """The turns of lane `lane` after `rows` rows, of datasets with these shares (of any sum) and offsets."""

    def __init__(self, shares: Mapping[int, float], offsets: Sequence[float], lane: int, rows: int) -> None:
        whole = sum(shares.values())
        self.shares = {task: share / whole for task, share in shares.items()}
        self._offsets, self.rows = offsets, rows
        self._before = self._counts(lane)
        self._counted = self._counts(lane + rows)
        self._slack = 0.5 + lane * GOLDEN % 1

    def _due(self, task: int, turns: float) -> float:
        """When the turn after so many of a dataset's is due."""
        return (turns + self._offsets[task]) / self.shares[task]

    def _counts(self, length: int) -> dict[int, int]:
        """How many of the first `length` turns each dataset has."""
        # those due by `length` less the number of datasets are as many or fewer, and not much fewer
        early = length - len(self.shares)
        counts = {task: max(0, math.ceil(early * s - self._offsets[task])) for task, s in self.shares.items()}
        due = [(self._due(task, count), task) for task, count in counts.items()]
        heapq.heapify(due)
        for _ in range(length - sum(counts.values()) if due else 0):
            task = due[0][1]
            counts[task] += 1
            heapq.heapreplace(due, (self._due(task, counts[task]), task))
        return counts

    def taken(self) -> dict[int, int]:
        """How many of the turns in these rows each dataset has had."""
        return {task: count - self._before[task] for task, count in self._counted.items()}

    def advance(self) -> None:
        """A row is done."""
        self.rows += 1
        if self.shares:
            self._counted[min(self.shares, key=lambda task: self._due(task, self._counted[task]))] += 1

    def by_row(self, tokens: Sequence[int]) -> list[int]:
        """The datasets in the order in which they are due for the next row, whose turn it is first.

        `tokens` are those that each dataset has had in these rows.
        """
        row = sum(tokens) / self.rows if self.rows else 0.0  # an average one
        taken = self.taken()

        def due(task: int) -> float:
            ahead = tokens[task] / row - taken[task] if row else 0.0
            return self._due(task, self._counted[task] + (ahead if abs(ahead) > self._slack else 0.0))

        return sorted(self.shares, key=due)

    def by_document(self, tokens: Sequence[int], size: float) -> list[int]:
        """The datasets in the order in which they are due for the next document, of about `size` tokens."""
        return sorted(self.shares, key=lambda task: self._due(task, self._before[task] + tokens[task] / size))
