"""Documents: what of a record goes into rows, and with which targets.

    Part = text or token id -> Example = sequences of parts -> Document = sequences of tokens

Here is what holds for every format: what is cut, what is too long, and that no document is without a target.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgspec
import numpy as np

from fm9g.data.example import Example, Ids, Part


# Of these there are several for each document: see fm9g.data.example.
class Sequence(msgspec.Struct, frozen=True, gc=False):
    """`tokens` [n + 1] int32, of which all but the last take a place of a row, each with the next one as its target.

    Loss is on the tokens start..stop - 1 of `targets`, ranges in order that do not meet; 1 <= start < stop <= n + 1.
    `weights` [n + 1] float32: how much each counts there, None where all count alike.
    """

    tokens: np.ndarray
    targets: tuple[tuple[int, int], ...]
    weights: np.ndarray | None = None

    @property
    def places(self) -> int:
        """How many places of a row the sequence takes."""
        return len(self.tokens) - 1


class Document(msgspec.Struct, gc=False):
    """Sequences that belong together: of several, all are in one row, and none is ever cut.

    `lost`: the tokens at its end that a row has no room for; `short`: as of Example.
    """

    record: int
    sequences: tuple[Sequence, ...]
    may_cut: bool
    lost: int = 0
    short: int = 0
    places: int = 0  # of a row, that it takes: those of its sequences

    def __post_init__(self) -> None:
        places = 0
        for sequence in self.sequences:  # a sum of them takes three times as long
            places += len(sequence.tokens) - 1
        self.places = places


@dataclass(frozen=True)
class Skip:
    """A record that gives no document, and why. `damaged`: its bytes are not what they were; `long`: a row is too short
    for it."""

    record: int
    reason: str
    damaged: bool = False
    long: bool = False


def make_document(example: Example, ids: Ids, oversize_rule: str, row_length: int) -> Document | Skip:
    """The document of an example, or why there is none.

    `oversize_rule` is for documents of one sequence. Several that are too long together are skipped under any rule:
    they are to be compared, and of cut ones that would say nothing.
    """
    record, joined, places, lost = example.record, [], 0, 0
    for parts in example.sequences:
        if example.strings is not None:
            parts = _with_ends_once(record, parts, ids)
        tokens, ranges, learns = _join(record, parts, ids)
        if not learns:
            return Skip(record, "there is nothing in it to learn" if example.texts else "it is empty")
        joined.append((tokens, ranges, _weights(record, parts, ids)))
        places += len(tokens) - 1
    may_cut = example.may_cut and oversize_rule == "segment"
    if places > row_length and not may_cut:
        if len(joined) > 1:
            return Skip(
                record, f"{places} tokens of its {len(joined)} sequences exceed max_length {row_length}", long=True
            )
        if oversize_rule == "drop":
            return Skip(record, f"{places} tokens exceed max_length {row_length}", long=True)
        ((tokens, ranges, weights),) = joined
        if ranges and ranges[0][0] > row_length:
            reason = f"its input of {ranges[0][0]} tokens leaves no room for an output in max_length {row_length}"
            return Skip(record, reason, long=True)
        length = row_length + 1
        if oversize_rule == "segment" and (ends := _ends(record, example.sequences[0], ids)):
            length = max([end for end in ends if end <= length], default=0)
            if not _within(ranges, length):
                reason = f"of its {places} tokens, those of whole turns in max_length {row_length} have none to learn"
                return Skip(record, reason, long=True)
        lost = len(tokens) - length
        joined = [(tokens[:length], ranges, None if weights is None else weights[:length])]
    sequences = []
    for tokens, ranges, weights in joined:
        if len(tokens) < 2:  # an empty answer without BOS: its EOS follows nothing
            return Skip(record, "it has no tokens")
        targets = _within(ranges, len(tokens))
        if not targets:
            return Skip(record, "there is nothing in it to learn")
        sequences.append(Sequence(_as_array(tokens), targets, weights))
    return Document(record, tuple(sequences), may_cut, lost, example.short)


def _join(record: int, parts: tuple[Part, ...], ids: Ids) -> tuple[list[int], list[tuple[int, int]], bool]:
    """The tokens of parts, the ranges of them that are learned, and whether any text is."""
    tokens: list[int] = []
    ranges: list[tuple[int, int]] = []
    learning, learns, start = False, False, 0
    for part in parts:
        content = part.content
        if part.learned is not learning:
            if learning:
                _add_range(ranges, start, len(tokens))
            learning, start = part.learned, len(tokens)
        if isinstance(content, str):
            learns = learns or learning
            if part.spans:
                learns = True
                for first, stop in _learned_in(record, part, content, ids):
                    _add_range(ranges, len(tokens) + first, len(tokens) + stop)
            tokens += ids[record, content]
        else:
            tokens.append(content)
    if learning:
        _add_range(ranges, start, len(tokens))
    return tokens, ranges, learns


def _weights(record: int, parts: tuple[Part, ...], ids: Ids) -> np.ndarray | None:
    """How much each token of parts counts where it is learned; None where all count alike."""
    if not any(part.weights for part in parts):
        return None
    found: list[float] = []
    for part in parts:
        content = part.content
        size = len(ids[record, content]) if isinstance(content, str) else 1
        ranges = _learned_in(record, part, content, ids) if part.spans and isinstance(content, str) else [(0, size)]
        own = [1.0] * size
        for (start, stop), weight in zip(ranges, part.weights or [1.0] * len(ranges), strict=True):
            own[start:stop] = [weight] * (stop - start)
        found += own
    return np.array(found, dtype=np.float32)


def _learned_in(record: int, part: Part, text: str, ids: Ids) -> list[tuple[int, int]]:
    """The ranges of a text's tokens that its spans are: a bound is where the tokens of the text up to there and those
    of the whole are no longer the same."""
    whole = ids[record, text]

    def bound(at: int) -> int:
        if at in (0, len(text)):
            return len(whole) if at else 0
        beginning = ids[record, text[:at]]
        same = min(len(beginning), len(whole))
        while beginning[:same] != whole[:same]:
            same -= 1
        return same

    return [(bound(start), bound(stop)) for start, stop in part.spans]


def _ends(record: int, parts: tuple[Part, ...], ids: Ids) -> list[int]:
    """Up to where the tokens of parts go after which a document may be cut."""
    ends, length = [], 0
    for part in parts:
        length += len(ids[record, part.content]) if isinstance(part.content, str) else 1
        if part.ends:
            ends.append(length)
    return ends


def _add_range(ranges: list[tuple[int, int]], start: int, stop: int) -> None:
    """Add a range after others: it goes on with the last where they meet, and is none where it is empty."""
    if ranges and ranges[-1][1] == start:
        start = ranges.pop()[0]
    if start < stop:
        ranges.append((start, stop))


def _with_ends_once(record: int, parts: tuple[Part, ...], ids: Ids) -> tuple[Part, ...]:
    """Parts without a token before the first text or after the last that this spells already: a transform may have
    done so."""
    first, last = parts[0].content, parts[-1].content
    if not isinstance(last, str) and len(parts) > 1:
        before = parts[-2].content
        if isinstance(before, str) and ids[record, before][-1:] == [last]:
            parts = parts[:-1]
    if not isinstance(first, str):
        for part in parts[1:]:
            content = part.content
            if not isinstance(content, str):
                break
            if following := ids[record, content]:
                return parts[1:] if following[0] == first else parts
    return parts


def _within(ranges: list[tuple[int, int]], length: int) -> tuple[tuple[int, int], ...]:
    """Those of ranges that are targets of `length` tokens: the first token is none."""
    if ranges and ranges[0][0] >= 1 and ranges[-1][1] <= length:
        return tuple(ranges)
    clipped = [(max(start, 1), min(stop, length)) for start, stop in ranges]
    return tuple([(start, stop) for start, stop in clipped if start < stop])


def _as_array(tokens: list[int]) -> np.ndarray:
    """Tokens as int32; numpy's own ways are slower."""
    return np.frombuffer(struct.pack(f"{len(tokens)}i", *tokens), dtype=np.int32)
