"""A lane's place in one dataset: which documents of the corpus are done, and which comes next.

A lane goes through its positions of a corpus in order, except that a document that must not be cut and does not fit
what is left of a row may wait while another of the next WINDOW does. The first one waiting goes at the start of a row
at the latest, so none waits for long. What must be remembered is where the window begins and which documents in
it are taken.
"""

from __future__ import annotations

from fm9g.data.example import Example
from fm9g.data.index.dataset import IndexedDataset
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.document import Document, Skip
from fm9g.data.stream.lane_state import NONE

WINDOW = 32  # enough to fill 98 % of a row of four average documents; a mask of so many bits fits the state


class Window:
    """The documents of `corpus` at positions lane, lane + lanes, lane + 2 * lanes, …

    `base` counts the documents done before the window, `taken` is a mask of those done within it (bit 0, the head,
    never is), `next_token` is where the head goes on that has been begun, or NONE.
    """

    def __init__(self, corpus: Corpus, lane: int, lanes: int) -> None:
        self.corpus, self._lane, self._lanes = corpus, lane, lanes
        self.base = self.taken = 0
        self._asked = 0  # how many of the lane's documents of this corpus `coming` has named, or are done
        self.next_token = NONE
        self._known: dict[int, Document | Skip] = {}  # by their number in the lane; few more than the window

    def load(self, base: int, next_token: int, taken: int) -> None:
        """Continue from a state."""
        self.base, self.next_token, self.taken = base, next_token, taken
        self._known.clear()

    @property
    def ended(self) -> bool:
        """Whether nothing is left to read."""
        return self._position(0) >= self.corpus.end

    def _position(self, slot: int) -> int:
        return self._lane + (self.base + slot) * self._lanes

    def document(self, slot: int) -> Document | Skip:
        """The document in a place of the window, 0 the head."""
        known = self._known.get(self.base + slot)
        if known is None:
            known = self._known[self.base + slot] = self.corpus.document(self._position(slot))
        return known

    def examples(self, count: int) -> dict[int, Example | Skip]:
        """{number in the lane: example} of those of the next `count` documents that are not known."""
        slots = [
            slot
            for slot in range(count)
            if not self.taken >> slot & 1
            and self.base + slot not in self._known
            and self._position(slot) < self.corpus.end
        ]
        examples = self.corpus.examples(map(self._position, slots))
        return {self.base + slot: example for slot, example in zip(slots, examples, strict=True)}

    def know(self, documents: dict[int, Document | Skip]) -> None:
        """Keep documents, by their number in the lane, that are still to come."""
        self._known.update(documents)

    def coming(self, count: int) -> list[tuple[IndexedDataset, int]]:
        """(dataset, record) of the next `count` documents, but for those named before."""
        first, self._asked = max(self.base, self._asked), max(self.base + count, self._asked)
        positions = [self._lane + place * self._lanes for place in range(first, self._asked)]
        return [
            (self.corpus.dataset, self.corpus.record(position)) for position in positions if position < self.corpus.end
        ]

    def head(self) -> Document:
        """The document at the window's start, after unusable ones were skipped."""
        document = self.document(0)
        assert isinstance(document, Document)
        return document

    @property
    def left(self) -> int:
        """How many places what is left of the head takes."""
        return self.head().places - max(self.next_token, 0)

    def fitting(self, room: int) -> int:
        """The place in the window of the document to take into `room` places, or NONE where none fits.

        The head, if it fits or may be cut; else the largest that fits.
        """
        if self.head().may_cut or self.left <= room:
            return 0
        best, size = NONE, 0
        for slot in range(1, WINDOW):
            if self._position(slot) >= self.corpus.end:
                break
            if not self.taken >> slot & 1:
                document = self.document(slot)
                if isinstance(document, Document) and size < document.places <= room:
                    best, size = slot, document.places
        return best

    def take(self, slot: int, last: int) -> None:
        """Note that the document in a place of the window is done up to its token `last`."""
        document = self.document(slot)
        assert isinstance(document, Document)
        if last == document.places:
            self._leave(slot)
        else:
            assert slot == 0, "only the head is cut"
            self.next_token = last

    def skip(self) -> Skip | None:
        """Leave the head behind if it cannot be used, and return why; None if it can."""
        head = self.document(0)
        if isinstance(head, Document):
            return None
        self._leave(0)
        return head

    def _leave(self, slot: int) -> None:
        self._known.pop(self.base + slot)
        self.taken |= 1 << slot
        if slot == 0:
            self.next_token = NONE
        while self.taken & 1:
            self.taken >>= 1
            self.base += 1
