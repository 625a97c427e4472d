"""The indexed dataset: a folder from which any record of a jsonl file is read by its number.

    data.jsonl   one JSON object a line, UTF-8
    index.h5     where the lines begin and end: HDF5 dataset "index"; and where each record ends with its CRC-32C
                 (without the newline) beside it, so that one read brings both: HDF5 dataset "records", absent in
                 folders of other builders. They are read in place where they lie contiguous
    index        the same offsets as text, used where index.h5 is missing
    meta.json    language, nlines, nbytes, … and xxh3_128, the digest of data.jsonl

Offsets are bounds: the first is 0 and record i is [bounds[i], bounds[i + 1]). Older builders wrote only where
each record ends, so their first offset is not 0. Both are brought to one form here, `ends`: record i ends at
ends[i] and begins where record i - 1 ended. Opening looks at a few samples however large the data is.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import google_crc32c
import h5py
import numpy as np

from fm9g.commandline import command
from fm9g.data.index.reading import SteadyFile
from fm9g.data.record import read_record, record_name
from fm9g.errors import UserError
from fm9g.files import read_json, require_file

DATA, INDEX_H5, INDEX_TEXT, META = "data.jsonl", "index.h5", "index", "meta.json"
RECORDS = "records"  # in index.h5
RECORD = np.dtype([("end", "<i8"), ("crc32c", "<u4")])
DIGEST = "xxh3_128"  # in meta.json
_FULL_CHECK = 1 << 20  # up to so many records every bound is looked at on opening, beyond it samples
_NEWLINES = 4096  # in a fully checked dataset, how many bounds are compared with the data
_SAMPLES = 64
_WINDOW = 1024  # bounds looked at in a sample
_HELD_BYTES = 1 << 20  # of an index, at most: that of 87,000 records
REBUILD = f"rebuild it with: {command('index')} --path X.jsonl --language zh|en|code --output DIR"


class DamagedRecord(UserError):
    """A record whose bytes are not what was indexed; the message says where it lies and what is wrong."""


class IndexedDataset:
    """An open indexed dataset. Threads and forked workers may share one; a pickled copy opens the folder anew.

    Raises UserError for a folder that is not a complete, consistent dataset, naming what is wrong and what to do.
    `meta` is the content of meta.json ({} in an old folder that has none), `nbytes` the size of data.jsonl.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).absolute()
        self.meta = load_meta(self.path)
        ends, index_file, _ = load_ends(self.path)
        self._data = SteadyFile(self.path / DATA)
        self.nbytes = self._data.size()
        check_totals(self.path, self.meta, ends, self.nbytes)
        records = load_records(self.path, len(ends))
        self._column = Column(ends if records is None else records)
        self._check_bounds(ends)
        _check_times(self.path, index_file)

    def __len__(self) -> int:
        return self._column.count

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.fingerprint)

    @property
    def retries(self) -> int:
        """How many reads were tried again in this process since the folder was opened."""
        return self._data.retries + self._column.retries

    def span(self, i: int) -> tuple[int, int]:
        """Byte offsets in data.jsonl where record i begins and ends (its newline included)."""
        return self._column.entry(i)[:2]

    def read(self, i: int) -> bytes:
        """The bytes of record i as they are in the file, without the newline; DamagedRecord if they have changed."""
        start, end, checksum = self._column.entry(i)
        raw = self._data.read(end - start, start)
        if len(raw) != end - start:
            raise self._damaged(i, start, f"the file was cut short: the record ends at byte {end}")
        raw = raw[:-1] if raw.endswith(b"\n") else raw
        if checksum is not None and google_crc32c.value(raw) != checksum:
            raise self._damaged(i, start, "its bytes have changed since it was indexed (CRC-32C)")
        return raw

    def record(self, i: int) -> dict[str, Any]:
        """Record i, parsed; DamagedRecord names file, line and byte where it is malformed."""
        raw = self.read(i)
        try:
            return read_record(raw)
        except ValueError as error:
            raise self._damaged(i, self.span(i)[0], str(error)) from None

    def _damaged(self, i: int, start: int, reason: str) -> DamagedRecord:
        return DamagedRecord(f"{self.path / DATA}, {record_name(i)}, byte {start}: {reason}")

    def will_need(self, i: int) -> None:
        """Tell the kernel that record i is read soon, so that it fetches it in the background."""
        start, end = self.span(i)
        self._data.will_need(end - start, start)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hex string that tells this data from other data: its digest as the builder stored it.

        Old folders have none; for them it is a digest of the sizes and of some blocks spread over the data.
        """
        if stored := _stored_digest(self.meta):
            return stored
        digest = hashlib.sha256(f"{len(self)} {self.nbytes}".encode())
        for offset in _spread(self.nbytes, _SAMPLES):
            digest.update(self._data.read(4096, offset))
        return digest.hexdigest()

    @property
    def generations(self) -> list[dict[str, Any]]:
        """What each build that made or extended this dataset left: records then, digest then, and of what files."""
        return self.meta.get("generations") or [{"records": len(self), DIGEST: self.fingerprint}]

    @property
    def fingerprints(self) -> list[str]:
        """This dataset's fingerprint, and those it had before records were appended."""
        return [self.fingerprint, *map(_stored_digest, self.generations)]

    def _check_bounds(self, ends: np.ndarray) -> None:
        """Bounds must increase, follow a newline and be those of `ends`, the index: all of them in a small dataset,
        samples in a big one."""
        full = len(self) <= _FULL_CHECK
        previous = 0
        for start in [0] if full else _spread(len(self) - _WINDOW, _SAMPLES):
            window = self._column.ends(start, len(self) if full else _WINDOW)
            others = np.flatnonzero(window != peek(ends, start, len(window)).astype(np.int64))
            if len(others):
                self._refuse_index(f'its datasets "index" and "{RECORDS}" differ at record {start + int(others[0])}')
            falls = np.flatnonzero(np.diff(window, prepend=previous) <= 0)
            if len(falls):
                self._refuse_index(f"bounds do not increase at record {start + int(falls[0])}")
            previous = int(window[-1])
            for i in _spread(len(window), _NEWLINES if full else 1):
                self._check_newline(start + i, int(window[i]))

    def _check_newline(self, i: int, end: int) -> None:
        last = i == len(self) - 1  # old builders kept files that end without a newline
        if not last and self._data.read(1, end - 1) != b"\n":
            self._refuse_index(f"it says that record {i} ends at byte {end} of {DATA}, where no line ends")

    def _refuse_index(self, reason: str) -> NoReturn:
        raise UserError(f"{self.path}: the index is damaged or belongs to another file: {reason}; {REBUILD}")


