"""Datasets that are lists of sizes, for lanes to be tried without files or tokenizers; and streams over real ones."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fm9g.data.stream.corpus import PILOTS, Pilot, open_corpora, pilots_of
from fm9g.data.stream.document import Document, Sequence, Skip
from fm9g.data.stream.lane import Lane
from fm9g.data.stream.loader import Plan, StepStream
from fm9g.data.stream.mixture import MixtureEntry
from fm9g.data.stream.order import Permutation
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.tokens.tokenizer import load_tokenizer

OFF = Prefetcher(0, 0)


def open_stream(
    plan: Plan,
    entries: list[MixtureEntry],
    tokenizer: Path | str,
    steps: range,
    states: dict[int, np.ndarray] | None = None,
    prefetcher: Prefetcher = OFF,
) -> StepStream:
    """The steps of a plan's rank, over datasets opened for it."""
    corpora = open_corpora(entries, load_tokenizer(tokenizer), plan.seed, plan.row_length)
    return StepStream(plan, corpora, steps, states or {}, prefetcher)


class SizedCorpus:
    """A Corpus without files: record i takes sizes[i] places; size 0 stands for one that is dropped."""

    def __init__(
        self, name: str, share: float, sizes: list[int], may_cut: bool = True, epochs: float | None = None
    ) -> None:
        self.entry = MixtureEntry(name, None, share, None, True, "segment", epochs, {})
        self.sizes, self.may_cut, self.records = sizes, may_cut, len(sizes)
        self.end = math.inf if epochs is None else math.ceil(epochs * self.records)
        self.typical_places = max(1.0, sum(sizes) / len(sizes))
        self.dataset = f"dataset of {name}"
        self._order = functools.lru_cache(4)(lambda epoch: Permutation(self.records, name, epoch))

    @functools.cached_property
    def pilots(self) -> tuple[Pilot, ...]:
        return () if self.may_cut else pilots_of(self.document(position) for position in range(PILOTS))

    def record(self, position: int) -> int:
        epoch, place = divmod(position, self.records)
        return self._order(epoch)(place)

    def document(self, position: int) -> Document | Skip:
        record = self.record(position)
        size = self.sizes[record]
        if not size:
            return Skip(record, "it is empty")
        sequence = Sequence(np.full(size + 1, record, dtype=np.int32), ((1, size + 1),))
        return Document(record, (sequence,), self.may_cut)

    def examples(self, positions: Iterable[int]) -> list[Document | Skip]:
        return [self.document(position) for position in positions]

    def encoded(self, examples: Iterable[Document | Skip]) -> dict[str, list[int]]:
        return {}

    def documents(self, examples: Iterable[Document | Skip], ids: dict[str, list[int]]) -> list[Document | Skip]:
        return list(examples)


def sizes(mean: float, spread: str, seed: int, most: int | None = None, count: int = 500) -> list[int]:
    """Sizes of documents: `same`, `geometric`, or `heavy` tailed (of a few hundred the largest is 20 means or more)."""
    chance = random.Random(f"{seed}/{mean}/{spread}")
    drawn = {
        "same": lambda: mean,
        "geometric": lambda: chance.expovariate(1 / mean),
        "heavy": lambda: mean * chance.lognormvariate(-1.0, math.sqrt(2)),
    }[spread]
    return [min(max(1, round(drawn())), most or 10**9) for _ in range(count)]


def tokens_by_step(corpora: list[SizedCorpus], rows_per_step: int, steps: int, seed: int, row: int) -> np.ndarray:
    """[steps, datasets]: the tokens of each dataset in each step of a run."""
    lanes = [Lane(number, 16 * rows_per_step, corpora, seed, row, OFF) for number in range(16 * rows_per_step)]  # type: ignore[arg-type]
    tokens = np.zeros((steps, len(corpora)))
    for step in range(steps):
        first = step % 16 * rows_per_step
        for lane in lanes[first : first + rows_per_step]:
            for piece in lane.next_row().pieces:
                tokens[step, piece.task] += piece.places
    return tokens


def deviations(tokens: np.ndarray, shares: list[float], window: int) -> np.ndarray:
    """[windows, datasets]: what each dataset's share of the tokens in each `window` steps in a row is too much."""
    sums = np.cumsum(np.vstack([np.zeros(len(shares)), tokens]), axis=0)
    inside = sums[window:] - sums[:-window]
    return inside / inside.sum(axis=1, keepdims=True) - np.array(shares)
