"""A lane: an endless source of packed rows, drawing from all datasets by token share.

Lane l of L visits positions l, l + L, l + 2L, … of every dataset's corpus, so lanes never meet and together
read every record once an epoch. All that a lane must remember is its state, a few integers.

Which dataset comes next: where documents are short (SHORT), the one that is due first after each document; where they
are not, each row is one dataset's turn (fm9g.data.stream.turns), for a row cannot be shared out better than its
documents can be cut. Lanes begin at different places of the same sequence of turns, so that together they read each
dataset's share from the first rows on. A document that is cut at the end of a row goes on when its dataset is due
again, which is at once or a few rows later. Where a document must not be cut and does not fit what is left of the row,
another of its dataset's window (fm9g.data.stream.window) takes the room, or one of the dataset that is due next.

A piece is never taken that would put its dataset too far ahead. Hence, in a lane, at any moment

    tokens(d) - share(d) * total  <=  LEAD_ROWS rows; where documents are short, min(the last document of d, a row)

and, since surpluses and deficits sum to zero, a dataset lags by at most that much of each of the others.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec
import numpy as np

from fm9g.data.example import Example, Ids
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.document import Document, Sequence, Skip
from fm9g.data.stream.fills import deal
from fm9g.data.stream.lane_state import NONE, LaneState
from fm9g.data.stream.order import unit_interval
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.stream.turns import GOLDEN, Turns
from fm9g.data.stream.window import Window
from fm9g.errors import UserError

MOST_SKIPS = 10_000  # unusable records in a row before a lane gives up on a dataset
LEAD_ROWS = 2
SHORT = 1 / 16  # of a row: documents that, on average, are no longer share out the rows themselves

Examples = dict[int, dict[int, Example | Skip]]
"""{task: {number in the lane: example}}."""


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Places first..last - 1 of a document, in a row; where it has one sequence, tokens first..last, the last a target
    only."""

    task: int
    document: Document
    first: int
    last: int

    @property
    def places(self) -> int:
        return self.last - self.first

    @property
    def sequences(self) -> list[tuple[int, Sequence, int, int]]:
        """(number, sequence, first, last) of each of the document's sequences, tokens as in a piece."""
        if len(self.document.sequences) == 1:
            return [(0, self.document.sequences[0], self.first, self.last)]
        assert self.places == self.document.places, "a document of several sequences is never cut"
        return [(part, sequence, 0, sequence.places) for part, sequence in enumerate(self.document.sequences)]


@dataclass
class Row:
    """Pieces that fill up to row_length places, and the documents begun and skipped on the way."""

    pieces: list[Piece] = field(default_factory=list)
    begun: dict[int, int] = field(default_factory=dict)  # {task: documents}
    skipped: list[tuple[int, Skip]] = field(default_factory=list)  # (task, why)