def _stored_digest(entry: dict[str, Any]) -> str:
    """The digest in meta.json or one of its generations; the first builders of this project took sha256."""
    return str(entry.get(DIGEST) or entry.get("sha256", ""))


class Column:
    """Where records end: integers or RECORDs. A large column is read in place, as few of them as are asked for.

    A small one is held: that saves a read for each record, and a trip over a network where the file is not cached.
    """

    def __init__(self, values: np.ndarray) -> None:
        self._values, self.count, self._width = values, len(values), values.itemsize
        self._file: SteadyFile | None = None
        self._offset = 0
        self._read: Callable[[int, int], bytes | memoryview]  # so many bytes from an offset
        if isinstance(values, np.memmap):
            self._file, self._offset = SteadyFile(Path(str(values.filename))), values.offset
        if self._file and values.nbytes > _HELD_BYTES:
            self._read = self._file.read
        else:
            held = self._file.read(values.nbytes, self._offset) if self._file else values.view(np.uint8).data
            self._read, self._offset = lambda size, offset: held[offset : offset + size], 0
        # a record needs two of them: several times faster than through an array
        order, code = _struct_code(values.dtype)
        self._one, self._two = struct.Struct(order + code), struct.Struct(order + 2 * code)
        self._with_checksums = values.dtype == RECORD

    @property
    def retries(self) -> int:
        """How many reads were tried again in this process."""
        return self._file.retries if self._file else 0

    def entry(self, i: int) -> tuple[int, int, int | None]:
        """Where record i begins and ends, and its checksum (None in a folder that has none)."""
        if not 0 < i < self.count:
            return self._first(i)
        found = self._two.unpack(self._read(2 * self._width, self._offset + (i - 1) * self._width))
        return (found[0], found[2], found[3]) if self._with_checksums else (*found, None)

    def _first(self, i: int) -> tuple[int, int, int | None]:
        if i != 0:
            raise IndexError(f"record {i} of {self.count}")
        end, *checksum = self._one.unpack(self._read(self._width, self._offset))
        return 0, end, checksum[0] if checksum else None

    def ends(self, start: int, count: int) -> np.ndarray:
        """The ends among values[start : start + count] as int64 (absurd uint64 values become negative)."""
        values = peek(self._values, start, min(count, self.count - start))
        return (values["end"] if values.dtype.names else values).astype(np.int64)


