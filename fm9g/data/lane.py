"""A lane: an endless source of packed rows, drawing from all datasets by token share.

Lane l of L visits positions l, l + L, l + 2L, … of every dataset's line, so lanes never meet and together
read every record once an epoch. All that a lane must remember is its state, a few integers.

Which dataset comes next: each has a due time (tokens yielded + its phase) / share, and the earliest is taken, as in
stride scheduling; the phases differ from lane to lane, so that lanes do not move in step. But a piece is never taken if
that would put its dataset ahead of its share by more than the piece. A document that is cut at the end of a row
goes on in the next one; a very long one, whose dataset would come to lead by more than LEAD_ROWS rows, is put aside
until its dataset is due again, so that it does not hold up the lane. Hence, in a lane, at any moment

    tokens(d) - share(d) * total  <=  min(the last document of d, LEAD_ROWS rows)

and, since surpluses and deficits sum to zero, a dataset lags by at most that much of each of the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fm9g.data.document import Document, DocumentLine, ReadAhead
from fm9g.data.order import unit_interval
from fm9g.errors import UserError

MOST_DROPS = 10_000  # oversize records in a row before a lane gives up on a dataset
LEAD_ROWS = 2
NONE = -1


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

    The state is int64: for each line the documents begun; then for each the tokens yielded since shares were last
    changed; then for each the next token of the document in progress, or -1; then the line whose document
    the next row begins with, or -1.
    """

    def __init__(
        self, number: int, lanes: int, lines: list[DocumentLine], seed: int, row_length: int, ahead: ReadAhead
    ) -> None:
        self._number, self._lanes, self._lines, self._row_length = number, lanes, lines, row_length
        self._ahead = ahead
        self._begun = [0] * len(lines)
        self._tokens = [0] * len(lines)
        self._next_token = [NONE] * len(lines)
        self._continued = NONE
        self._phase = [
            unit_interval(seed, line.source.task_name, "phase", number) * min(line.typical_pairs, row_length)
            for line in lines
        ]
        self._known: dict[tuple[int, int], Document | None] = {}

    @staticmethod
    def state_size(lines: int) -> int:
        """The number of int64 in a state."""
        return 3 * lines + 1

    def state(self) -> np.ndarray:
        """All this lane must remember, [state_size] int64."""
        return np.array([*self._begun, *self._tokens, *self._next_token, self._continued], dtype=np.int64)

    def load_state(self, state: np.ndarray) -> None:
        """Continue from a state."""
        values, count = state.tolist(), len(self._lines)
        self._begun, self._tokens, self._next_token = (values[i * count : (i + 1) * count] for i in range(3))
        self._continued = values[-1]
        self._known.clear()

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to read."""
        return not self._active()

    def _active(self) -> list[int]:
        return [
            task
            for task, line in enumerate(self._lines)
            if line.source.share > 0 and (self._next_token[task] != NONE or self._upcoming(task) < line.end)
        ]

    def _upcoming(self, task: int) -> int:
        """The position of the next document of a line that is not begun."""
        return self._number + self._begun[task] * self._lanes

    def next_row(self) -> Row:
        """The next row: full, unless a document that must not be cut does not fit or nothing is left."""
        row, room = Row(), self._row_length
        while room:
            task = self._continued if self._continued != NONE else self._choose(room)
            self._continued = NONE
            if task == NONE:
                break
            document = self._begin(task, row)
            first = self._next_token[task]
            left = document.pairs - first
            if left > room and not document.may_cut:
                self._continued = task
                break
            self._yield(row, Piece(task, document, first, first + min(left, room)))
            room -= min(left, room)
            if left > row.pieces[-1].pairs and self._may_lead_on(task, document):
                self._continued = task
        return row

    def _begin(self, task: int, row: Row) -> Document:
        """The document of a line that is in progress, a new one if there is none."""
        position = self._upcoming(task)
        if self._next_token[task] == NONE:
            self._begun[task] += 1
            self._next_token[task] = 0
            row.begun[task] = row.begun.get(task, 0) + 1
            self._read_ahead(task)
        else:
            position -= self._lanes
        document = self._document(task, position)
        assert document is not None
        return document

    def _yield(self, row: Row, piece: Piece) -> None:
        task = piece.task
        row.pieces.append(piece)
        self._tokens[task] += piece.pairs
        self._next_token[task] = piece.last
        if piece.last == piece.document.pairs:
            self._next_token[task] = NONE
            self._known.pop((task, self._upcoming(task) - self._lanes), None)
            self._restart_if_ended(task)

    def _may_lead_on(self, task: int, document: Document) -> bool:
        """Whether a row more of this document keeps its dataset within its lead."""
        active = self._active()
        whole = sum(self._lines[d].source.share for d in active)
        total = sum(self._tokens[d] for d in active) + self._row_length
        lead = self._tokens[task] + self._row_length - self._lines[task].source.share / whole * total
        return len(active) == 1 or lead <= min(document.pairs, LEAD_ROWS * self._row_length)

    def _choose(self, room: int) -> int:
        """The line to take the next piece from, or NONE if all have ended."""
        drops = 0
        while active := self._active():
            shares = {task: self._lines[task].source.share for task in active}
            whole, total = sum(shares.values()), sum(self._tokens[task] for task in active)
            due = sorted(active, key=lambda d: (self._tokens[d] + self._phase[d]) / shares[d])
            # the one furthest behind passes always, so that rounding cannot leave none
            for task in [*due, min(active, key=lambda d: self._tokens[d] / shares[d])]:
                size = self._piece_size(task, room)
                if size is None:
                    self._drop(task)
                    drops += 1
                    self._check_drops(task, drops)
                    break
                if self._tokens[task] * whole <= shares[task] * (total + size):
                    return task
            else:
                return task
        return NONE

    def _piece_size(self, task: int, room: int) -> int | None:
        """How many places the next piece of a line would take, or None if its document is to be dropped."""
        first, position = self._next_token[task], self._upcoming(task)
        document = self._document(task, position if first == NONE else position - self._lanes)
        if document is None:
            return None
        left = document.pairs - max(first, 0)
        return min(left, room) if document.may_cut else left

    def _document(self, task: int, position: int) -> Document | None:
        key = (task, position)
        if key not in self._known:
            self._known[key] = self._lines[task].document(position)
        return self._known[key]

    def _drop(self, task: int) -> None:
        self._known.pop((task, self._upcoming(task)), None)
        self._begun[task] += 1
        self._restart_if_ended(task)

    def _check_drops(self, task: int, drops: int) -> None:
        if drops == MOST_DROPS:
            raise UserError(
                f"dataset {self._lines[task].source.task_name!r}: {drops} records in a row have no usable text or "
                f"are longer than max_length {self._row_length}: use oversize_rule segment or head"
            )

    def _restart_if_ended(self, task: int) -> None:
        """When a dataset ends, the others share its part anew: what it took is no debt of theirs."""
        if self._upcoming(task) >= self._lines[task].end:
            self._tokens = [0] * len(self._lines)

    def _read_ahead(self, task: int) -> None:
        if self._ahead.depth:
            self._ahead.will_need(self._lines[task], self._upcoming(task) + (self._ahead.depth - 1) * self._lanes)
