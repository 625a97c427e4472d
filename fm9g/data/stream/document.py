"""A dataset as an endless sequence of documents, read by position.

Which record stands at which position is fm9g.data.stream.order's. A document is BOS + input + output + EOS as tokens;
each token but the first is a target, and loss is on output and EOS only.

Where the mixture has it so (`special_tokens`), spellings of special tokens in the text are those tokens. But what a
record holds never begins or ends a document: of a record that spells BOS or EOS in any of its own strings, those that a
transform writes are plain text too, since from its output nobody can tell whose they are.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fm9g.commandline import command
from fm9g.data.index.dataset import DamagedRecord, IndexedDataset
from fm9g.data.record import NoText, plain_text, record_name
from fm9g.data.stream.mixture import MixtureEntry
from fm9g.data.stream.order import Generation, RecordOrder
from fm9g.data.stream.transform import Transform, all_strings, apply_transform, load_transform, quick_text
from fm9g.data.tokens.sample import spread
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.errors import UserError

_LOOKED_AT = 32  # records, where nobody has counted those without text
PILOTS = 32  # documents from whose sizes it is told how full rows will be
BYTES_PER_TOKEN = 4  # a rough scale for phases, never for accounting


@dataclass(frozen=True)
class Document:
    """`tokens` [n + 1]: n pairs of a token and its target. Targets before `first_target` carry no loss."""

    record: int
    tokens: np.ndarray
    first_target: int
    may_cut: bool

    @property
    def places(self) -> int:
        """How many places of a row the document takes."""
        return len(self.tokens) - 1


@dataclass(frozen=True)
class Skip:
    """A record that gives no document, and why. `damaged`: its bytes are not what they were; `long`: a row is too short
    for it."""

    record: int
    reason: str
    damaged: bool = False
    long: bool = False


class Text(NamedTuple):
    """What a record gives to be tokenized."""

    record: int
    prompt: str
    answer: str
    strings: tuple[str, ...] = ()  # of the record itself, where a transform may write BOS and EOS

    @property
    def parts(self) -> list[tuple[int, str]]:
        """(record, text) of input and output, if not empty: the keys of Ids."""
        return [(self.record, part) for part in (self.prompt, self.answer) if part]


Pilot = tuple[int, bool]
"""The places that a document takes, and whether it may be cut."""

Ids = dict[tuple[int, str], list[int]]
"""The token ids of texts, by record and text."""


@dataclass(frozen=True)
class SpecialCounts:
    """Spellings of special tokens in texts: how many are plain text, and how many are those tokens."""

    plain: int
    tokens: int


@dataclass
class Spent:
    """Seconds of the loader's own thread that went into making documents."""

    reading: float = 0.0  # and parsing
    transforming: float = 0.0
    tokenizing: float = 0.0


