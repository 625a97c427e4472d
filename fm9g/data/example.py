"""What a record gives to be tokenized: sequences of parts, texts and tokens in order, each learned or not."""

from __future__ import annotations

import msgspec


# Of the following there are several for each document. They are made in a third of the time of tuples with names, and
# the garbage collector, which they do not need, has no work with them.
class Part(msgspec.Struct, frozen=True, gc=False):
    """A text, or the id of a token that no text can spell; `learned`: with loss.

    `spans`: the characters start..stop - 1 of a text that is learned in part; a token of characters on both sides of a
    bound is on the side after it. `ends`: what is too long may be cut after this part. `weights`: of the spans, or of
    the whole that is learned, in the loss; () where each is 1. `short`: so many learned answers begin in it of which a
    template leaves out something.
    """

    content: str | int
    learned: bool
    spans: tuple[tuple[int, int], ...] = ()
    ends: bool = False
    weights: tuple[float, ...] = ()
    short: int = 0


class Example(msgspec.Struct, frozen=True, gc=False):
    """What a record gives to be tokenized: sequences of parts without empty texts.

    `may_cut`: one sequence that may go on in another row; `strings`: all of the record itself, where a transform may
    have written BOS and EOS; `beginnings`: those of texts up to each bound of a span; `short`: how many answers lack
    something that they have in the record.
    """

    record: int
    sequences: tuple[tuple[Part, ...], ...]
    may_cut: bool = False
    strings: tuple[str, ...] | None = None
    beginnings: tuple[str, ...] = ()
    short: int = 0

    @property
    def texts(self) -> list[tuple[int, str]]:
        """(record, text) of each text: the keys of Ids, which need those of `beginnings` too."""
        record = self.record
        return [
            (record, content)
            for sequence in self.sequences
            for part in sequence
            if isinstance(content := part.content, str)
        ]


Ids = dict[tuple[int, str], list[int]]
"""The token ids of texts, by record and text."""
