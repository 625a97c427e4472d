"""The first rows of a mixture as training would read them, with the records they come from.

The loader of training gives the tokens and targets of each row, but not where they are from. Lanes of our own, walked
in step with it, say which records a row is made of; each row is compared with the loader's, so that what is shown is
what a model gets. (That reads everything twice, which shows a transform that draws chance from elsewhere than its `r`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from fm9g.data.record import record_name
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.lane import Lane, Row
from fm9g.data.stream.loader import Loader, Plan, StepBatch, StepStream
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.stream.strip import IGNORED, row_digest
from fm9g.data.tokens.tokenizer import Tokenizer
from fm9g.display import Span
from fm9g.errors import UserError


@dataclass(frozen=True)
class ShownPiece:
    """Tokens first..last (inclusive) of a document's sequence of `length` tokens; the first is no target here."""

    task: int
    record: int  # from 0
    sequence: int  # which of its document's, from 0
    sequences: int  # how many it has
    first: int
    last: int
    length: int
    is_head: bool  # the document is the head of one that is too long for a row
    with_loss: int  # tokens that are targets with loss
    weights: tuple[float, ...]  # the different ones that these have, ascending; () where all count alike
    spans: list[Span]  # the decoded text: "plain" with loss, "dim" without


@dataclass(frozen=True)
class ShownRow:
    """Row `number` of a step, in the order of the run, and who reads it."""

    step: int
    number: int
    rank: int
    micro: int
    pieces: list[ShownPiece]
    filled: int  # places; the rest of the row is padding


@dataclass
class Totals:
    """What has been read so far; lists have an entry for each dataset."""

    steps: int = 0
    rows: int = 0
    places: int = 0
    with_loss: int = 0
    tokens: list[int] = field(default_factory=list)  # places filled
    documents: list[int] = field(default_factory=list)  # whose first piece was in a row
    records: list[set[int]] = field(default_factory=list)  # seen, by number
    short: list[int] = field(default_factory=list)  # answers of which a template leaves out something
    skipped: list[list[str]] = field(default_factory=list)  # why records gave nothing, one after another

    @property
    def filled(self) -> int:
        """Places that are not padding."""
        return sum(self.tokens)


