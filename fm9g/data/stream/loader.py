"""Packed batches of a rank, step by step, with the state after each of them.

    mixture -> Corpus of each dataset -> Lane (rows) -> StepBatch (all rows of a rank's step)

Row k of step t comes from lane (t mod 16) * G + k, G rows a step; k = (micro * ranks + rank) * batch_size + i. So
which rank and which worker reads a lane changes nothing in what it yields: lanes are dealt to ranks by k and
to workers by t mod 16. A StepBatch carries the states of the lanes it came from; the loader keeps those of
the batches it has handed out, so what it saves is what was consumed and never what was prefetched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fm9g import signals
from fm9g.data.stream.corpus import Corpus
from fm9g.data.stream.document import Skip
from fm9g.data.stream.lane import Lane, Row
from fm9g.data.stream.lane_state import LaneState
from fm9g.data.stream.prefetch import Prefetcher
from fm9g.data.stream.strip import Strip, make_strip, row_digest
from fm9g.errors import UserError

STREAM_RULES = 5
"""Raise it with any change of what the rows of a stream are: the order of records, whose turn it is, how they are
packed, a text's ids. A checkpoint made under other rules is refused, where it would lose and repeat records."""
LANES_PER_ROW = 16


@dataclass(frozen=True)
class Plan:
    """What fixes the sequence of rows, and this rank's part of it."""

    seed: int
    row_length: int
    batch_size: int
    grad_accum: int
    rank: int = 0
    ranks: int = 1

    @property
    def rows_per_step(self) -> int:
        return self.ranks * self.batch_size * self.grad_accum

    @property
    def lanes(self) -> int:
        return LANES_PER_ROW * self.rows_per_step

    def lanes_of_step(self, step: int) -> list[int]:
        """This rank's lanes at a step, in the order of its rows."""
        first = step % LANES_PER_ROW * self.rows_per_step
        return [
            first + (micro * self.ranks + self.rank) * self.batch_size + i
            for micro in range(self.grad_accum)
            for i in range(self.batch_size)
        ]

    def lanes_of_rank(self) -> list[int]:
        """All lanes that this rank reads."""
        return [lane for step in range(LANES_PER_ROW) for lane in self.lanes_of_step(step)]


@dataclass
class Work:
    """What a StepBatch took to make, in the process `process` (the rank's own or one of its workers)."""

    process: int = 0
    seconds: float = 0.0
    reading: float = 0.0
    transforming: float = 0.0
    tokenizing: float = 0.0  # and waiting for threads that do
    retries: int = 0  # reads tried again, since the process began
    memory_bytes: int = 0  # resident


@dataclass
class StepBatch:
    """All micro-steps of a rank's step, and what must be remembered after it."""

    step: int
    strips: list[Strip]
    documents: list[int]  # begun in this step, by task
    tokens: list[int]  # places filled in this step, by task
    skipped: list[tuple[int, Skip]]  # (task, why)
    records: list[tuple[int, int]] = field(default_factory=list)  # (task, record) of each piece
    short: list[int] = field(default_factory=list)  # answers of those begun of which a template leaves out something
    lane_states: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))  # [rows, state size]
    exhausted: list[bool] = field(default_factory=list)  # of these lanes, which have nothing left
    row_digests: bytes = b""  # 32 bytes a row
    work: Work = field(default_factory=lambda: Work())


def step_batch(step: int, rows: list[Row], corpora: list[Corpus], batch_size: int, row_length: int) -> StepBatch:
    """A step's rows, `batch_size` of them a strip; where they came from is still to be said."""
    documents, tokens, short = ([0] * len(corpora) for _ in range(3))
    for row in rows:
        for task, count in row.begun.items():
            documents[task] += count
        for piece in row.pieces:
            tokens[piece.task] += piece.places
            short[piece.task] += piece.document.short if piece.first == 0 else 0
    strips = [make_strip(rows[i : i + batch_size], row_length) for i in range(0, len(rows), batch_size)]
    skipped = [skip for row in rows for skip in row.skipped]
    records = [(piece.task, piece.document.record) for row in rows for piece in row.pieces]
    return StepBatch(step, strips, documents, tokens, skipped, records, short)


