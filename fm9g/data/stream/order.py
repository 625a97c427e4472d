"""The order in which a dataset's records are read: a keyed permutation that needs no memory, anew in each epoch.

Records that are appended to a dataset while a run goes on extend the epoch that was begun last: all its old records
keep their places, the new ones follow in an order of their own, and later epochs mix all.

Rounds of a multiplication by an odd number modulo 2^b, an addition and a shifted xor, each of them a bijection, permute
[0, 2^b), 2^b being the smallest power >= N; walking the cycles until a number below N comes up makes that a permutation
of [0, N) (Black & Rogaway, 2002). Five rounds pass the tests that shuffling passes (tests/data/stream/test_order.py).
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

ROUNDS = 5


def stable_hash(*parts: str | int) -> bytes:
    """32 bytes that depend on the parts alone: the same on every machine and Python."""
    return hashlib.sha256(_joined(parts)).digest()


def _joined(parts: Iterable[str | int]) -> bytes:
    return "\x1f".join(map(str, parts)).encode()


def unit_interval(*parts: str | int) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int.from_bytes(stable_hash(*parts)[:8], "little") / 2**64


class Permutation:
    """A bijection of [0, size), a function of `key` (any parts) alone."""

    def __init__(self, size: int, *key: str | int) -> None:
        self.size = size
        bits = max(1, (size - 1).bit_length())
        self._mask, self._shift = (1 << bits) - 1, (bits + 1) // 2
        words = hashlib.shake_256(_joined(key)).digest(16 * ROUNDS)
        numbers = [int.from_bytes(words[8 * i : 8 * i + 8], "little") & self._mask for i in range(2 * ROUNDS)]
        self._rounds = [(multiplier | 1, offset) for multiplier, offset in zip(*[iter(numbers)] * 2, strict=True)]

    def __call__(self, index: int) -> int:
        """The record at place `index`, 0 <= index < size."""
        assert 0 <= index < self.size
        mask, shift = self._mask, self._shift
        while True:
            for multiplier, offset in self._rounds:
                index = (index * multiplier + offset) & mask
                index ^= index >> shift
            if index < self.size:
                return index


@dataclass(frozen=True)
class Generation:
    """The dataset as it was from some epoch on: with `records` records, some of them new in that epoch."""

    epoch: int
    records: int


@dataclass(frozen=True)
class _Stretch:
    """Positions from `start` on: records first .. first + count - 1, in epoch `epoch` (and later ones, if the last)."""

    start: int
    first: int
    count: int
    epoch: int


class RecordOrder:
    """Which record stands at which position of a dataset's endless line.

    `generations` begins with Generation(0, n); a later Generation(e, m) says that records n .. m - 1 were appended
    when e was the last epoch begun.
    """

    def __init__(self, generations: Sequence[Generation], seed: int, name: str) -> None:
        assert generations[0].epoch == 0
        self._key = (seed, name)
        self._stretches = list(_stretches(generations))
        self._starts = [stretch.start for stretch in self._stretches]
        self._begin = self._end = self._first = 0  # the positions that _permutation is for, and its first record
        self._permutation = Permutation(1)

    def _place(self, position: int) -> tuple[_Stretch, int, int]:
        """(stretch, epoch, place in it) of a position."""
        stretch = self._stretches[bisect_right(self._starts, position) - 1]
        epochs, place = divmod(position - stretch.start, stretch.count)
        return stretch, stretch.epoch + epochs, place

    def record(self, position: int) -> int:
        """The record at a position."""
        if not self._begin <= position < self._end:
            self._turn_to(position)
        return self._first + self._permutation(position - self._begin)

    def _turn_to(self, position: int) -> None:
        stretch, epoch, place = self._place(position)
        part = (stretch.first,) if stretch.first else ()
        self._permutation = Permutation(stretch.count, *self._key, epoch, *part)
        self._begin, self._first = position - place, stretch.first
        self._end = self._begin + stretch.count

    def epoch(self, position: int) -> int:
        """The epoch that a position is in."""
        return self._place(position)[1]

    def epochs(self, documents: int) -> float:
        """How many epochs the first so many positions are."""
        epoch = self.epoch(documents)
        return epoch + (documents - self._start(epoch)) / (self._start(epoch + 1) - self._start(epoch))

    def end(self, epochs: float) -> int:
        """The position at which so many epochs are over."""
        whole, part = int(epochs), epochs - int(epochs)
        return self._start(whole) + math.ceil(part * (self._start(whole + 1) - self._start(whole)))

    def _start(self, epoch: int) -> int:
        """The first position of an epoch."""
        # a stretch that does not begin with record 0 is the end of the epoch before the next one
        stretch = next(s for s in reversed(self._stretches) if s.epoch <= epoch and s.first == 0)
        return stretch.start + (epoch - stretch.epoch) * stretch.count


def _stretches(generations: Sequence[Generation]) -> Iterator[_Stretch]:
    start, records, epoch = 0, generations[0].records, 0  # of the last stretch that holds whole epochs
    yield _Stretch(start, 0, records, epoch)
    for generation in generations[1:]:
        end = start + (generation.epoch + 1 - epoch) * records
        yield _Stretch(end, records, generation.records - records, generation.epoch)
        start, records, epoch = end + generation.records - records, generation.records, generation.epoch + 1
        yield _Stretch(start, 0, records, epoch)