def _struct_code(kind: np.dtype) -> tuple[str, str]:
    """(byte order, code of a value) in the terms of the module struct."""
    if kind == RECORD:
        return "<", "qI"
    code = "bhiq"[int(kind.itemsize).bit_length() - 1]
    return ">" if kind.str.startswith(">") else "<", code.upper() if kind.kind == "u" else code


def load_meta(folder: Path) -> dict[str, Any]:
    """Read meta.json; {} where there is none. UserError where the folder is no dataset at all."""
    if not folder.is_dir():
        found = "not a folder" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {found} (a dataset is a folder, which {command('index')} makes of jsonl)")
    if not (folder / DATA).is_file():
        raise UserError(f"{folder}: not an indexed dataset, {DATA} is missing; {REBUILD}")
    if not os.path.lexists(folder / META):
        return {}
    meta = read_json(folder / META)
    if not isinstance(meta, dict):
        raise UserError(f"{folder / META}: must hold a JSON object; {REBUILD}")
    for key, (wanted, fits) in _META_KINDS.items():
        if key in meta and not fits(meta[key]):
            raise UserError(f"{folder / META}: {key} must be {wanted}, not {json.dumps(meta[key])[:80]}; {REBUILD}")
    return meta


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _is_generation(value: Any) -> bool:
    return isinstance(value, dict) and _is_count(value.get("records")) and _is_count(value.get("source_bytes", 0))


# What is read of meta.json, in words and as a check. Absent keys are those of older builders.
_META_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "language": ("a text", lambda value: isinstance(value, str)),
    "nlines": ("a count", _is_count),
    "nbytes": ("a count", _is_count),
    "length_distribute": ("counts by length", _is_counts),
    "avg_token_per_line": ("a number", lambda value: isinstance(value, int | float) and 0 <= value < 1e18),
    "records_without_text": ("a count or null", lambda value: value is None or _is_count(value)),
    "fields_without_text": ("counts by fields", _is_counts),
    "unread_texts": ("a list of texts", lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v)),
    "generations": ("what each build left", lambda v: isinstance(v, list) and all(map(_is_generation, v))),
}


def load_ends(folder: Path) -> tuple[np.ndarray, Path, bool]:
    """Where each record ends, integers of shape [n]; the file they come from; whether a 0 stands before them there."""
    if os.path.lexists(folder / INDEX_H5):
        path = require_file(folder / INDEX_H5)
        ends, zero = _load_h5(path)
    elif os.path.lexists(folder / INDEX_TEXT):
        path = require_file(folder / INDEX_TEXT)
        ends, zero = _without_zero(_load_text(path))
    else:
        raise UserError(f"{folder}: not an indexed dataset, {INDEX_H5} and {INDEX_TEXT} are both missing; {REBUILD}")
    return ends, path, zero


def _without_zero(bounds: np.ndarray) -> tuple[np.ndarray, bool]:
    if len(bounds) == 0 or int(peek(bounds, 0, 1)[0]) != 0:
        return bounds, False
    if not isinstance(bounds, np.memmap) or len(bounds) == 1:
        return bounds[1:], True
    offset = bounds.offset + bounds.itemsize  # mapped anew: a slice of a map does not know where it begins
    return np.memmap(str(bounds.filename), bounds.dtype, mode="r", offset=offset, shape=(len(bounds) - 1,)), True


def peek(values: np.ndarray, start: int, count: int) -> np.ndarray:
    """A few values, read from the file: touching one page of a map can bring 2 MB of it into the process."""
    if not isinstance(values, np.memmap):
        return values[start : start + count]
    offset = values.offset + start * values.itemsize
    return np.fromfile(str(values.filename), values.dtype, count=count, offset=offset)