class StepStream(IterableDataset):  # type: ignore[type-arg]
    """The steps of a rank, or those of one of its workers.

    `corpora` are opened with the seed and the row length of `plan`; `states` are those of the lanes that go on. A
    UserError is yielded and not raised, since a DataLoader would wrap it in the worker's traceback.
    """

    def __init__(
        self,
        plan: Plan,
        corpora: list[Corpus],
        steps: range,
        states: dict[int, np.ndarray],
        prefetcher: Prefetcher,
    ) -> None:
        self.plan, self.corpora, self.steps = plan, corpora, steps
        self._names = [corpus.entry.task_name for corpus in corpora]
        self.states, self._prefetcher = states, prefetcher
        self._lanes: dict[int, Lane] = {}

    def __iter__(self) -> Iterator[StepBatch | UserError]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        # the DataLoader asks its workers in turn, the first one first, wherever the run starts
        mine = self.steps[worker::workers]
        for step, following in zip_longest(mine, mine[1:]):
            try:
                batch: StepBatch | UserError = self.step(step, following)
            except UserError as error:
                batch = error
            yield batch

    def _lane(self, number: int) -> Lane:
        if number not in self._lanes:
            plan = self.plan
            lane = Lane(number, plan.lanes, self.corpora, plan.seed, plan.row_length, self._prefetcher)
            if number in self.states:
                lane.load_state(self.states[number])
            self._lanes[number] = lane
        return self._lanes[number]

    def exhausted_lanes(self) -> dict[int, bool]:
        """Which of this rank's lanes have nothing left at the start."""
        return {number: self._lane(number).exhausted for number in self.plan.lanes_of_rank()}

    def _lanes_of(self, step: int) -> list[Lane]:
        return [self._lane(number) for number in self.plan.lanes_of_step(step)]

    def step(self, step: int, following: int | None = None) -> StepBatch:
        """Read this rank's rows of a step; `following` is the one that is asked for next, to be prepared meanwhile."""
        before = self._spent(), time.perf_counter()
        lanes = self._lanes_of(step)
        for lane in lanes if following is None else [*lanes, *self._lanes_of(following)]:
            lane.prepare()
        rows = [lane.next_row() for lane in lanes]
        self._prefetcher.start()
        batch = step_batch(step, rows, self.corpora, self.plan.batch_size, self.plan.row_length)
        batch.lane_states = np.stack([lane.state() for lane in lanes])
        batch.exhausted = [lane.exhausted for lane in lanes]
        batch.row_digests = b"".join(row_digest(row, self._names) for row in rows)
        batch.work = self._work(*before)
        return batch

    def _spent(self) -> np.ndarray:
        """Seconds of reading, transforming and tokenizing so far."""
        spent = [corpus.spent for corpus in self.corpora]
        total = np.array([[s.reading, s.transforming, s.tokenizing] for s in spent]).sum(axis=0)
        total[2] += self._prefetcher.waited
        return total

    def _work(self, before: np.ndarray, started: float) -> Work:
        reading, transforming, tokenizing = (self._spent() - before).tolist()
        return Work(
            process=os.getpid(),
            seconds=time.perf_counter() - started,
            reading=reading,
            transforming=transforming,
            tokenizing=tokenizing,
            retries=sum(corpus.dataset.retries for corpus in self.corpora),
            memory_bytes=_resident_bytes(),
        )


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _serve(worker: int) -> None:
    signals.serve()


class Loader:
    """Iterates over a rank's StepBatches of `steps`, and knows the state after those it has yielded."""

    def __init__(self, stream: StepStream, workers: int, prefetch: int) -> None:
        self.stream = stream
        self.states = dict(stream.states)
        self._exhausted = stream.exhausted_lanes()
        # a lane belongs to one worker, which must divide the 16 steps after which it comes again
        self.workers = 1 << (min(workers, LANES_PER_ROW).bit_length() - 1) if workers else 0
        self._batches = DataLoader(
            stream,
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=prefetch if self.workers else None,
            multiprocessing_context="fork" if self.workers else None,
            worker_init_fn=_serve,
            generator=torch.Generator(),  # else it draws from the one that a resumed run has just restored
        )

    def __iter__(self) -> Iterator[StepBatch]:
        for batch in self._batches:
            if isinstance(batch, UserError):
                raise batch
            numbers = self.stream.plan.lanes_of_step(batch.step)
            self.states.update(zip(numbers, batch.lane_states, strict=True))
            self._exhausted.update(zip(numbers, batch.exhausted, strict=True))
            yield batch

    @property
    def exhausted(self) -> bool:
        """Whether none of this rank's lanes has anything left after the batches yielded."""
        return all(self._exhausted.values())

    def state_dict(self) -> dict[str, Tensor]:
        """{lanes [n] int64, states [n, state size] int64} of this rank's lanes that were read."""
        mine = sorted(set(self.states) & set(self.stream.plan.lanes_of_rank()))
        size = LaneState.size(len(self.stream.corpora))
        states = np.stack([self.states[number] for number in mine]) if mine else np.zeros((0, size), dtype=np.int64)
        return {"lanes": torch.tensor(mine, dtype=torch.int64), "states": torch.from_numpy(states)}
