"""Records of some datasets that other datasets hold too, found by the lengths and checksums in their indexes.

An index has 12 bytes of each record, so that what is compared is a hundredth of the data: of it only the records that
agree are read, and said to be the same where all their bytes are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fm9g.data.index.dataset import RECORD, DamagedRecord, IndexedDataset, load_records, peek

_RECORDS_AT_ONCE = 1 << 20
_SIEVE = 1 << 22  # places of a table that fits a cache, by the low bits of checksums


class Part(NamedTuple):
    """The first `records` records of a dataset, under a name."""

    name: str
    dataset: IndexedDataset
    records: int


class Shared(NamedTuple):
    """A record that is in two parts."""

    part: Part
    record: int
    other: Part
    other_record: int


def has_checksums(part: Part) -> bool:
    """Whether its records can be told from its index: folders of older builders have none."""
    return load_records(part.dataset.path, len(part.dataset)) is not None


def _keys(part: Part) -> Iterator[tuple[int, np.ndarray]]:
    """(first record, keys [n] uint64) of pieces of a part; a key is a record's length and its checksum."""
    values = load_records(part.dataset.path, len(part.dataset))
    assert values is not None, "asked for beforehand"
    previous = 0
    for start in range(0, part.records, _RECORDS_AT_ONCE):
        piece = peek(values, start, min(_RECORDS_AT_ONCE, part.records - start))
        lengths = np.diff(piece["end"], prepend=previous).astype(np.uint64)
        previous = int(piece["end"][-1])
        yield start, lengths << np.uint64(32) | piece["crc32c"]


class SharedRecords:
    """Of the records of `parts`, those that other parts hold too: `looked_for` of them, `found` after `look`."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = list(parts)
        keys = [np.concatenate([keys for _, keys in _keys(part)]) for part in self._parts]
        self._starts = np.cumsum([0, *map(len, keys)])  # of each part, among all records
        found = np.concatenate(keys)
        self._order = np.argsort(found, kind="stable")
        self._keys = found[self._order]
        self._sieve = np.zeros(_SIEVE, dtype=bool)
        self._sieve[self._keys % _SIEVE] = True
        self._done = np.zeros(len(found), dtype=bool)  # of the sorted ones, which are known to be shared
        self.looked_for, self.found = len(found), list[Shared]()

    def look(self, other: Part, advance: Callable[[int], None]) -> None:
        """Look through a part; `advance` is told of the bytes of its index as they are done."""
        for start, keys in _keys(other):
            sieved = np.flatnonzero(self._sieve[keys % _SIEVE])
            at = np.minimum(np.searchsorted(self._keys, keys[sieved]), len(self._keys) - 1)
            agree = (self._keys[at] == keys[sieved]) & ~self._done[at]
            # of records that agree with the same one, the first: that others than it are the same is beyond chance
            places, firsts = np.unique(at[agree], return_index=True)
            for place, record in zip(places.tolist(), sieved[agree][firsts].tolist(), strict=True):
                self._compare(place, other, start + record)
            advance(len(keys) * RECORD.itemsize)

    def _compare(self, place: int, other: Part, number: int) -> None:
        """Compare another part's record with those that have the key at `place`, the first of its equals."""
        with contextlib.suppress(DamagedRecord):  # such a record is left out wherever it is met
            line = other.dataset.read(number)
            for same in range(place, int(np.searchsorted(self._keys, self._keys[place], side="right"))):
                which = int(self._order[same])
                part = int(np.searchsorted(self._starts, which, side="right")) - 1
                record = which - int(self._starts[part])
                if not self._done[same] and self._parts[part].dataset.read(record) == line:
                    self._done[same] = True
                    self.found.append(Shared(self._parts[part], record, other, number))