class Lane:
    """Packs rows of `row_length` places from `corpora`. A corpus's share is `corpus.entry.share`."""

    def __init__(
        self, number: int, lanes: int, corpora: list[Corpus], seed: int, row_length: int, prefetcher: Prefetcher
    ) -> None:
        self._number, self._row_length = number, row_length
        self._windows, self._prefetcher = [Window(corpus, number, lanes) for corpus in corpora], prefetcher
        self._last = {  # how many documents a row took of each corpus when it last took any; at first, a guess
            task: int(row_length / corpus.typical_places) for task, corpus in enumerate(corpora)
        }
        self._coming: tuple[Examples, Future[dict[int, Ids]]] | None = None  # and their tokens by task
        self._prepared = False
        self._offsets = [unit_interval(seed, corpus.entry.task_name, "turns") for corpus in corpora]
        self._begin_balance(0)

    def _begin_balance(self, rows: int) -> None:
        """Forget what was read: as if the lane had read its `rows` rows by turns of the corpora that are left.

        So lanes keep their places in the sequence of turns, in whichever row each of them begins anew.
        """
        self._set_turns(rows)
        expected = {} if self._short else self._turns.expected
        self._tokens = [expected.get(task, 0) for task in range(len(self._windows))]
        # lanes that fill up rows with the same dataset are not to do it all in the same rows
        for task, room in zip(self._turns.shares, self._dealt.rooms, strict=True):
            self._tokens[task] += round((self._number * GOLDEN % 1 - 0.5) * room)

    def _set_turns(self, rows: int) -> None:
        corpora = {
            task: window.corpus
            for task, window in enumerate(self._windows)
            if window.corpus.entry.share > 0 and not window.ended
        }
        whole = sum(corpus.entry.share for corpus in corpora.values())
        shares = {task: corpus.entry.share / whole for task, corpus in corpora.items()}
        self._typical = max((corpus.typical_places for corpus in corpora.values()), default=1.0)
        self._short = self._typical <= SHORT * self._row_length
        pilots = tuple(() if self._short else corpus.pilots for corpus in corpora.values())
        self._dealt = deal(pilots, tuple(shares.values()), self._row_length)
        self._turns = Turns(shares, self._dealt, self._offsets, self._number, rows)
        self._order: list[int] = []  # of the row that is being packed, if each is one dataset's turn

    def state(self) -> np.ndarray:
        """All this lane must remember: LaneState, packed."""
        windows = self._windows
        return LaneState(
            base=[window.base for window in windows],
            tokens=self._tokens,
            next_token=[window.next_token for window in windows],
            taken=[window.taken for window in windows],
            rows=self._turns.rows,
        ).pack()

    def load_state(self, values: np.ndarray) -> None:
        """Continue from a state."""
        state = LaneState.unpack(values)
        self._tokens = state.tokens
        for window, *place in zip(self._windows, state.base, state.next_token, state.taken, strict=True):
            window.load(*place)
        self._set_turns(state.rows)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to read."""
        return not self._turns.shares

    def prepare(self) -> None:
        """Read the examples that the next row is likely to take and have them tokenized; again only after that row."""
        if self._prepared:
            return
        order = self._due_order()
        # some more than last time; where documents are short, of every corpus that gives a row several
        counts = {task: self._last.get(task, 0) for task in (order if self._short else order[:1])}
        likely = {task: count + count // 4 + 1 for task, count in counts.items() if count > 1}
        likely |= {task: 1 for task in order[:1] if task not in likely}
        found = {task: some for task, count in likely.items() if (some := self._windows[task].examples(count))}
        self._coming = (found, self._prefetcher.tokenize(functools.partial(self._encoded, found))) if found else None
        self._prepared = True

    def _encoded(self, examples: Examples) -> dict[int, Ids]:
        """{task: token ids} of examples; called in another thread, which does what nobody else can do meanwhile."""
        return {task: self._windows[task].corpus.encoded(some.values()) for task, some in examples.items()}

    def _receive(self) -> None:
        """Wait for what was prepared."""
        if self._coming is not None:
            examples, coming = self._coming
            for task, ids in self._prefetcher.wait(coming).items():
                documents = self._windows[task].corpus.documents(examples[task].values(), ids)
                self._windows[task].know(dict(zip(examples[task], documents, strict=True)))
        self._coming, self._prepared = None, False

    def next_row(self) -> Row:
        """The next row: full, unless no document that may come next fits what is left of it, or nothing is left."""
        row, room = Row(), self._row_length
        self.prepare()
        self._receive()
        while room:
            task, slot = self._choose(room, row)
            if slot == NONE:
                break
            room -= self._take(task, slot, room, row)
        self._turns.advance()
        self._order = []
        self._last |= row.begun
        if depth := self._prefetcher.depth:  # what the next row is likely to take, and some more
            for task, window in enumerate(self._windows):
                self._prefetcher.want(window.coming(self._last.get(task, 0) + depth))
        return row

    def _take(self, task: int, slot: int, room: int, row: Row) -> int:
        """Put a piece of a window's document into a row; returns its size."""
        window = self._windows[task]
        document = window.document(slot)
        assert isinstance(document, Document)
        first = max(window.next_token, 0) if slot == 0 else 0
        if first == 0:
            row.begun[task] = row.begun.get(task, 0) + 1
        last = min(document.places, first + room)
        window.take(slot, last)
        row.pieces.append(Piece(task, document, first, last))
        self._tokens[task] += last - first
        self._restart_if_ended(task)
        return last - first

    def _due_order(self) -> list[int]:
        """The corpora in the order in which they are due."""
        if self._short:
            return self._turns.by_document(self._tokens, self._typical)
        if not self._order:
            self._order = self._turns.by_row(self._tokens)
        return self._order

    def _choose(self, room: int, row: Row) -> tuple[int, int]:
        """The corpus to take the next piece from and the place in its window.

        Both are NONE where nothing that may come next fits, or all corpora have ended.
        """
        skips = 0
        while order := self._due_order():
            waiting, total = False, sum(self._tokens)
            turn = NONE if self._short else order[0]
            for task in order:
                if self._skip(task, row):
                    skips += 1
                    self._check_skips(row, skips)
                    break
                slot, size = self._next_piece(task, room)
                lead = self._tokens[task] + size - self._turns.shares[task] * (total + size)
                if lead <= (LEAD_ROWS * self._row_length if task == turn else size):
                    if slot != NONE:
                        return task, slot
                    waiting = True
            else:
                if waiting:
                    break
                # the one furthest behind passes always, so that rounding cannot leave none
                task = min(order, key=lambda d: self._tokens[d] / self._turns.shares[d])
                return task, self._windows[task].fitting(room)
        return NONE, NONE

    def _next_piece(self, task: int, room: int) -> tuple[int, int]:
        """The place in its window of a corpus's next piece, or NONE where nothing fits, and how much that takes."""
        window = self._windows[task]
        slot = window.fitting(room)
        if slot <= 0:
            return slot, window.left if slot == NONE else min(window.left, room)
        document = window.document(slot)
        assert isinstance(document, Document)
        return slot, document.places

    def _skip(self, task: int, row: Row) -> bool:
        """Leave the next document of a corpus behind if it cannot be used."""
        why = self._windows[task].skip()
        if why is None:
            return False
        row.skipped.append((task, why))
        self._restart_if_ended(task)
        return True

    def _check_skips(self, row: Row, skips: int) -> None:
        if skips >= MOST_SKIPS:
            task, why = row.skipped[-1]
            raise UserError(
                f"dataset {self._windows[task].corpus.entry.task_name!r}: {skips} records in a row cannot be used "
                f"(the last one: {why.reason})"
            )

    def _restart_if_ended(self, task: int) -> None:
        """When a dataset ends, the others share its part anew: what it took is no debt of theirs."""
        if self._windows[task].ended:
            self._begin_balance(self._turns.rows)
