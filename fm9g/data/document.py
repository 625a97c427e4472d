"""A dataset as an endless line of documents, read by position.

Which record stands at which position is fm9g.data.order's. A document is BOS + input + output + EOS as tokens;
each token but the first is a target, and loss is on output and EOS only.
"""

from __future__ import annotations

import math
import random
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fm9g.data.index import DamagedRecord, IndexedDataset
from fm9g.data.mixture import Source
from fm9g.data.order import Generation, RecordOrder
from fm9g.data.tokenizer import Tokenizer
from fm9g.data.transform import NoText, Transform, apply_transform, load_transform, plain_text, quick_text
from fm9g.errors import UserError

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


@dataclass(frozen=True)
class Skip:
    """A record that gives no document, and why. `damaged` says that its bytes are not what they were."""

    record: int
    reason: str
    damaged: bool = False


Text = tuple[int, str, str]
"""A record's number, its input and its output."""


@dataclass
class Spent:
    """Seconds of the loader's own thread that went into making documents."""

    reading: float = 0.0  # and parsing
    transforming: float = 0.0
    tokenizing: float = 0.0


class DocumentLine:
    """The documents of one source, by position. `spent` adds up where the time goes."""

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer,
        seed: int,
        row_length: int,
        generations: Sequence[Generation] = (),
    ) -> None:
        self.source = source
        self.dataset = IndexedDataset(source.path)
        self.records = len(self.dataset)
        self._order = RecordOrder(generations or [Generation(0, self.records)], seed, source.task_name)
        self.end = math.inf if source.epochs is None else self._order.end(source.epochs)
        start, stop = self.dataset.span(0)[0], self.dataset.span(self.records - 1)[1]
        self.typical_pairs = max(1.0, (stop - start) / self.records / BYTES_PER_TOKEN)
        self._tokenizer, self._seed, self._row_length = tokenizer, seed, row_length
        self._transform = load_transform(source.transforms) if source.transforms else None
        self.spent = Spent()

    def record(self, position: int) -> int:
        """The record at a position of the line."""
        return self._order.record(position)

    def epochs(self, documents: int) -> float:
        """How many epochs so many documents are."""
        return self._order.epochs(documents)

    def document(self, position: int) -> Document | Skip:
        """The document at a position, or why there is none.

        UserError where the transform fails or the record has no fields for text: no other record will do better.
        """
        texts = self.texts([position])
        started = time.perf_counter()
        (document,) = self.documents(texts, self.encoded(texts))
        self.spent.tokenizing += time.perf_counter() - started
        return document

    def texts(self, positions: Iterable[int]) -> list[Text | Skip]:
        """What is to be tokenized at each position, or why there is nothing; raises as `document` does."""
        started, transforming = time.perf_counter(), self.spent.transforming
        texts = [self._text(position) for position in positions]
        self.spent.reading += time.perf_counter() - started - (self.spent.transforming - transforming)
        return texts

    def _text(self, position: int) -> Text | Skip:
        number = self._order.record(position)
        try:
            if self._transform is None:
                text = quick_text(self.dataset.read(number)) or plain_text(self.dataset.record(number))
            else:
                text = self._transformed(self._transform, number, position)
        except DamagedRecord as error:
            return Skip(number, str(error), damaged=True)
        except NoText as error:
            where = f"dataset {self.source.task_name!r}, record {number + 1} of {self.source.path}"
            raise UserError(f"{where}: {error}") from error.__cause__
        return number, *text

    def _transformed(self, transform: Transform, number: int, position: int) -> tuple[str, str]:
        record = self.dataset.record(number)
        started = time.perf_counter()
        generator = random.Random(f"{self._seed}/{self.source.task_name}/{position}")
        text = apply_transform(transform, record, generator)
        self.spent.transforming += time.perf_counter() - started
        return text

    def encoded(self, texts: Iterable[Text | Skip]) -> dict[str, list[int]]:
        """The token ids of all that texts hold; several at once are faster than one by one.

        It takes nearly all of the time, and other threads may call it.
        """
        strings = [string for text in texts if not isinstance(text, Skip) for string in text[1:] if string]
        return dict(zip(strings, self._tokenizer.encode_all(strings), strict=True))

    def documents(self, texts: Iterable[Text | Skip], ids: dict[str, list[int]]) -> list[Document | Skip]:
        """The documents of texts, from what `encoded` returned for them."""
        return [text if isinstance(text, Skip) else self._document(*text, ids) for text in texts]

    def _document(self, record: int, prompt: str, answer: str, ids: dict[str, list[int]]) -> Document | Skip:
        if not prompt and not answer:
            return Skip(record, "it is empty")
        head = [] if self._tokenizer.bos_id is None else [self._tokenizer.bos_id]
        head += ids.get(prompt, [])
        tokens = [*head, *ids.get(answer, []), self._tokenizer.eos_id]
        may_cut = not prompt and self.source.oversize_rule == "segment"
        if len(tokens) - 1 > self._row_length and not may_cut:
            if self.source.oversize_rule == "drop":
                return Skip(record, f"{len(tokens) - 1} tokens exceed max_length {self._row_length}")
            tokens = tokens[: self._row_length + 1]
        if len(tokens) < 2:  # an empty answer without BOS: its EOS follows nothing
            return Skip(record, "it has no tokens")
        return Document(record, _as_array(tokens), max(1, len(head)), may_cut)


def _as_array(tokens: list[int]) -> np.ndarray:
    """Tokens as int32; numpy's own ways are slower."""
    return np.frombuffer(struct.pack(f"{len(tokens)}i", *tokens), dtype=np.int32)