def check_totals(folder: Path, meta: dict[str, Any], ends: np.ndarray, nbytes: int) -> None:
    """UserError unless index, meta.json and the size of data.jsonl agree."""
    if nbytes == 0 or len(ends) == 0:
        raise UserError(f"{folder}: the dataset is empty ({DATA} has {nbytes} bytes, the index {len(ends)} records)")
    if meta.get("nlines", len(ends)) != len(ends):
        raise UserError(
            f"{folder}: the index has {len(ends)} records but {META} says nlines {meta['nlines']}: "
            f"it is cut short, or one of them belongs to another file; {REBUILD}"
        )
    last = int(peek(ends, len(ends) - 1, 1)[0])
    if last != nbytes:
        raise UserError(
            f"{folder}: {DATA} has {nbytes} bytes but the index ends at byte {last}: one of them is cut "
            f"short or belongs to another file; {REBUILD}"
        )
    if meta.get("nbytes", nbytes) != nbytes:
        raise UserError(
            f"{folder}: {DATA} has {nbytes} bytes but {META} says nbytes {meta['nbytes']}: "
            f"it belongs to another file; {REBUILD}"
        )


def load_records(folder: Path, count: int) -> np.ndarray | None:
    """Ends and checksums of all records, [n] RECORD, or None in a folder that has no checksums."""
    path = folder / INDEX_H5
    if not path.exists():
        return None
    with _opened(path) as file:
        if RECORDS not in file:
            return None
        dataset = file[RECORDS]
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype != RECORD or dataset.shape != (count,):
            raise UserError(
                f'{path}: its dataset "{RECORDS}" does not hold the checksums of {count} records; {REBUILD}'
            )
        return _mapped(path, file, dataset)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r", locking=False) as file:  # nobody writes it, and many file systems cannot lock
            yield file
    except UserError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:  # of h5py, and numpy for absurd sizes
        raise UserError(f"{path}: cannot be read, it is cut short or damaged ({error}); {REBUILD}") from None


def _load_h5(path: Path) -> tuple[np.ndarray, bool]:
    with _opened(path) as file:
        return _without_zero(_column(path, file, "index"))


def _column(path: Path, file: h5py.File, name: str) -> np.ndarray:
    """A column of integers."""
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 1 or dataset.dtype.kind not in "iu":
        raise UserError(f'{path}: has no one-dimensional integer dataset "{name}"; {REBUILD}')
    return _mapped(path, file, dataset)


def _mapped(path: Path, file: h5py.File, dataset: h5py.Dataset) -> np.ndarray:
    """A dataset's values, mapped where they lie contiguous."""
    offset = dataset.id.get_offset()  # None where it is chunked, compressed, or has no storage yet
    if offset is None or file.userblock_size or not len(dataset):
        if len(dataset) > 1 + (path.parent / DATA).stat().st_size:  # before it is read: memory may not do for it
            raise UserError(f"{path}: has {len(dataset)} bounds, which is more than {DATA} has bytes; {REBUILD}")
        return dataset[:]
    return np.memmap(path, dataset.dtype, mode="r", offset=offset, shape=(len(dataset),))


def _load_text(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # numpy's word for text that is not a number
            return np.fromfile(path, dtype=np.int64, sep=" ")  # a space matches any white space
    except (ValueError, DeprecationWarning):
        raise UserError(f"{path}: must hold one byte offset a line; {REBUILD}") from None


def _check_times(folder: Path, index_file: Path) -> None:
    if (folder / DATA).stat().st_mtime_ns > index_file.stat().st_mtime_ns:
        raise UserError(
            f"{folder}: {DATA} is newer than its index, so it may have changed since it was indexed; "
            f"`{command('check')} {folder}` verifies every byte, and refreshes the index's "
            "time if the data is unchanged (cp -r changes times; cp -a and rsync -a keep them)"
        )


def _spread(length: int, count: int) -> list[int]:
    """Up to `count` distinct positions spread evenly over [0, length), the first and the last among them."""
    if length <= 0:
        return []
    return np.unique(np.linspace(0, length - 1, count).astype(np.int64)).tolist()


def _reopen(path: Path, fingerprint: str) -> IndexedDataset:
    dataset = IndexedDataset(path)
    if dataset.fingerprint != fingerprint:
        raise UserError(f"{path}: the dataset was replaced while in use")
    return dataset
