"""A lane: an endless source of packed rows, drawing documents from all datasets by token share.

Lane l of L visits positions l, l + L, l + 2L, … of every dataset's line, so lanes never meet and together
read every record once an epoch. All that a lane must remember is its state, a few integers.

Which dataset comes next: each has a due time (tokens taken + its phase) / share, and the earliest is taken, as in
stride scheduling; the phases differ from lane to lane, so that lanes do not move in step. But a document is never
taken if that would put its dataset ahead of its share by more than the document itself. So in a lane, at any
moment, tokens(d) - share(d) * total <= the last document of d, and, since the surpluses and deficits sum to
zero, a dataset lags by at most one document of each of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fm9g.data.document import Document, DocumentLine, ReadAhead
from fm9g.data.order import unit_interval
from fm9g.errors import UserError

MOST_DROPS = 10_000  # oversize records in a row before a lane gives up on a dataset
CARRY_FIELDS = 3


@dataclass(frozen=True)
class Piece:
    """Tokens first..last (inclusive; the last is a target only) of a document, in a row."""

    task: int
    document: Document
    first: int
    last: int

    @property
    def pairs(self) -> int:
        return self.last - self.first


@dataclass
class Row:
    """Pieces that fill up to row_length places, and how many documents of each task began here."""

    pieces: list[Piece] = field(default_factory=list)
    begun: dict[int, int] = field(default_factory=dict)


class Lane:
    """Packs rows of `row_length` places from `lines`. A line's share is `line.source.share`.

    The state is int64: for each line the documents taken, then for each the tokens since shares were last
    changed, then the document that is held over for the next row: line (or -1), position, first token.
    """

    def __init__(
        self, number: int, lanes: int, lines: list[DocumentLine], seed: int, row_length: int, ahead: ReadAhead
    ) -> None:
        self._number, self._lanes, self._lines, self._row_length = number, lanes, lines, row_length
        self._ahead = ahead
        self._taken = [0] * len(lines)
        self._tokens = [0] * len(lines)
        self._carry: tuple[int, int, int] | None = None
        self._phase = [
            unit_interval(seed, line.source.task_name, "phase", number) * line.typical_pairs for line in lines
        ]
        self._known: dict[tuple[int, int], Document | None] = {}

    @staticmethod
    def state_size(lines: int) -> int:
        """The number of int64 in a state."""
        return 2 * lines + CARRY_FIELDS

    def state(self) -> np.ndarray:
        """All this lane must remember, [state_size] int64."""
        return np.array([*self._taken, *self._tokens, *(self._carry or (-1, 0, 0))], dtype=np.int64)

    def load_state(self, state: np.ndarray) -> None:
        """Continue from a state."""
        values, count = state.tolist(), len(self._lines)
        self._taken, self._tokens = values[:count], values[count : 2 * count]
        carry = values[2 * count :]
        self._carry = None if carry[0] < 0 else (carry[0], carry[1], carry[2])
        self._known.clear()

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to read."""
        return self._carry is None and not self._active()

    def _position(self, task: int) -> int:
        return self._number + self._taken[task] * self._lanes

    def _active(self) -> list[int]:
        return [
            task for task, line in enumerate(self._lines) if line.source.share > 0 and self._position(task) < line.end
        ]

    def next_row(self) -> Row:
        """The next row: full, unless a document that must not be cut does not fit or nothing is left."""
        row, room = Row(), self._row_length
        while room:
            held = self._carry or self._take(row)
            if held is None:
                break
            task, position, first = held
            document = self._document(task, position)
            assert document is not None
            left = document.pairs - first
            if left > room and not document.may_cut:
                self._carry = held
                break
            used = min(left, room)
            row.pieces.append(Piece(task, document, first, first + used))
            room -= used
            self._carry = (task, position, first + used) if used < left else None
            if self._carry is None:
                self._known.pop((task, position), None)
        return row

    def _take(self, row: Row) -> tuple[int, int, int] | None:
        """Choose the next document and account for it: (line, position, first token)."""
        drops = 0
        while active := self._active():
            task, document = self._choose(active)
            position = self._position(task)
            self._taken[task] += 1
            self._read_ahead(task)
            if document is not None:
                self._tokens[task] += document.pairs
                row.begun[task] = row.begun.get(task, 0) + 1
            self._restart_if_ended(task)
            if document is not None:
                return task, position, 0
            self._known.pop((task, position), None)
            drops += 1
            if drops == MOST_DROPS:
                raise UserError(
                    f"dataset {self._lines[task].source.task_name!r}: {drops} records in a row have no usable text or "
                    f"are longer than max_length {self._row_length}: use oversize_rule segment or head"
                )
        return None

    def _choose(self, active: list[int]) -> tuple[int, Document | None]:
        shares = {task: self._lines[task].source.share for task in active}
        whole = sum(shares.values())
        total = sum(self._tokens[task] for task in active)
        for task in sorted(active, key=lambda d: (self._tokens[d] + self._phase[d]) / shares[d]):
            document = self._document(task, self._position(task))
            pairs = document.pairs if document is not None else 0
            if self._tokens[task] * whole <= shares[task] * (total + pairs):
                return task, document
        task = min(active, key=lambda d: self._tokens[d] / shares[d])  # only rounding can lead here
        return task, self._document(task, self._position(task))

    def _document(self, task: int, position: int) -> Document | None:
        key = (task, position)
        if key not in self._known:
            self._known[key] = self._lines[task].document(position)
        return self._known[key]

    def _restart_if_ended(self, task: int) -> None:
        """When a dataset ends, the others share its part anew: what it took is no debt of theirs."""
        if self._position(task) >= self._lines[task].end:
            self._tokens = [0] * len(self._lines)

    def _read_ahead(self, task: int) -> None:
        if self._ahead.depth:
            self._ahead.will_need(self._lines[task], self._position(task) + self._ahead.depth * self._lanes)
