"""A lane: an endless source of packed rows, drawing from all datasets by token share.

Lane l of L visits positions l, l + L, l + 2L, … of every dataset's line, so lanes never meet and together
read every record once an epoch. All that a lane must remember is its state, a few integers.

Which dataset comes next: each has a due time (tokens yielded + its phase) / share, and the earliest is taken, as in
stride scheduling; the phases differ from lane to lane, so that lanes do not move in step. But a piece is never taken if
that would put its dataset ahead of its share by more than the piece. A document that is cut at the end of a row
goes on in the next one; a very long one, whose dataset would come to lead by more than LEAD_ROWS rows, is put aside
until its dataset is due again, so that it does not hold up the lane. Where a document must not be cut and does not fit
what is left of the row, another of its dataset's window (fm9g.data.feed) or of another dataset takes the room, and it
begins the next row. Hence, in a lane, at any moment

    tokens(d) - share(d) * total  <=  min(the last document of d, LEAD_ROWS rows)

and, since surpluses and deficits sum to zero, a dataset lags by at most that much of each of the others.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from fm9g.data.ahead import Ahead
from fm9g.data.document import Document, DocumentLine, Ids, Skip, Text
from fm9g.data.feed import NONE, Feed
from fm9g.data.order import unit_interval
from fm9g.errors import UserError

MOST_SKIPS = 10_000  # unusable records in a row before a lane gives up on a dataset
LEAD_ROWS = 2

Texts = dict[int, dict[int, Text | Skip]]
"""{task: {number in the lane: text}}."""


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
    """Pieces that fill up to row_length places, and the documents begun and skipped on the way."""

    pieces: list[Piece] = field(default_factory=list)
    begun: dict[int, int] = field(default_factory=dict)  # {task: documents}
    skipped: list[tuple[int, Skip]] = field(default_factory=list)  # (task, why)


class Lane:
    """Packs rows of `row_length` places from `lines`. A line's share is `line.source.share`.

    The state is int64: for each line the documents done before its window; then for each the tokens yielded since
    shares were last changed; then for each the next token of the document in progress, or -1; then for each the mask
    of documents done in its window; then the line whose document the next row begins with, or -1.
    """

    def __init__(
        self, number: int, lanes: int, lines: list[DocumentLine], seed: int, row_length: int, ahead: Ahead
    ) -> None:
        self._row_length = row_length
        self._feeds, self._ahead = [Feed(line, number, lanes) for line in lines], ahead
        self._shares = [line.source.share for line in lines]
        self._tokens = [0] * len(lines)
        self._continued = NONE
        whole = sum(self._shares)
        self._last = {  # how many documents the last row took of each line; at first, a guess
            task: int(row_length * self._shares[task] / whole / line.typical_pairs) for task, line in enumerate(lines)
        }
        self._coming: tuple[Texts, Future[dict[int, Ids]]] | None = None  # and their tokens by task
        self._prepared = False
        self._phase = [
            unit_interval(seed, line.source.task_name, "phase", number) * min(line.typical_pairs, row_length)
            for line in lines
        ]

    @staticmethod
    def state_size(lines: int) -> int:
        """The number of int64 in a state."""
        return 4 * lines + 1

    def state(self) -> np.ndarray:
        """All this lane must remember, [state_size] int64."""
        feeds = self._feeds
        columns = [[f.base for f in feeds], self._tokens, [f.next_token for f in feeds], [f.taken for f in feeds]]
        return np.array([*(value for column in columns for value in column), self._continued], dtype=np.int64)

    def load_state(self, state: np.ndarray) -> None:
        """Continue from a state."""
        base, self._tokens, next_token, taken = state[:-1].reshape(4, len(self._feeds)).tolist()
        for feed, *place in zip(self._feeds, base, next_token, taken, strict=True):
            feed.load(*place)
        self._continued = int(state[-1])

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to read."""
        return not self._active()

    def _active(self) -> list[int]:
        return [task for task, feed in enumerate(self._feeds) if self._shares[task] > 0 and not feed.ended]

    def prepare(self) -> None:
        """Read the texts that the next row is likely to take and have them tokenized; again only after that row."""
        if self._prepared:
            return
        # of a line that gives a row several, some more than last time; of the others, that whose turn it is
        likely = {task: count + count // 4 + 1 for task, count in self._last.items() if count > 1}
        if active := self._active():
            likely.setdefault(min(active, key=self._due), 1)
        texts = {task: some for task, count in likely.items() if (some := self._feeds[task].texts(count))}
        self._coming = (texts, self._ahead.tokenize(functools.partial(self._encoded, texts))) if texts else None
        self._prepared = True

    def _encoded(self, texts: Texts) -> dict[int, Ids]:
        """{task: token ids} of texts; called in another thread, which does what nobody else can do meanwhile."""
        return {task: self._feeds[task].line.encoded(some.values()) for task, some in texts.items()}

    def _receive(self) -> None:
        """Wait for what was prepared."""
        if self._coming is not None:
            texts, coming = self._coming
            for task, ids in self._ahead.wait(coming).items():
                documents = self._feeds[task].line.documents(texts[task].values(), ids)
                self._feeds[task].know(dict(zip(texts[task], documents, strict=True)))
        self._coming, self._prepared = None, False

    def next_row(self) -> Row:
        """The next row: full, unless no document that may come next fits what is left of it, or nothing is left."""
        row, room = Row(), self._row_length
        self.prepare()
        self._receive()
        while room:
            if self._continued != NONE and self._skip(self._continued, row):  # damaged since it was chosen
                self._continued = NONE
            if self._continued != NONE:
                task, slot = self._continued, self._feeds[self._continued].fitting(room)
            else:
                task, slot = self._choose(room, row)
            if task == NONE:
                break
            if slot == NONE:  # it begins the next row
                self._continued = task
                break
            feed = self._feeds[task]
            room -= self._take(task, slot, room, row)
            cut = slot == 0 and feed.next_token != NONE
            self._continued = task if cut and self._may_lead_on(task, feed.head()) else NONE
        self._last = row.begun
        if depth := self._ahead.depth:  # what the next row is likely to take, and some more
            for task, feed in enumerate(self._feeds):
                self._ahead.want(feed.ahead(row.begun.get(task, 0) + depth))
        return row

    def _take(self, task: int, slot: int, room: int, row: Row) -> int:
        """Put a piece of a feed's document into a row; returns its size."""
        feed = self._feeds[task]
        document = feed.document(slot)
        assert isinstance(document, Document)
        first = max(feed.next_token, 0) if slot == 0 else 0
        if first == 0:
            row.begun[task] = row.begun.get(task, 0) + 1
        piece = Piece(task, document, first, min(document.pairs, first + room))
        feed.take(slot, piece.last)
        self._yield(row, piece)
        return piece.pairs

    def _yield(self, row: Row, piece: Piece) -> None:
        row.pieces.append(piece)
        self._tokens[piece.task] += piece.pairs
        self._restart_if_ended(piece.task)

    def _may_lead_on(self, task: int, document: Document) -> bool:
        """Whether a row more of this document keeps its dataset within its lead."""
        active = self._active()
        whole = sum(self._shares[d] for d in active)
        total = sum(self._tokens[d] for d in active) + self._row_length
        lead = self._tokens[task] + self._row_length - self._shares[task] / whole * total
        return len(active) == 1 or lead <= min(document.pairs, LEAD_ROWS * self._row_length)

    def _due(self, task: int) -> float:
        """When the next piece of a line is due: the earliest is taken."""
        return (self._tokens[task] + self._phase[task]) / self._shares[task]

    def _choose(self, room: int, row: Row) -> tuple[int, int]:
        """The line to take the next piece from and the place in its window, or NONE if all lines have ended.

        Where nothing that may come next fits (the place is NONE), it is the line that is due first, whose document
        waits for the next row.
        """
        skips = 0
        while active := self._active():
            whole, total = sum(self._shares[d] for d in active), sum(self._tokens[d] for d in active)
            waiting = NONE
            for task in sorted(active, key=self._due):
                if self._skip(task, row):
                    skips += 1
                    self._check_skips(row, skips)
                    break
                slot, size = self._next_piece(task, room)
                if self._tokens[task] * whole <= self._shares[task] * (total + size):
                    if slot != NONE:
                        return task, slot
                    waiting = task if waiting == NONE else waiting
            else:
                if waiting == NONE:  # the one furthest behind passes always, so that rounding cannot leave none
                    waiting = min(active, key=lambda d: self._tokens[d] / self._shares[d])
                return waiting, self._feeds[waiting].fitting(room)
        return NONE, NONE

    def _next_piece(self, task: int, room: int) -> tuple[int, int]:
        """The place in its window of a line's next piece, or NONE where nothing fits, and how much that takes."""
        feed = self._feeds[task]
        slot = feed.fitting(room)
        if slot <= 0:
            return slot, feed.left if slot == NONE else min(feed.left, room)
        document = feed.document(slot)
        assert isinstance(document, Document)
        return slot, document.pairs

    def _skip(self, task: int, row: Row) -> bool:
        """Leave the next document of a line behind if it cannot be used."""
        why = self._feeds[task].skip()
        if why is None:
            return False
        row.skipped.append((task, why))
        self._restart_if_ended(task)
        return True

    def _check_skips(self, row: Row, skips: int) -> None:
        if skips >= MOST_SKIPS:
            task, why = row.skipped[-1]
            raise UserError(
                f"dataset {self._feeds[task].line.source.task_name!r}: {skips} records in a row cannot be used "
                f"(the last one: {why.reason})"
            )

    def _restart_if_ended(self, task: int) -> None:
        """When a dataset ends, the others share its part anew: what it took is no debt of theirs."""
        if self._feeds[task].ended:
            self._tokens = [0] * len(self._feeds)
