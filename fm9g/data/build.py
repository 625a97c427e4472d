"""Building an indexed dataset (fm9g.data.index) from a jsonl file, and checking one byte for byte.

One pass, in memory that does not grow with the file: blocks of lines are scanned, written and hashed as they come.
The bounds wait in a temporary file, since HDF5 must know how many there are before it can store them contiguously.
The folder appears complete or not at all.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from fm9g.data.index import (
    DATA,
    INDEX_H5,
    INDEX_TEXT,
    META,
    IndexedDataset,
    check_totals,
    load_ends,
    load_meta,
)
from fm9g.data.scan import TOKENS_PER_UNIT, BadLine, BlockScan, parse_record, read_blocks, scan_block
from fm9g.data.swap import is_occupied, output_folder
from fm9g.errors import UserError, closest
from fm9g.files import write_json
from fm9g.progress import ProgressCallback, no_progress

_DATASET_FILES = {DATA, INDEX_H5, INDEX_TEXT, META}
_LENGTH_LIMITS = [4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000]  # tokens, exclusive
_LENGTH_NAMES = ["less_4k", "4k-8k", "8k-16k", "16k-32k", "32k-64k", "64k-128k", "128k-256k", "more_256k"]
_SAMPLE_CHARACTERS = 50
_BOUNDS_AT_ONCE = 1 << 20
_READ_BYTES = 1 << 22


def build(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    language: str,
    overwrite: bool = False,
    progress: ProgressCallback = no_progress,
) -> dict[str, Any] | None:
    """Index the jsonl file `source` into the folder `output`; `language` is zh, en or code (for token estimates).

    Returns what meta.json holds, or None where `output` holds exactly this data already. UserError names file,
    line and byte of a line that is no JSON object. A folder with anything else in it is refused unless `overwrite`:
    then the new dataset is built beside it and takes its place in one step, other files in it staying.
    """
    source, target = Path(source), Path(os.path.realpath(output))
    _check_arguments(source, target, language)
    if is_occupied(target) and not overwrite:
        _require_same(source, target, language, progress)
        return None
    with output_folder(target, overwrite, _DATASET_FILES) as folder:
        return _write_dataset(source, folder, language, progress)


def check(folder: str | os.PathLike[str], progress: ProgressCallback = no_progress) -> bool:
    """Verify every byte and every bound of a dataset, then set its index's times to now.

    Returns whether the data was compared with its digest: old folders have none, and then only the bounds are
    known to be right. UserError says what does not fit.
    """
    folder = Path(folder)
    meta = load_meta(folder)
    ends, index_file, leading_zero = load_ends(folder)
    with open(folder / DATA, "rb", buffering=0) as stream:
        check_totals(folder, meta, ends, os.fstat(stream.fileno()).st_size)
        digest = _check_bounds(folder, stream, ends, progress)
    stored = meta.get("sha256")
    if stored not in (None, digest):
        raise UserError(f"{folder}: {DATA} has changed since it was indexed (sha256 {digest}, {META} says {stored})")
    if index_file.name == INDEX_H5 and (folder / INDEX_TEXT).exists():
        _check_text_index(folder / INDEX_TEXT, ends, leading_zero)
    for name in (INDEX_H5, INDEX_TEXT, META):
        if (folder / name).exists():
            os.utime(folder / name)
    return stored is not None


def _check_arguments(source: Path, target: Path, language: str) -> None:
    if language not in TOKENS_PER_UNIT:
        known = ", ".join(TOKENS_PER_UNIT)
        raise UserError(f"unknown language {language!r}{closest(language, TOKENS_PER_UNIT)}; there are {known}")
    if source.is_dir():
        raise UserError(f"{source}: is a folder; give one jsonl file (several: cat DIR/*.jsonl > all.jsonl)")
    if not source.exists():
        raise UserError(f"{source}: no such file")
    if target.is_dir() and Path(os.path.realpath(source)).is_relative_to(target):
        raise UserError(f"{source}: lies inside the output folder {target}; choose another output folder")


def _require_same(source: Path, target: Path, language: str, progress: ProgressCallback) -> None:
    """UserError unless `target` is a complete dataset of exactly the lines of `source`."""
    refusal = f"{target}: the output folder is not empty"
    advice = "choose another folder, or pass --overwrite to replace the dataset in it"
    try:
        dataset = IndexedDataset(target)
    except UserError as error:
        raise UserError(f"{refusal} and holds no complete dataset ({error}); {advice}") from None
    if dataset.meta.get("language") != language:
        raise UserError(f"{refusal}, its dataset has language {dataset.meta.get('language')!r}; {advice}")
    missing_newline = dataset.nbytes - source.stat().st_size
    if missing_newline not in (0, 1) or dataset.meta.get("sha256") != _digest(source, progress):
        raise UserError(f"{refusal} and holds other data than {source}; {advice}")


def _digest(source: Path, progress: ProgressCallback) -> str:
    """The sha256 that a dataset of `source` has."""
    digest, done, total = hashlib.sha256(), 0, source.stat().st_size
    with open(source, "rb", buffering=0) as stream:
        for block in read_blocks(stream, _READ_BYTES):
            digest.update(block)
            done += len(block)
            progress(done, total)
    return digest.hexdigest()


class _Tally:
    """The figures of meta.json, summed over blocks in file order."""

    def __init__(self) -> None:
        self.nlines = self.nbytes = self.records_without_text = 0
        self.first_without_text: int | None = None
        self.tokens = 0.0
        self.histogram = np.zeros(len(_LENGTH_NAMES), dtype=np.int64)

    def add(self, scan: BlockScan) -> None:
        if scan.without_text and self.first_without_text is None:
            self.first_without_text = self.nlines + scan.without_text[0] + 1
        self.records_without_text += len(scan.without_text)
        self.nlines += len(scan.ends)
        self.nbytes += int(scan.ends[-1])
        # Added one after the other like the plain loop that users know, so that the result is the same to the bit.
        self.tokens = float(np.add.accumulate(np.append(self.tokens, scan.tokens))[-1])
        slots = np.searchsorted(_LENGTH_LIMITS, scan.tokens, side="right")
        self.histogram += np.bincount(slots, minlength=len(_LENGTH_NAMES))

    def meta(self, language: str, data_sample: Any, digest: str) -> dict[str, Any]:
        return {
            "language": language,
            "nlines": self.nlines,
            "nbytes": self.nbytes,
            "length_distribute": dict(zip(_LENGTH_NAMES, self.histogram.tolist(), strict=True)),
            "avg_token_per_line": self.tokens / self.nlines,
            "data_sample": data_sample,
            "sha256": digest,
            "records_without_text": self.records_without_text,
            "first_record_without_text": self.first_without_text,
        }


def _write_dataset(source: Path, folder: Path, language: str, progress: ProgressCallback) -> dict[str, Any]:
    """Write the four files of a dataset into `folder`; returns what meta.json holds."""
    tally, digest, spool = _Tally(), hashlib.sha256(), folder / "bounds.spool"
    with (
        open(source, "rb", buffering=0) as stream,
        open(folder / DATA, "wb") as data,
        open(folder / INDEX_TEXT, "wb") as text,
        open(spool, "wb") as bounds,
    ):
        before = os.fstat(stream.fileno())
        _append_bounds(np.zeros(1, dtype=np.int64), text, bounds)
        for block in read_blocks(stream):
            start = tally.nbytes
            if start == 0:
                sample = _sample(block)
            scan = _scan(source, block, tally, language)
            data.write(block)
            digest.update(block)
            tally.add(scan)
            _append_bounds(scan.ends + start, text, bounds)
            progress(tally.nbytes, before.st_size)
            if 0 < before.st_size < tally.nbytes - 1:  # else a file that keeps growing would never end
                break
        after = os.fstat(stream.fileno())
    if tally.nlines == 0:
        raise UserError(f"{source}: is empty; a dataset needs at least one record")
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UserError(f"{source}: was changed while it was being indexed; run this again when it is complete")
    _write_h5(spool, folder / INDEX_H5, tally.nlines + 1)
    spool.unlink()
    meta = tally.meta(language, sample, digest.hexdigest())
    write_json(folder / META, meta)
    os.utime(folder / INDEX_TEXT)  # its last write may be older than that of the data
    return meta


def _scan(source: Path, block: bytes, tally: _Tally, language: str) -> BlockScan:
    try:
        return scan_block(block, language)
    except BadLine as bad:
        line, offset = tally.nlines + bad.line + 1, tally.nbytes + bad.offset
        raise UserError(f"{source}, line {line}, byte {offset}: {bad.reason}") from None


def _append_bounds(bounds: np.ndarray, text: BinaryIO, spool: BinaryIO) -> None:
    text.write(_bounds_text(bounds))
    spool.write(bounds.astype("<i8").tobytes())


def _bounds_text(bounds: np.ndarray) -> bytes:
    return ("\n".join(map(str, bounds.tolist())) + "\n").encode()


def _write_h5(spool: Path, path: Path, count: int) -> None:
    with open(spool, "rb") as bounds, h5py.File(path, "w") as file:
        dataset = file.create_dataset("index", shape=(count,), dtype="<i8")  # contiguous unless asked otherwise
        for start in range(0, count, _BOUNDS_AT_ONCE):
            stop = min(start + _BOUNDS_AT_ONCE, count)
            dataset[start:stop] = np.fromfile(bounds, dtype="<i8", count=stop - start)


def _sample(block: bytes) -> Any:
    """The first record with its strings cut; None where it is no record (the scan that follows says why)."""
    try:
        return _cut_strings(parse_record(block[: block.index(b"\n")]))
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


def _check_bounds(folder: Path, stream: BinaryIO, ends: np.ndarray, progress: ProgressCallback) -> str:
    """Compare every bound with the newlines of the data; returns the data's sha256."""
    digest, done, lines, last = hashlib.sha256(), 0, 0, b"\n"
    total = int(ends[-1])
    while chunk := stream.read(_READ_BYTES):
        digest.update(chunk)
        found = np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == 0x0A) + (done + 1)
        _compare_ends(folder, ends[lines : lines + len(found)], found, lines)
        done, lines, last = done + len(chunk), lines + len(found), chunk[-1:]
        progress(done, total)
    if last != b"\n":  # old builders kept files that end without a newline
        _compare_ends(folder, ends[lines : lines + 1], np.array([done]), lines)
        lines += 1
    if lines != len(ends):
        raise UserError(f"{folder}: {DATA} has {lines} lines but the index has {len(ends)} records")
    return digest.hexdigest()


def _compare_ends(folder: Path, stored: np.ndarray, found: np.ndarray, first_line: int) -> None:
    wrong = np.flatnonzero(stored != found[: len(stored)])
    if len(wrong) or len(stored) < len(found):
        line = int(wrong[0]) if len(wrong) else len(stored)
        says = f"the index says byte {int(stored[line])}" if line < len(stored) else "the index has no such record"
        raise UserError(f"{folder}: line {first_line + line + 1} of {DATA} ends at byte {int(found[line])}, but {says}")


def _check_text_index(path: Path, ends: np.ndarray, leading_zero: bool) -> None:
    with open(path, "rb") as text:
        fits = not leading_zero or text.read(2) == b"0\n"
        for start in range(0, len(ends), _BOUNDS_AT_ONCE):
            expected = _bounds_text(ends[start : start + _BOUNDS_AT_ONCE])
            fits = fits and text.read(len(expected)) == expected
        if not fits or text.read(1):
            raise UserError(f"{path}: differs from {INDEX_H5}; delete it, {INDEX_H5} alone is enough")
