"""Verifying every byte of an indexed dataset."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import xxhash

from fm9g.data.index.dataset import (
    DATA,
    DIGEST,
    INDEX_H5,
    INDEX_TEXT,
    META,
    REBUILD,
    check_totals,
    load_ends,
    load_meta,
    load_records,
)
from fm9g.data.index.offsets_text import offsets_text
from fm9g.data.index.scan import BlockScan, ScanRules, scan_block
from fm9g.data.record import record_name
from fm9g.data.record_kinds import unread_texts
from fm9g.errors import UserError
from fm9g.files import require_file
from fm9g.progress_bar import ProgressCallback, no_progress

_BYTES_AT_ONCE = 4 << 20
_BOUNDS_AT_ONCE = 1 << 20
MOST_NAMED = 20


@dataclass
class Report:
    """What was compared, the records (number, byte offset) that are not what was indexed, and what cannot be used."""

    checksums: bool = False
    digest: bool = False
    damaged_count: int = 0
    damaged: list[tuple[int, int]] = field(default_factory=list)  # the first MOST_NAMED
    rejected_count: int = 0
    rejected: str = ""  # the first of them, and why it is no record
    without_text_count: int = 0
    without_text: str = ""  # the first of them
    unread: Counter[str] = field(default_factory=Counter)  # advice on texts in other fields

    def unusable(self) -> list[str]:
        """What training cannot use, in words."""
        found = []
        if self.rejected_count:
            found.append(f"{self.rejected_count:,} line(s) are no records; the first: {self.rejected}")
        if self.without_text_count:
            found.append(
                f'{self.without_text_count:,} record(s) have no text to learn in "output" (the first is '
                f"{self.without_text}): without a transform they are refused, or skipped with skip_unlearned"
            )
        return found + [unread_texts(advice) for advice in self.unread]

    def add_texts(self, raw: bytes, first: int) -> None:
        """Look at whole lines, of which the first is record `first`."""
        scan = scan_block(raw if raw.endswith(b"\n") else raw + b"\n", _RULES)
        self.rejected_count += len(scan.rejected) + scan.blank
        if not self.rejected and scan.rejected:
            self.rejected = f"{record_name(first + scan.rejected[0].line)}: {scan.rejected[0].reason}"
        if not self.rejected and scan.blank:
            blank = next(number for number, line in enumerate(raw.split(b"\n")) if not line.strip())
            self.rejected = f"{record_name(first + blank)}: the line is blank"
        if scan.texts.without and not self.without_text:
            self.without_text = record_name(first + _kept_lines(raw, scan)[scan.texts.without[0]])
        self.without_text_count += len(scan.texts.without)
        self.unread += scan.texts.unread


def _kept_lines(raw: bytes, scan: BlockScan) -> list[int]:
    """The numbers of the lines that are records: those by which a scan counts."""
    rejected = {line.line for line in scan.rejected}
    return [number for number, line in enumerate(raw.split(b"\n")) if line.strip() and number not in rejected]


_RULES = ScanRules("en", checksums=False)


def check(folder: str | os.PathLike[str], progress: ProgressCallback = no_progress) -> Report:
    """Compare every record with its checksum and every bound with the data; if all fit, set the index's times to now.

    UserError says what does not fit between the files. Damaged records are counted in the report.
    """
    folder = Path(folder)
    meta = load_meta(folder)
    ends, index_file, leading_zero = load_ends(folder)
    records = load_records(folder, len(ends))
    report = Report(records is not None, isinstance(meta.get(DIGEST), str))
    with open(folder / DATA, "rb", buffering=0) as stream:
        nbytes = os.fstat(stream.fileno()).st_size
        check_totals(folder, meta, ends, nbytes)
        digest = xxhash.xxh3_128()
        done = record = 0
        while record < len(ends):
            stop = max(record + 1, int(np.searchsorted(ends, done + _BYTES_AT_ONCE, side="right")))
            part = ends[record:stop].astype(np.int64) - done
            if not 0 <= part[-1] <= nbytes - done:
                raise UserError(
                    f"{index_file}: {record_name(stop - 1)} ends at byte {done + int(part[-1])}, which is not between "
                    f"byte {done} and the end of {DATA} at {nbytes}: the index is damaged; {REBUILD}"
                )
            raw = os.pread(stream.fileno(), int(part[-1]), done)
            while len(raw) < part[-1] and (
                more := os.pread(stream.fileno(), int(part[-1]) - len(raw), done + len(raw))
            ):
                raw += more
            digest.update(raw)
            report.add_texts(raw, record)
            sums = None if records is None else _checksums(folder, records[record:stop], ends[record:stop])
            for index in _damaged(raw, part, sums, stop == len(ends)):
                report.damaged_count += 1
                if len(report.damaged) < MOST_NAMED:
                    report.damaged.append((record + index, done + (int(part[index - 1]) if index else 0)))
            record, done = stop, done + int(part[-1])
            progress(done, int(ends[-1]))
    if report.damaged_count == 0:
        _check_digest(folder, meta, digest.hexdigest())
        if index_file.name == INDEX_H5 and os.path.lexists(folder / INDEX_TEXT):
            _check_text_index(require_file(folder / INDEX_TEXT), ends, leading_zero)
        for name in (INDEX_H5, INDEX_TEXT, META):
            if (folder / name).exists():
                os.utime(folder / name)
    return report


def _checksums(folder: Path, records: np.ndarray, ends: np.ndarray) -> np.ndarray:
    if not np.array_equal(records["end"], ends):
        raise UserError(f"{folder / INDEX_H5}: its two columns of bounds differ; rebuild the dataset")
    return records["crc32c"]


def _damaged(raw: bytes, ends: np.ndarray, checksums: np.ndarray | None, last: bool) -> list[int]:
    """The records of a piece of data that have changed, or whose bounds are not where lines end."""
    if np.any(np.diff(ends, prepend=0) <= 0):
        raise UserError("the index is damaged: its bounds do not increase; rebuild the dataset")
    starts = [0, *ends[:-1].tolist()]
    lines = [raw[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]
    wrong = []
    for index, line in enumerate(lines):
        ended = line.endswith(b"\n")
        text = line[:-1] if ended else line
        fits = checksums is None or google_crc32c.value(text) == checksums[index]
        whole = ended or (last and index == len(lines) - 1)  # old builders kept files without a last newline
        if not fits or not whole or (checksums is None and b"\n" in text):
            wrong.append(index)
    return wrong


def _check_digest(folder: Path, meta: dict[str, Any], digest: str) -> None:
    stored = meta.get(DIGEST)
    if stored not in (None, digest):
        raise UserError(f"{folder}: {DATA} has changed since it was indexed ({DIGEST} {digest}, {META} says {stored})")


def _check_text_index(path: Path, ends: np.ndarray, leading_zero: bool) -> None:
    with open(path, "rb") as text:
        fits = not leading_zero or text.read(2) == b"0\n"
        for start in range(0, len(ends), _BOUNDS_AT_ONCE):
            expected = offsets_text(ends[start : start + _BOUNDS_AT_ONCE])
            fits = fits and text.read(len(expected)) == expected
        if not fits or text.read(1):
            raise UserError(f"{path}: differs from {INDEX_H5}; delete it, {INDEX_H5} alone is enough")
