"""The indexed dataset: a folder from which any record of a jsonl file is read by its number.

    data.jsonl   one JSON object a line, UTF-8
    index.h5     where the lines begin and end: HDF5 dataset "index", memory-mapped where it lies contiguous
    index        the same offsets as text, used where index.h5 is missing
    meta.json    language, nlines, nbytes, … and sha256, the digest of data.jsonl

Offsets are bounds: the first is 0 and record i is [bounds[i], bounds[i + 1]). Older builders wrote only where
each record ends, so their first offset is not 0. Both are brought to one form here, `ends`: record i ends at
ends[i] and begins where record i - 1 ended. Opening looks at a few samples however large the data is.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
import weakref
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np

from fm9g.data.scan import parse_record
from fm9g.errors import UserError
from fm9g.files import read_json

DATA, INDEX_H5, INDEX_TEXT, META = "data.jsonl", "index.h5", "index", "meta.json"
_FULL_CHECK = 1 << 20  # up to so many records every bound is looked at on opening, beyond it samples
_NEWLINES = 4096  # in a fully checked dataset, how many bounds are compared with the data
_SAMPLES = 64
_WINDOW = 1024  # bounds looked at in a sample
_REBUILD = "rebuild it with: python tools/convert_json2index.py --path X.jsonl --language zh|en|code --output DIR"


class IndexedDataset:
    """An open indexed dataset. Threads and forked workers may share one; a pickled copy opens the folder anew.

    Raises UserError for a folder that is not a complete, consistent dataset, naming what is wrong and what to do.
    `meta` is the content of meta.json ({} in an old folder that has none), `nbytes` the size of data.jsonl.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).absolute()
        self.meta = load_meta(self.path)
        self._ends, index_file, _ = load_ends(self.path)
        self._descriptor = os.open(self.path / DATA, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self.nbytes = os.fstat(self._descriptor).st_size
        check_totals(self.path, self.meta, self._ends, self.nbytes)
        self._check_bounds()
        _check_times(self.path, index_file)

    def __len__(self) -> int:
        return len(self._ends)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.fingerprint)

    def span(self, i: int) -> tuple[int, int]:
        """Byte offsets in data.jsonl where record i begins and ends (its newline included)."""
        if not 0 <= i < len(self._ends):
            raise IndexError(f"record {i} of {len(self._ends)} in {self.path}")
        return (int(self._ends[i - 1]) if i else 0), int(self._ends[i])

    def read(self, i: int) -> bytes:
        """The bytes of record i as they are in the file, without the newline."""
        start, end = self.span(i)
        raw = _pread(self._descriptor, end - start, start)
        if len(raw) != end - start:
            raise UserError(f"{self.path / DATA}: cut short while in use (record {i} ends at byte {end})")
        return raw[:-1] if raw.endswith(b"\n") else raw

    def record(self, i: int) -> dict[str, Any]:
        """Record i, parsed; UserError names file, line and byte where it is malformed."""
        try:
            return parse_record(self.read(i))
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{self.path / DATA}, line {i + 1}, byte {self.span(i)[0]}: {error}") from None

    def will_need(self, i: int) -> None:
        """Tell the kernel that record i is read soon, so that it fetches it in the background."""
        start, end = self.span(i)
        os.posix_fadvise(self._descriptor, start, end - start, os.POSIX_FADV_WILLNEED)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hex string that tells this data from other data: its sha256 as the builder stored it.

        Old folders have none; for them it is a digest of the sizes and of some blocks spread over the data.
        """
        stored = self.meta.get("sha256")
        if isinstance(stored, str):
            return stored
        digest = hashlib.sha256(f"{len(self)} {self.nbytes}".encode())
        for offset in _spread(self.nbytes, _SAMPLES):
            digest.update(os.pread(self._descriptor, 4096, offset))
        return digest.hexdigest()

    def _check_bounds(self) -> None:
        """Bounds must increase and follow a newline: all of them in a small dataset, samples in a big one."""
        full = len(self) <= _FULL_CHECK
        previous = 0
        for start in [0] if full else _spread(len(self) - _WINDOW, _SAMPLES):
            window = _peek(self._ends, start, len(self) if full else _WINDOW)
            falls = np.flatnonzero(np.diff(window, prepend=previous) <= 0)
            if len(falls):
                self._refuse_index(f"bounds do not increase at record {start + int(falls[0])}")
            previous = int(window[-1])
            for i in _spread(len(window), _NEWLINES if full else 1):
                self._check_newline(start + i, int(window[i]))

    def _check_newline(self, i: int, end: int) -> None:
        last = i == len(self) - 1  # old builders kept files that end without a newline
        if not last and os.pread(self._descriptor, 1, end - 1) != b"\n":
            self._refuse_index(f"it says that record {i} ends at byte {end} of {DATA}, where no line ends")

    def _refuse_index(self, reason: str) -> NoReturn:
        raise UserError(f"{self.path}: the index is damaged or belongs to another file: {reason}; {_REBUILD}")


def load_meta(folder: Path) -> dict[str, Any]:
    """Read meta.json; {} where there is none. UserError where the folder is no dataset at all."""
    if not folder.is_dir():
        raise UserError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'} (a dataset is a folder)")
    if not (folder / DATA).is_file():
        raise UserError(f"{folder}: not an indexed dataset, {DATA} is missing; {_REBUILD}")
    if not (folder / META).exists():
        return {}
    meta = read_json(folder / META)
    if not isinstance(meta, dict):
        raise UserError(f"{folder / META}: must hold a JSON object; {_REBUILD}")
    return meta


def load_ends(folder: Path) -> tuple[np.ndarray, Path, bool]:
    """Where each record ends, integers of shape [n]; the file they come from; whether a 0 stands before them there."""
    if (folder / INDEX_H5).exists():
        path, (ends, zero) = folder / INDEX_H5, _load_h5(folder / INDEX_H5)
    elif (folder / INDEX_TEXT).exists():
        path, (ends, zero) = folder / INDEX_TEXT, _without_zero(_load_text(folder / INDEX_TEXT))
    else:
        raise UserError(f"{folder}: not an indexed dataset, {INDEX_H5} and {INDEX_TEXT} are both missing; {_REBUILD}")
    return ends, path, zero


def _without_zero(bounds: np.ndarray) -> tuple[np.ndarray, bool]:
    zero = len(bounds) > 0 and int(bounds[0]) == 0
    return (bounds[1:] if zero else bounds), zero


def check_totals(folder: Path, meta: dict[str, Any], ends: np.ndarray, nbytes: int) -> None:
    """UserError unless index, meta.json and the size of data.jsonl agree."""
    if nbytes == 0 or len(ends) == 0:
        raise UserError(f"{folder}: the dataset is empty ({DATA} has {nbytes} bytes, the index {len(ends)} records)")
    if meta.get("nlines", len(ends)) != len(ends):
        raise UserError(
            f"{folder}: the index has {len(ends)} records but {META} says nlines {meta['nlines']}: "
            f"it is cut short, or one of them belongs to another file; {_REBUILD}"
        )
    if int(ends[-1]) != nbytes:
        raise UserError(
            f"{folder}: {DATA} has {nbytes} bytes but the index ends at byte {int(ends[-1])}: one of them is cut "
            f"short or belongs to another file; {_REBUILD}"
        )
    if meta.get("nbytes", nbytes) != nbytes:
        raise UserError(
            f"{folder}: {DATA} has {nbytes} bytes but {META} says nbytes {meta['nbytes']}: "
            f"it belongs to another file; {_REBUILD}"
        )


def _load_h5(path: Path) -> tuple[np.ndarray, bool]:
    try:
        with h5py.File(path, "r", locking=False) as file:  # nobody writes it, and many file systems cannot lock
            dataset = file.get("index")
            if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 1 or dataset.dtype.kind not in "iu":
                raise UserError(f'{path}: has no one-dimensional integer dataset "index"; {_REBUILD}')
            offset = dataset.id.get_offset()  # None where it is chunked, compressed, or has no storage yet
            if offset is None or file.userblock_size:
                return _without_zero(dataset[:])
            return _map_ends(path, dataset.dtype, offset, len(dataset))
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: numpy, of a map that exceeds the file
        raise UserError(f"{path}: cannot be read, it is cut short or damaged ({error}); {_REBUILD}") from None


def _map_ends(path: Path, dtype: np.dtype, offset: int, count: int) -> tuple[np.ndarray, bool]:
    first, zero = _without_zero(np.fromfile(path, dtype, count=1, offset=offset))
    if zero:
        offset, count = offset + dtype.itemsize, count - 1
    return (np.memmap(path, dtype, mode="r", offset=offset, shape=(count,)) if count else first), zero


def _peek(ends: np.ndarray, start: int, width: int) -> np.ndarray:
    """A copy of ends[start : start + width] as int64 (absurd uint64 values become negative).

    Of a mapped index it is read from the file: touching one page of a map can bring 2 MB of it into the process.
    """
    if isinstance(ends, np.memmap):
        offset = ends.offset + start * ends.itemsize
        return np.fromfile(str(ends.filename), ends.dtype, count=width, offset=offset).astype(np.int64)
    return ends[start : start + width].astype(np.int64)


def _load_text(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # numpy's word for text that is not a number
            return np.fromfile(path, dtype=np.int64, sep=" ")  # a space matches any white space
    except (ValueError, DeprecationWarning):
        raise UserError(f"{path}: must hold one byte offset a line; {_REBUILD}") from None


def _check_times(folder: Path, index_file: Path) -> None:
    if (folder / DATA).stat().st_mtime_ns > index_file.stat().st_mtime_ns:
        raise UserError(
            f"{folder}: {DATA} is newer than its index, so it may have changed since it was indexed; "
            f"`python tools/convert_json2index.py --check {folder}` verifies every byte, and refreshes the index's "
            "time if the data is unchanged (cp -r changes times; cp -a and rsync -a keep them)"
        )


def _spread(length: int, count: int) -> list[int]:
    """Up to `count` distinct positions spread evenly over [0, length), the first and the last among them."""
    if length <= 0:
        return []
    return np.unique(np.linspace(0, length - 1, count).astype(np.int64)).tolist()


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    """os.pread until all is there or the file ends: one call may return less, and never gives over 2 GiB."""
    raw = os.pread(descriptor, size, offset)
    while len(raw) < size and (more := os.pread(descriptor, size - len(raw), offset + len(raw))):
        raw += more
    return raw


def _reopen(path: Path, fingerprint: str) -> IndexedDataset:
    dataset = IndexedDataset(path)
    if dataset.fingerprint != fingerprint:
        raise UserError(f"{path}: the dataset was replaced while in use")
    return dataset
