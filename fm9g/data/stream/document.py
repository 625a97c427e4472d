"""Documents: what of a record goes into rows, and with which targets.

    Part = text or token id -> Example = sequences of parts -> Document = sequences of tokens

Here is what holds for every format: what is cut, what is too long, and that no document is without a target.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Part(NamedTuple):
    """A text, or the id of a token that no text can spell; `learned`: with loss."""

    content: str | int
    learned: bool


class Example(NamedTuple):
    """What a record gives to be tokenized: sequences of parts without empty texts.

    `may_cut`: one sequence that may go on in another row; `strings`: all of the record itself, where a transform may
    write BOS and EOS.
    """

    record: int
    sequences: tuple[tuple[Part, ...], ...]
    may_cut: bool = False
    strings: tuple[str, ...] = ()

    @property
    def texts(self) -> list[tuple[int, str]]:
        """(record, text) of each text: the keys of Ids."""
        return [
            (self.record, content) for sequence in self.sequences for content, _ in sequence if isinstance(content, str)
        ]


Ids = dict[tuple[int, str], list[int]]
"""The token ids of texts, by record and text."""


class Sequence(NamedTuple):
    """`tokens` [n + 1] int32, of which all but the last take a place of a row, each with the next one as its target.

    Loss is on the tokens start..stop - 1 of `targets`, ranges in order that do not meet; 1 <= start < stop <= n + 1.
    """

    tokens: np.ndarray
    targets: tuple[tuple[int, int], ...]

    @property
    def places(self) -> int:
        """How many places of a row the sequence takes."""
        return len(self.tokens) - 1


@dataclass(frozen=True)
class Document:
    """Sequences that belong together: of several, all are in one row, and none is ever cut."""

    record: int
    sequences: tuple[Sequence, ...]
    may_cut: bool

    @functools.cached_property
    def places(self) -> int:
        """How many places of a row the document takes."""
        return sum([len(sequence.tokens) - 1 for sequence in self.sequences])


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
    record = example.record
    joined = []
    for parts in example.sequences:
        if not any(learned and isinstance(content, str) for content, learned in parts):
            return Skip(record, "there is nothing in it to learn" if example.texts else "it is empty")
        joined.append(_join(record, parts, ids))
    may_cut = example.may_cut and oversize_rule == "segment"
    places = sum([len(tokens) - 1 for tokens, _ in joined])
    if places > row_length and not may_cut:
        if len(joined) > 1:
            return Skip(
                record, f"{places} tokens of its {len(joined)} sequences exceed max_length {row_length}", long=True
            )
        if oversize_rule == "drop":
            return Skip(record, f"{places} tokens exceed max_length {row_length}", long=True)
        ((tokens, ranges),) = joined
        if ranges and ranges[0][0] > row_length:
            reason = f"its input of {ranges[0][0]} tokens leaves no room for an output in max_length {row_length}"
            return Skip(record, reason, long=True)
        joined = [(tokens[: row_length + 1], ranges)]
    sequences = []
    for tokens, ranges in joined:
        if len(tokens) < 2:  # an empty answer without BOS: its EOS follows nothing
            return Skip(record, "it has no tokens")
        targets = _within(ranges, len(tokens))
        if not targets:
            return Skip(record, "there is nothing in it to learn")
        sequences.append(Sequence(_as_array(tokens), targets))
    return Document(record, tuple(sequences), may_cut)


def _join(record: int, parts: tuple[Part, ...], ids: Ids) -> tuple[list[int], list[tuple[int, int]]]:
    """The tokens of parts, and the ranges of them that are learned."""
    tokens: list[int] = []
    ranges: list[tuple[int, int]] = []
    pieces = [ids[record, content] if isinstance(content, str) else [content] for content, _ in parts]
    _write_ends_once(parts, pieces)
    for (_, learned), piece in zip(parts, pieces, strict=True):
        start = len(tokens)
        tokens += piece
        if learned and piece:
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, len(tokens)))
    return tokens, ranges


def _write_ends_once(parts: tuple[Part, ...], pieces: list[list[int]]) -> None:
    """Drop a token before the first text or after the last that this spells already: a transform may have done so."""
    if len(parts) > 1 and pieces[-2][-1:] == pieces[-1] and _is_token(parts[-1]) and not _is_token(parts[-2]):
        pieces[-1] = []
    if _is_token(parts[0]):
        for part, piece in zip(parts[1:], pieces[1:], strict=True):
            if piece:
                if piece[0] == parts[0].content and not _is_token(part):
                    pieces[0] = []
                break


def _is_token(part: Part) -> bool:
    return isinstance(part.content, int)


def _within(ranges: list[tuple[int, int]], length: int) -> tuple[tuple[int, int], ...]:
    """Those of ranges that are targets of `length` tokens: the first token is none."""
    if ranges and ranges[0][0] >= 1 and ranges[-1][1] <= length:
        return tuple(ranges)
    clipped = [(max(start, 1), min(stop, length)) for start, stop in ranges]
    return tuple([(start, stop) for start, stop in clipped if start < stop])


def _as_array(tokens: list[int]) -> np.ndarray:
    """Tokens as int32; numpy's own ways are slower."""
    return np.frombuffer(struct.pack(f"{len(tokens)}i", *tokens), dtype=np.int32)
