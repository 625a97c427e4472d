"""A dataset as an endless line of documents, read by position.

Position p is record perm(epoch, p mod N) of epoch p div N. A document is BOS + input + output + EOS as tokens;
each token but the first is a target, and loss is on output and EOS only.
"""

from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fm9g.data.index import IndexedDataset
from fm9g.data.mixture import Source
from fm9g.data.order import Permutation
from fm9g.data.tokenizer import Tokenizer
from fm9g.data.transform import apply_transform, load_transform

BYTES_PER_TOKEN = 4  # a rough scale for phases, never for accounting


@dataclass(frozen=True)
class Document:
    """`tokens` [n + 1]: n pairs of a token and its target. Targets before `first_target` carry no loss."""

    record: int
    tokens: np.ndarray
    first_target: int
    may_cut: bool

    @property
    def pairs(self) -> int:
        """How many places of a row the document takes."""
        return len(self.tokens) - 1


class DocumentLine:
    """The documents of one source, by position."""

    def __init__(self, source: Source, tokenizer: Tokenizer, seed: int, row_length: int) -> None:
        self.source = source
        self.dataset = IndexedDataset(source.path)
        self.records = len(self.dataset)
        self.end = math.inf if source.epochs is None else math.ceil(source.epochs * self.records)
        start, stop = self.dataset.span(0)[0], self.dataset.span(self.records - 1)[1]
        self.typical_pairs = max(1.0, (stop - start) / self.records / BYTES_PER_TOKEN)
        self._tokenizer, self._seed, self._row_length = tokenizer, seed, row_length
        self._transform = load_transform(source.transforms)
        self._permutation: tuple[int, Permutation] = (-1, Permutation(1))

    def record(self, position: int) -> int:
        """The record at a position of the line."""
        epoch, place = divmod(position, self.records)
        if self._permutation[0] != epoch:
            self._permutation = epoch, Permutation(self.records, self._seed, self.source.task_name, epoch)
        return self._permutation[1](place)

    def document(self, position: int) -> Document | None:
        """The document at a position, or None where it is too long and the rule is to drop it."""
        record = self.record(position)
        where = f"dataset {self.source.task_name!r}, record {record + 1} of {self.source.path}"
        generator = random.Random(f"{self._seed}/{self.source.task_name}/{position}")
        text = apply_transform(self._transform, self.dataset.record(record), generator, where)
        return self._tokenized(record, *text)

    def _tokenized(self, record: int, prompt: str, answer: str) -> Document | None:
        tokenizer = self._tokenizer
        head = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        if prompt:
            head += tokenizer.encode(prompt)
        tokens = [*head, *tokenizer.encode(answer), tokenizer.eos_id]
        may_cut = not prompt and self.source.oversize_rule == "segment"
        if len(tokens) - 1 > self._row_length and not may_cut:
            if self.source.oversize_rule == "drop":
                return None
            tokens = tokens[: self._row_length + 1]
        if len(tokens) < 2:  # an empty answer without BOS: its EOS follows nothing
            return None
        return Document(record, np.asarray(tokens, dtype=np.int32), max(1, len(head)), may_cut)


class ReadAhead:
    """Has records that will soon be read brought into the page cache by a few threads."""

    def __init__(self, threads: int, depth: int) -> None:
        self._threads, self.depth = threads, depth if threads else 0
        self._pool: ThreadPoolExecutor | None = None

    def will_need(self, line: DocumentLine, position: int) -> None:
        """Ask for the record at `position`; returns at once."""
        if position >= line.end:
            return
        if self._pool is None:  # made here, since threads do not survive a fork
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="fm9g-read")
        self._pool.submit(line.dataset.will_need, line.record(position))