class Preview:
    """Steps 0 to `steps` - 1 of a run on `ranks` ranks, all their rows, in this process.

    UserError for what is wrong with datasets or transforms.
    """

    def __init__(self, corpora: list[Corpus], tokenizer: Tokenizer, plan: Plan, steps: int) -> None:
        """`corpora` are opened with `tokenizer`, and with the seed and the row length of `plan`, that of any rank."""
        self.entries, self.plan = [corpus.entry for corpus in corpora], plan
        self._tokenizer = tokenizer
        # ranks are but a part of the batch: one rank that reads all their rows reads them in the same order
        whole = Plan(plan.seed, plan.row_length, plan.batch_size * plan.ranks, plan.grad_accum)
        stream = StepStream(whole, corpora, range(steps), {}, Prefetcher(0, 0))
        self._whole, self._loader, self._corpora = whole, Loader(stream, 0, 1), corpora
        for corpus in corpora:
            corpus.check_texts()
        self._lanes: dict[int, Lane] = {}
        count = len(corpora)
        self.totals = Totals(
            tokens=[0] * count,
            documents=[0] * count,
            records=[set() for _ in corpora],
            short=[0] * count,
            skipped=[[] for _ in corpora],
        )
        self.ended = False  # whether the datasets came to their end

    def __iter__(self) -> Iterator[list[ShownRow]]:
        """The rows of each step; it ends early where the datasets do."""
        for batch in self._loader:
            rows = [self._lane(number).next_row() for number in self._whole.lanes_of_step(batch.step)]
            self._compare(batch, rows)
            yield self._count(batch, rows)
            if self._loader.exhausted:
                self.ended = True
                return

    def _lane(self, number: int) -> Lane:
        if number not in self._lanes:
            plan, idle = self._whole, Prefetcher(0, 0)
            self._lanes[number] = Lane(number, plan.lanes, self._corpora, plan.seed, plan.row_length, idle)
        return self._lanes[number]

    def _compare(self, batch: StepBatch, rows: list[Row]) -> None:
        """UserError unless our lanes and the loader have read the same."""
        names = [entry.task_name for entry in self.entries]
        digests = b"".join(row_digest(row, names) for row in rows)
        length = self._whole.row_length
        same = digests == batch.row_digests
        for number, row in enumerate(rows if same else []):
            tokens = _places(batch, number, self._whole, "tokens")
            found = [sequence for piece in row.pieces for sequence in piece.sequences]
            read = [sequence.tokens[first:last] for _, sequence, first, last in found]
            filled = np.concatenate(read) if read else np.zeros(0, dtype=np.int32)
            same = same and np.array_equal(tokens, np.pad(filled, (0, length - len(filled))))
        if not same:
            suspects = [repr(entry.task_name) for entry in self.entries if entry.transforms]
            assert suspects, "the preview's lanes differ from the loader's"
            raise UserError(
                f"step {batch.step}: read twice, the rows differ: a transform (that of {' or '.join(suspects)}) draws "
                "chance from elsewhere than its third argument, so a resumed run would not see the same text"
            )

    def _count(self, batch: StepBatch, rows: list[Row]) -> list[ShownRow]:
        """Make the rows ready for display, and add them to the totals."""
        totals, plan = self.totals, self.plan
        totals.steps += 1
        totals.rows += len(rows)
        totals.places += len(rows) * plan.row_length
        for task in range(len(self.entries)):
            totals.tokens[task] += batch.tokens[task]
            totals.short[task] += batch.short[task]
        for task, skip in batch.skipped:
            totals.skipped[task].append(f"{record_name(skip.record)}: {skip.reason}")
        found = []
        for number, row in enumerate(rows):
            micro, within = divmod(number, plan.ranks * plan.batch_size)
            pieces = self._pieces(row, _places(batch, number, self._whole, "targets"))
            for piece in pieces:
                totals.records[piece.task].add(piece.record)
                totals.documents[piece.task] += piece.first == 0 and piece.sequence == 0
                totals.with_loss += piece.with_loss
            filled = sum(piece.places for piece in row.pieces)
            found.append(ShownRow(batch.step, number, within // plan.batch_size, micro, pieces, filled))
        return found

    def _pieces(self, row: Row, targets: np.ndarray) -> list[ShownPiece]:
        shown, place = [], 0
        for piece in row.pieces:
            for number, sequence, first, last in piece.sequences:
                tokens = sequence.tokens[first : last + 1].tolist()
                loss = [False, *(targets[place : place + last - first] != IGNORED).tolist()]
                weights = () if sequence.weights is None else np.unique(sequence.weights[first : last + 1][loss])
                shown.append(
                    ShownPiece(
                        task=piece.task,
                        record=piece.document.record,
                        sequence=number,
                        sequences=len(piece.document.sequences),
                        first=first,
                        last=last,
                        length=len(sequence.tokens),
                        is_head=piece.document.lost > 0,
                        with_loss=sum(loss),
                        weights=tuple(map(float, weights)),
                        spans=decode_spans(tokens, loss, self._tokenizer, first == 0),
                    )
                )
                place += last - first
        return shown


def _places(batch: StepBatch, number: int, plan: Plan, name: str) -> np.ndarray:
    """The tokens or targets of a row, [row_length] int32."""
    strip, row = divmod(number, plan.batch_size)
    return getattr(batch.strips[strip], name)[row * plan.row_length : (row + 1) * plan.row_length].numpy()


def decode_spans(tokens: Sequence[int], loss: Sequence[bool], tokenizer: Tokenizer, begins: bool) -> list[Span]:
    """The text of tokens in runs with and without loss; special tokens, which are no text, as ‹BOS›, ‹EOS›, ‹<|user|>›.

    `begins`: the first token is a document's first, which tells BOS from EOS where both are one token.
    """
    names = [_special_name(token, begins and i == 0, tokenizer) for i, token in enumerate(tokens)]
    spans: list[Span] = []
    start, text_start = 0, -1
    for (name, has_loss), run in groupby(zip(names, loss, strict=True)):
        end = start + len(list(run))
        if name:
            text, text_start = name * (end - start), -1
        else:
            text_start = start if text_start < 0 else text_start
            text = _decode_after(tokens, text_start, start, end, tokenizer)
        style = "plain" if has_loss else "dim"
        if spans and spans[-1].style == style:
            text = spans.pop().text + text
        spans.append(Span(text, style))
        start = end
    return spans


def _special_name(token: int, is_first: bool, tokenizer: Tokenizer) -> str:
    if token == tokenizer.bos_id and (is_first or token != tokenizer.eos_id):
        return "‹BOS›"
    if token == tokenizer.eos_id:
        return "‹EOS›"
    return f"‹{tokenizer.special[token]}›" if token in tokenizer.special else ""


def _decode_after(tokens: Sequence[int], text_start: int, start: int, end: int, tokenizer: Tokenizer) -> str:
    """The text of tokens start..end as it follows that of text_start..start: decoded alone it could lose a space."""
    before, whole = tokenizer.decode(tokens[text_start:start]), tokenizer.decode(tokens[text_start:end])
    # a character whose bytes are in both parts belongs to neither
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(tokens[start:end])