class Corpus:
    """The documents of one entry, by position. `spent` adds up where the time goes."""

    def __init__(
        self,
        entry: MixtureEntry,
        tokenizer: Tokenizer,
        seed: int,
        row_length: int,
        generations: Sequence[Generation] = (),
    ) -> None:
        self.entry = entry
        self.dataset = IndexedDataset(entry.path)
        self.records = len(self.dataset)
        self._order = RecordOrder(generations or [Generation(0, self.records)], seed, entry.task_name)
        self.end = math.inf if entry.epochs is None else self._order.end(entry.epochs)
        start, stop = self.dataset.span(0)[0], self.dataset.span(self.records - 1)[1]
        self.typical_places = max(1.0, (stop - start) / self.records / BYTES_PER_TOKEN)
        self._tokenizer, self._seed, self._row_length = tokenizer, seed, row_length
        self._transform = load_transform(entry.transforms) if entry.transforms else None
        self._written = Written.NONE
        if entry.special_tokens:
            self._written = Written.ALL if self._transform else Written.INNER
            for written in (self._written, Written.INNER):  # has what it takes made here, before processes are forked
                tokenizer.encode("", written)
        self.spent = Spent()

    def check_texts(self) -> None:
        """Refuse a dataset whose records have nothing to learn and may not be skipped.

        Its builder has counted them; where it did not look (--no-validation, older ones), a few records are read here.
        """
        entry, meta = self.entry, self.dataset.meta
        without = meta.get("records_without_text")
        if without is None:
            return self._check_some_texts()
        allowed = entry.skip_unlearned and without < self.records
        if self._transform or not entry.share or not without or allowed:
            return
        first, fields = meta.get("first_record_without_text"), next(iter(meta.get("fields_without_text", {})), "")
        advice = "; ".join(meta.get("unread_texts", [])) or "give the dataset a transform"
        raise UserError(
            f"dataset {entry.task_name!r} ({entry.path}): {without:,} of {self.records:,} records have no text to "
            'learn in "output"'
            + (f", the first is {record_name(first - 1)}" if isinstance(first, int) else "")
            + (f" (fields: {fields})" if fields else "")
            + f": {advice}"
            + ("" if without == self.records else ", or skip them with skip_unlearned: true in the mixture")
        )

    def _check_some_texts(self) -> None:
        if self._transform or not self.entry.share or self.entry.skip_unlearned:
            return
        for number in spread(self.records, _LOOKED_AT):
            try:
                plain_text(self.dataset.record(number))
            except DamagedRecord:
                continue  # max_damaged_share is for those
            except NoText as error:
                where = f"dataset {self.entry.task_name!r} ({self.entry.path}): {record_name(number)}"
                raise UserError(
                    f"{where}: {error}; such records were not counted when it was built ({command('check')} "
                    f"{self.entry.path} does): give the dataset a transform, or skip them with skip_unlearned: true "
                    "in the mixture"
                ) from None

    def record(self, position: int) -> int:
        """The record at a position of the corpus."""
        return self._order.record(position)

    def epochs(self, documents: int) -> float:
        """How many epochs so many documents are."""
        return self._order.epochs(documents)

    @functools.cached_property
    def pilots(self) -> tuple[Pilot, ...]:
        """The first documents of the corpus, of those that are any; () where all may be cut, and so fill any row."""
        texts: list[Text | Skip] = []
        for position in range(PILOTS):
            with contextlib.suppress(UserError):  # of a transform: it is raised when the record is met
                texts += self.texts([position])
        if self.entry.oversize_rule == "segment" and not any(isinstance(text, Text) and text.prompt for text in texts):
            return ()
        return pilots_of(self.documents(texts, self.encoded(texts)))

    def document(self, position: int) -> Document | Skip:
        """The document at a position, or why there is none.

        UserError where the transform fails: other records will do no better.
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
                return Text(number, *(quick_text(self.dataset.read(number)) or plain_text(self.dataset.record(number))))
            return self._transformed(self._transform, number, position)
        except DamagedRecord as error:
            return Skip(number, str(error), damaged=True)
        except NoText as error:
            if self._transform is None:  # a run asks at its start whether those that the index counts may be skipped
                return Skip(number, str(error))
            where = f"dataset {self.entry.task_name!r}, {record_name(number)} of {self.entry.path}"
            raise UserError(f"{where}: {error}") from error.__cause__

    def _transformed(self, transform: Transform, number: int, position: int) -> Text:
        record = self.dataset.record(number)
        started = time.perf_counter()
        strings = all_strings(record) if self._written is Written.ALL else ()  # before the transform changes it
        generator = random.Random(f"{self._seed}/{self.entry.task_name}/{position}")
        text = apply_transform(transform, record, generator)
        self.spent.transforming += time.perf_counter() - started
        return Text(number, *text, strings)

    def encoded(self, texts: Iterable[Text | Skip]) -> Ids:
        """The token ids of all that texts hold; several at once are faster than one by one.

        It takes nearly all of the time, and other threads may call it.
        """
        found = [text for text in texts if not isinstance(text, Skip)]
        ids = self._ids(found, self._written)
        if self._written is Written.ALL:
            ends = [text for text in found if self._has_ends(ids[part] for part in text.parts)]
            own = [text for text in ends if self._has_ends(self._tokenizer.encode_all(text.strings, Written.ALL))]
            if own:
                ids.update(self._ids(own, Written.INNER))
        return ids

    def _ids(self, texts: Iterable[Text], written: Written) -> Ids:
        parts = [part for text in texts for part in text.parts]
        return dict(zip(parts, self._tokenizer.encode_all([text for _, text in parts], written), strict=True))

    def _has_ends(self, texts: Iterable[list[int]]) -> bool:
        """Whether BOS or EOS is among the ids of texts."""
        return any(self._tokenizer.eos_id in ids or self._tokenizer.bos_id in ids for ids in texts)

    def special_counts(self, texts: Iterable[Text | Skip]) -> SpecialCounts:
        """What became of the spellings of special tokens in texts."""
        found = [text for text in texts if not isinstance(text, Skip)]
        given, spelled = self.encoded(found), self._ids(found, Written.ALL)
        count = self._tokenizer.count_special
        tokens = sum(count(given[part]) for text in found for part in text.parts)
        return SpecialCounts(sum(count(spelled[part]) for text in found for part in text.parts) - tokens, tokens)

    def documents(self, texts: Iterable[Text | Skip], ids: Ids) -> list[Document | Skip]:
        """The documents of texts, from what `encoded` returned for them."""
        return [text if isinstance(text, Skip) else self._document(text, ids) for text in texts]

    def _document(self, text: Text, ids: Ids) -> Document | Skip:
        record, prompt, answer, _ = text
        if not answer:
            return Skip(record, "there is nothing in it to learn" if prompt else "it is empty")
        bos, eos = self._tokenizer.bos_id, self._tokenizer.eos_id
        head, body = ids.get((record, prompt), []), ids.get((record, answer), [])
        # a transform may have written them itself
        head = head if bos is None or (head or body)[:1] == [bos] else [bos, *head]
        tokens = [*head, *body] if body[-1:] == [eos] else [*head, *body, eos]
        may_cut = not prompt and self.entry.oversize_rule == "segment"
        if len(tokens) - 1 > self._row_length and not may_cut:
            if self.entry.oversize_rule == "drop":
                return Skip(record, f"{len(tokens) - 1} tokens exceed max_length {self._row_length}", long=True)
            tokens = tokens[: self._row_length + 1]
            if len(head) >= len(tokens):
                reason = (
                    f"its input of {len(head)} tokens leaves no room for an output in max_length {self._row_length}"
                )
                return Skip(record, reason, long=True)
        if len(tokens) < 2:  # an empty answer without BOS: its EOS follows nothing
            return Skip(record, "it has no tokens")
        return Document(record, _as_array(tokens), max(1, len(head)), may_cut)


def pilots_of(documents: Iterable[Document | Skip]) -> tuple[Pilot, ...]:
    """The sizes of documents, and whether they may be cut."""
    return tuple((found.places, found.may_cut) for found in documents if isinstance(found, Document))


def _as_array(tokens: list[int]) -> np.ndarray:
    """Tokens as int32; numpy's own ways are slower."""
    return np.frombuffer(struct.pack(f"{len(tokens)}i", *tokens), dtype=np.int32)
