"""Writes the files of an indexed dataset, block by block in order."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import xxhash

from fm9g.data.index.dataset import DATA, DIGEST, INDEX_H5, INDEX_TEXT, META, RECORD, RECORDS
from fm9g.data.index.offsets_text import offsets_text
from fm9g.data.index.scan import SHORT_TOKENS, TOKENS_PER_UNIT, BlockScan, Rejected, ScanRules
from fm9g.data.index.scan_texts import MOST_FIELD_SETS
from fm9g.data.jsonl_files import Block
from fm9g.data.record import parse_record
from fm9g.errors import UserError
from fm9g.files import write_json

REJECTED = "rejected.jsonl"
SOURCE_DIGEST = f"source_{DIGEST}"  # in meta.json, of a generation
_LENGTH_LIMITS = [SHORT_TOKENS, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000]  # tokens, exclusive
_LENGTH_NAMES = ["less_4k", "4k-8k", "8k-16k", "16k-32k", "32k-64k", "64k-128k", "128k-256k", "more_256k"]
_SAMPLE_CHARACTERS = 50
_LOOKED_INTO = ("records_without_text", "empty_records")  # counts that are not known of lines which nobody parsed
_ENTRIES_AT_ONCE = 1 << 20
_SPOOL = "records.spool"
_FLUSH_BYTES = 64 << 20
_COPY_BYTES = 256 << 10  # stays in the processor's cache


class _Tally:
    """The figures of meta.json, summed over blocks in file order."""

    def __init__(self, language: str, validated: bool) -> None:
        self._language, self._validated = language, validated
        self.nlines = self.nbytes = 0
        self._counts = dict.fromkeys(("records_without_text", "empty_records", "blank_lines", "rejected_lines"), 0)
        self._first_without_text: int | None = None
        self._fields, self._unread = Counter[str](), Counter[str]()
        self._units, self._tokens_per_unit = 0, TOKENS_PER_UNIT[language]
        self._histogram = np.zeros(len(_LENGTH_NAMES), dtype=np.int64)

    def add(self, scan: BlockScan) -> None:
        """Count a block."""
        texts = scan.texts
        if texts.without and self._first_without_text is None:
            self._first_without_text = self.nlines + texts.without[0] + 1
        for key, count in zip(
            self._counts, (len(texts.without), texts.empty, scan.blank, len(scan.rejected)), strict=True
        ):
            self._counts[key] += count
        for total, of_block in ((self._fields, texts.fields), (self._unread, texts.unread)):
            for name, count in of_block.items():
                if name in total or len(total) < MOST_FIELD_SETS:
                    total[name] += count
        if not len(scan.ends):
            return
        self.nlines += len(scan.ends)
        self.nbytes += int(scan.ends[-1])
        self._units += scan.units
        self._histogram[0] += len(scan.ends) - len(scan.long_units)
        if len(scan.long_units):
            slots = np.searchsorted(_LENGTH_LIMITS, scan.long_units * self._tokens_per_unit, side="right")
            self._histogram += np.bincount(slots, minlength=len(_LENGTH_NAMES))

    @property
    def rejected(self) -> int:
        """How many lines were left out."""
        return self._counts["rejected_lines"]

    def meta(self, data_sample: Any) -> dict[str, Any]:
        """What meta.json says of the records."""
        counts: dict[str, int | None] = dict(self._counts)
        if not self._validated:
            counts |= dict.fromkeys(_LOOKED_INTO)
        return {
            "language": self._language,
            "nlines": self.nlines,
            "nbytes": self.nbytes,
            "length_distribute": dict(zip(_LENGTH_NAMES, self._histogram.tolist(), strict=True)),
            "avg_token_per_line": self._units * self._tokens_per_unit / self.nlines,
            "data_sample": data_sample,
            **counts,
            "first_record_without_text": self._first_without_text,
            "fields_without_text": dict(self._fields.most_common()),
            "unread_texts": list(self._unread),
        }


class IndexWriter:
    """Writes a dataset into `folder`: add its blocks, then `finish`. Use as a context manager.

    A block may have been written by whoever scanned it, where it stands if no line before it is left out; `shifted`
    says that one was. What stands elsewhere is then written anew. So a block that is written early never harms one
    that is in its place: what comes before it ends where it begins, or earlier.
    With `digest` those of the data and of the files it came from are kept (XXH3, 128 bits).
    """

    def __init__(self, folder: Path, rules: ScanRules, digest: bool) -> None:
        self._folder, self._rules = folder, rules
        self._tally, self._sample = _Tally(rules.language, rules.validate), None
        self._digest = xxhash.xxh3_128() if digest else None
        self._seen: Any = None  # of the files' text, once it differs from the data
        self._generations: list[dict[str, Any]] = []
        self._source_bytes = 0
        self._buffer = memoryview(bytearray(_COPY_BYTES))
        self.shifted = False
        self._open = contextlib.ExitStack()
        self._flushing: Future[None] | None = None
        self._flushed = 0

    def __enter__(self) -> IndexWriter:
        with self._open as opened:
            self._data = opened.enter_context(open(self.data_path, "w+b", buffering=0))
            self._text = opened.enter_context(open(self._folder / INDEX_TEXT, "wb"))
            self._spool = opened.enter_context(open(self._folder / _SPOOL, "wb"))
            self._rejected = opened.enter_context(open(self._folder / REJECTED, "ab"))
            self._flusher = opened.enter_context(ThreadPoolExecutor(1))
            self._open = opened.pop_all()
        self._text.write(b"0\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def data_path(self) -> Path:
        """The file of the records."""
        return self._folder / DATA

    @property
    def records(self) -> int:
        """How many records have been added."""
        return self._tally.nlines

    @property
    def nbytes(self) -> int:
        """The size of the data so far."""
        return self._tally.nbytes

    @property
    def digest(self) -> str | None:
        """The digest of the data so far, hex."""
        return self._digest.hexdigest() if self._digest else None

    def begin_file(self, path: Path) -> None:
        """Note that the blocks that follow are of this file."""
        self._source_bytes += path.stat().st_size

    def begin_generation(self, earlier: list[dict[str, Any]]) -> None:
        """Note that what has been added are the records of `earlier` generations, and what follows is a new one."""
        self._generations = earlier
        self._source_bytes, self._seen = 0, xxhash.xxh3_128() if self._digest else None

    def add(self, block: Block, scan: BlockScan) -> None:
        """Add the lines kept of a block."""
        start = self._tally.nbytes
        if scan.kept is not None:
            self.shifted = True
            if self._digest and self._seen is None:
                self._seen = self._digest.copy()
        if scan.place != start:
            write_at(self._data.fileno(), block.read() if scan.kept is None else scan.kept, start)
        self._tally.add(scan)
        self._update_digests(block, scan.kept is None, start)
        if start == 0 and self.records:
            self._sample = _sample(os.pread(self._data.fileno(), int(scan.ends[0]), 0))
        self._flush_behind()
        self._text.write(offsets_text(scan.ends + start))
        entries = np.empty(len(scan.ends), dtype=RECORD)
        entries["end"], entries["crc32c"] = scan.ends + start, 0 if scan.checksums is None else scan.checksums
        self._spool.write(entries.tobytes())

    def _flush_behind(self) -> None:
        """Have the disk write while the processors scan, instead of all at the end."""
        if self.nbytes - self._flushed >= _FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._flushing = self._flusher.submit(os.fdatasync, self._data.fileno())
            self._flushed = self.nbytes

    def _update_digests(self, block: Block, whole: bool, start: int) -> None:
        """Digest what was written from `start` on, and the block it came from."""
        if not self._digest:
            return
        while start < self.nbytes:
            piece = self._buffer[: os.preadv(self._data.fileno(), [self._buffer[: self.nbytes - start]], start)]
            assert piece, "the data is shorter than what was written"
            self._digest.update(piece)
            if self._seen is not None and whole:
                self._seen.update(piece)
            start += len(piece)
        if self._seen is not None and not whole and not block.too_long:
            self._seen.update(block.read())

    def reject(self, path: Path, line: int, offset: int, rejected: Rejected, data: bytes) -> None:
        """Keep a line that is no record, with where it stood and why; in base64 where it is not UTF-8."""
        entry: dict[str, Any] = {"file": str(path), "line": line, "offset": offset, "reason": rejected.reason}
        try:
            entry["text"] = data.decode("utf-8")
        except UnicodeDecodeError:
            entry["base64"] = base64.b64encode(data).decode("ascii")
        self._rejected.write(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n")

    def finish(self) -> dict[str, Any]:
        """Write the index and meta.json; returns what the latter holds."""
        if self.records == 0:
            rejected = self._tally.rejected
            why = f"none of its {rejected} line(s) is a record" if rejected else "the input is empty"
            raise UserError(f"nothing to index: {why}; a dataset needs at least one record")
        os.ftruncate(self._data.fileno(), self.nbytes)  # blocks after the last lines left out may stand behind it
        self._open.close()
        self._write_h5()
        if (self._folder / REJECTED).stat().st_size == 0:
            (self._folder / REJECTED).unlink()
        meta = self._tally.meta(self._sample)
        generation: dict[str, Any] = {"records": self.records, "source_bytes": self._source_bytes}
        if self._digest:
            meta[DIGEST] = generation[DIGEST] = self._digest.hexdigest()
            generation[SOURCE_DIGEST] = (self._seen or self._digest).hexdigest()
        meta["generations"] = [*self._generations, generation]
        write_json(self._folder / META, meta)
        os.utime(self._folder / INDEX_TEXT)  # its last write may be older than that of the data
        return meta

    def _write_h5(self) -> None:
        count = self.records
        with h5py.File(self._folder / INDEX_H5, "w") as file, open(self._folder / _SPOOL, "rb") as spool:
            bounds = file.create_dataset("index", shape=(count + 1,), dtype="<i8")  # contiguous unless asked otherwise
            bounds[0] = 0
            records = file.create_dataset(RECORDS, shape=(count,), dtype=RECORD) if self._rules.checksums else None
            for start in range(0, count, _ENTRIES_AT_ONCE):
                entries = np.fromfile(spool, dtype=RECORD, count=_ENTRIES_AT_ONCE)
                bounds[1 + start : 1 + start + len(entries)] = entries["end"]
                if records is not None:
                    records[start : start + len(entries)] = entries
        (self._folder / _SPOOL).unlink()


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset` of a file."""
    left = memoryview(data)
    while left:
        count = os.pwrite(descriptor, left, offset)
        left, offset = left[count:], offset + count


def _sample(line: bytes) -> Any:
    """The first record with its strings cut; None where it is no record, which only an unvalidated file can have."""
    try:
        return _cut_strings(parse_record(line))
    except ValueError:
        return None


def _cut_strings(value: Any) -> Any:
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode("utf-8")  # meta.json cannot hold lone surrogates
        return value[:_SAMPLE_CHARACTERS] + "..." if len(value) > _SAMPLE_CHARACTERS else value
    if isinstance(value, list):
        return [_cut_strings(item) for item in value]
    if isinstance(value, dict):
        return {key: _cut_strings(item) for key, item in value.items()}
    return value
