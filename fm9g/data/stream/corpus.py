"""A dataset as an endless sequence of documents, read by position.

    record -> Example (its format's parts) -> token ids -> Document

Which record stands at which position is fm9g.data.stream.order's, what a record gives fm9g.data.stream.record_formats',
and what becomes of that fm9g.data.stream.document's.

Where the mixture has it so (`special_tokens`), spellings of special tokens in the text are those tokens. But what a
record holds never begins or ends a document: of a record that spells BOS or EOS in any of its own strings, those that a
transform writes are plain text too, since from its output nobody can tell whose they are.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from fm9g.commandline import command
from fm9g.data.chat.render import ANSWERS_ALONE, Learned, Renderer
from fm9g.data.example import Example, Ids
from fm9g.data.index.dataset import DamagedRecord, IndexedDataset
from fm9g.data.record import NoText, record_name
from fm9g.data.stream.document import Document, Skip, make_document
from fm9g.data.stream.mixture import MixtureEntry
from fm9g.data.stream.order import Generation, RecordOrder
from fm9g.data.stream.record_formats import RECORD_FORMATS, TEXT, Reading, text_example
from fm9g.data.stream.transform import Transform, all_strings, apply_transform, load_transform
from fm9g.data.stream.view import WHOLE, View
from fm9g.data.tokens.sample import spread
from fm9g.data.tokens.special import Written
from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.errors import UserError

_LOOKED_AT = 32  # records, where nobody has counted those without text
PILOTS = 32  # documents from whose sizes it is told how full rows will be
PART = "part"  # the reading rule of a corpus that is not all of its dataset
BYTES_PER_TOKEN = 4  # a rough scale for phases, never for accounting

Pilot = tuple[int, bool]
"""The places that a document takes, and whether it may be cut."""


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
    """The documents of one entry, by position; forked processes may share one. `spent` adds up where the time goes.

    `generations`: the dataset as a run began with it, and as it was each time that records had been appended since;
    all records of today where nothing is said.
    """

    def __init__(
        self,
        entry: MixtureEntry,
        tokenizer: Tokenizer,
        seed: int,
        row_length: int,
        generations: Sequence[Generation] = (),
        dataset: IndexedDataset | None = None,
        learned: Learned = ANSWERS_ALONE,
        view: View = WHOLE,
    ) -> None:
        """`dataset`: that of the entry, where it is open already; `learned`: what is, of conversations; `view`: the
        part of the records that is read. UserError where that holds none."""
        self.entry = entry
        self.dataset = dataset or IndexedDataset(entry.path)
        self.records, self._view = view.count(len(self.dataset)), view
        if not self.records:
            raise UserError(
                f"dataset {entry.task_name!r} ({entry.path}): of its {len(self.dataset):,} records none is in the part "
                "that is asked for (validation_split, max_train_samples, max_eval_samples)"
            )
        self.generations = tuple(generations) or (Generation(0, self.records),)
        self._order = RecordOrder(self.generations, seed, entry.task_name)
        self.end = math.inf if entry.epochs is None else self._order.end(entry.epochs)
        start, stop = self.dataset.span(0)[0], self.dataset.span(len(self.dataset) - 1)[1]
        self.typical_places = max(1.0, (stop - start) / len(self.dataset) / BYTES_PER_TOKEN)
        self._tokenizer, self._seed, self._row_length = tokenizer, seed, row_length
        self._format = RECORD_FORMATS[entry.format]
        self.renderer = Renderer(entry.template, tokenizer, learned) if self._format.template else None
        self._reading, self._learned = Reading(tokenizer, self.renderer), learned
        self._encode = self.renderer.encode_all if self.renderer else tokenizer.encode_all
        self._transform = load_transform(entry.transforms) if entry.transforms else None
        self._transforms = sha256(entry.transforms.read_bytes()).hexdigest()[:16] if entry.transforms else None
        self._written = Written.NONE
        if entry.special_tokens:
            self._written = Written.ALL if self._transform else Written.INNER
        for written in {self._written, Written.INNER} if entry.special_tokens else {self._written}:
            self._encode([""], written)  # has what it takes made here, before processes are forked
        self.spent = Spent()

    @property
    def reading_rules(self) -> dict[str, Any]:
        """What, besides its records and the tokenizer, decides about its documents."""
        entry = self.entry
        rules = {
            "format": entry.format,
            "special_tokens": entry.special_tokens,
            "oversize_rule": entry.oversize_rule,
            "transforms": self._transforms,
        }
        if self._view != WHOLE:
            rules[PART] = [len(self._view.places), self._view.limit]
        return rules | self.renderer.rules if self.renderer else rules

    @property
    def nbytes(self) -> float:
        """The bytes of the records that are read, by their share of all."""
        return self.dataset.nbytes * self.records / len(self.dataset)

    def viewed(self, view: View, entry: MixtureEntry) -> Corpus:
        """Another part of the same dataset, not opened again, as `entry` has it."""
        return Corpus(
            entry, self._tokenizer, self._seed, self._row_length, dataset=self.dataset, learned=self._learned, view=view
        )

    def continued(self, generations: Sequence[Generation]) -> Corpus:
        """The same dataset, not opened again, in the order of a run that has seen these generations of it."""
        if tuple(generations) == self.generations:
            return self
        return Corpus(
            self.entry,
            self._tokenizer,
            self._seed,
            self._row_length,
            generations,
            self.dataset,
            self._learned,
            self._view,
        )

    def check_texts(self) -> None:
        """Refuse a dataset whose records have nothing to learn and may not be skipped.

        Its builder has counted them; where it did not look (--no-validation, older ones; records of other formats than
        text), a few records are read here.
        """
        entry, meta = self.entry, self.dataset.meta
        without = meta.get("records_without_text")
        if without is None or entry.format != TEXT:
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
        if self._transform or not self.entry.share:
            return
        looked_at, endless, without = 0, 0, list[str]()
        for number in map(self._view.record, spread(self.records, _LOOKED_AT)):
            with contextlib.suppress(DamagedRecord):  # max_damaged_share is for those
                record = self.dataset.record(number)
                looked_at += 1
                try:
                    endless += _is_endless(self._format.example(number, record, self._reading))
                except NoText as error:
                    without.append(f"{record_name(number)}: {error}")
        if endless:
            print(
                f"warning: dataset {self.entry.task_name!r}: answers end in no token with the template "
                f"{self.entry.template}: a model does not learn from them to stop",
                file=sys.stderr,
            )
        if not without or (self.entry.skip_unlearned and len(without) < looked_at):
            return
        where = f"dataset {self.entry.task_name!r} ({self.entry.path}): {without[0]}"
        if self.entry.skip_unlearned:
            raise UserError(f"{where}; none of {looked_at} records that were looked at is any better")
        told = self.entry.format == TEXT
        counted = f" ({command('check')} {self.entry.path} does): give the dataset a transform" if told else ""
        raise UserError(
            f"{where}; such records were not counted when it was built{counted}"
            f"{', or' if told else ': mend them, or'} skip them with skip_unlearned: true in the mixture"
        )

    def record(self, position: int) -> int:
        """The record at a position of the corpus."""
        return self._view.record(self._order.record(position))

    def epochs(self, documents: int) -> float:
        """How many epochs so many documents are."""
        return self._order.epochs(documents)

    @functools.cached_property
    def pilots(self) -> tuple[Pilot, ...]:
        """The first documents of the corpus, of those that are any; () where all may be cut, and so fill any row."""
        examples: list[Example | Skip] = []
        for position in range(PILOTS):
            with contextlib.suppress(UserError):  # of a transform: it is raised when the record is met
                examples += self.examples([position])
        if self.entry.oversize_rule == "segment" and all(isinstance(e, Skip) or e.may_cut for e in examples):
            return ()
        return pilots_of(self.documents(examples, self.encoded(examples)))

    def document(self, position: int) -> Document | Skip:
        """The document at a position, or why there is none.

        UserError where the transform fails: other records will do no better.
        """
        examples = self.examples([position])
        started = time.perf_counter()
        (document,) = self.documents(examples, self.encoded(examples))
        self.spent.tokenizing += time.perf_counter() - started
        return document

    def examples(self, positions: Iterable[int]) -> list[Example | Skip]:
        """What is to be tokenized at each position, or why there is nothing; raises as `document` does."""
        started, transforming = time.perf_counter(), self.spent.transforming
        examples = [self._example(position) for position in positions]
        self.spent.reading += time.perf_counter() - started - (self.spent.transforming - transforming)
        return examples

    def _example(self, position: int) -> Example | Skip:
        number = self.record(position)
        try:
            if self._transform is None:
                return self._read(number)
            return self._transformed(self._transform, number, position)
        except DamagedRecord as error:
            return Skip(number, str(error), damaged=True)
        except NoText as error:
            if self._transform is None:  # a run asks at its start whether those that the index counts may be skipped
                return Skip(number, str(error))
            where = f"dataset {self.entry.task_name!r}, {record_name(number)} of {self.entry.path}"
            raise UserError(f"{where}: {error}") from error.__cause__

    def _read(self, number: int) -> Example:
        if self._format.quick is not None:
            found = self._format.quick(number, self.dataset.read(number), self._reading)
            if found is not None:
                return found
        return self._format.example(number, self.dataset.record(number), self._reading)

    def _transformed(self, transform: Transform, number: int, position: int) -> Example:
        record = self.dataset.record(number)
        started = time.perf_counter()
        strings = all_strings(record) if self._written is Written.ALL else None  # before the transform changes it
        generator = random.Random(f"{self._seed}/{self.entry.task_name}/{position}")
        prompt, answer = apply_transform(transform, record, generator)
        self.spent.transforming += time.perf_counter() - started
        return text_example(number, prompt, answer, self._tokenizer, strings)

    def encoded(self, examples: Iterable[Example | Skip]) -> Ids:
        """The token ids of all texts of examples; several at once are faster than one by one.

        It takes nearly all of the time, and other threads may call it.
        """
        found = [example for example in examples if not isinstance(example, Skip)]
        ids = self._ids(found, self._written)
        if self._written is Written.ALL:
            ends = [example for example in found if self._has_ends(ids[text] for text in example.texts)]
            own = [
                example
                for example in ends
                if example.strings and self._has_ends(self._tokenizer.encode_all(example.strings, Written.ALL))
            ]
            if own:
                ids.update(self._ids(own, Written.INNER))
        return ids

    def _ids(self, examples: Sequence[Example], written: Written) -> Ids:
        texts = [text for example in examples for text in example.texts]
        texts += [(example.record, text) for example in examples if example.beginnings for text in example.beginnings]
        return dict(zip(texts, self._encode([text for _, text in texts], written), strict=True))

    def _has_ends(self, texts: Iterable[list[int]]) -> bool:
        """Whether BOS or EOS is among the ids of texts."""
        return any(self._tokenizer.eos_id in ids or self._tokenizer.bos_id in ids for ids in texts)

    def special_counts(self, examples: Iterable[Example | Skip]) -> SpecialCounts:
        """What became of the spellings of special tokens in the texts of examples."""
        found = [example for example in examples if not isinstance(example, Skip)]
        given, spelled = self.encoded(found), self._ids(found, Written.ALL)
        count = self._tokenizer.count_special
        tokens = sum(count(given[text]) for example in found for text in example.texts)
        return SpecialCounts(sum(count(spelled[text]) for example in found for text in example.texts) - tokens, tokens)

    def documents(self, examples: Iterable[Example | Skip], ids: Ids) -> list[Document | Skip]:
        """The documents of examples, from what `encoded` returned for them."""
        rule, length = self.entry.oversize_rule, self._row_length
        return [
            example if isinstance(example, Skip) else make_document(example, ids, rule, length) for example in examples
        ]


def _is_endless(example: Example) -> bool:
    """Whether a conversation has answers, and none that ends in a token."""
    ends = [part.content for sequence in example.sequences for part in sequence if part.ends]
    return bool(ends) and all(isinstance(content, str) for content in ends)


def open_corpora(
    entries: Iterable[MixtureEntry],
    tokenizer: Tokenizer,
    seed: int,
    row_length: int,
    learned: Learned = ANSWERS_ALONE,
    view: View = WHOLE,
) -> list[Corpus]:
    """The corpora of a mixture, that part of each; UserError for what is wrong with a dataset, a transform or a
    template."""
    return [Corpus(entry, tokenizer, seed, row_length, learned=learned, view=view) for entry in entries]


def pilots_of(documents: Iterable[Document | Skip]) -> tuple[Pilot, ...]:
    """The sizes of documents, and whether they may be cut."""
    return tuple((found.places, found.may_cut) for found in documents if isinstance(found, Document))
