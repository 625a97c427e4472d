"""The records of whatever file people have: a JSON array, jsonl, csv (each also as .gz), or parquet.

The suffix says which; a file with any other suffix is taken for JSON. All are streamed, but for a JSON array, which
is held in memory.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib
import os
import shlex
import zlib
from collections.abc import Collection, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from fm9g.data.file_kinds import other_encoding
from fm9g.data.jsonl_files import BOM
from fm9g.data.jsonl_records import parse_records
from fm9g.data.record import record_name
from fm9g.errors import UserError, closest
from fm9g.files import parse_json, require_file

_LONGEST_CELL = 1 << 26  # characters; a quote that is never closed would otherwise read the whole file into memory
_ROWS_AT_ONCE = 256
_BUFFER_BYTES = 1 << 20  # without it, and with pre_buffer, pyarrow reads a column of a whole row group at once


def read_source(
    path: str | os.PathLike[str], required: Collection[str], optional: Collection[str] | None = ()
) -> Iterator[dict[str, Any]]:
    """Yield the records of a file, from parquet with the `required` and `optional` (None: all) fields alone.

    UserError for a file that is not there or not what its suffix says, and for parquet and csv without a required
    field; JSON records may differ, so whoever uses them looks.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give one file")
    require_file(path, streamed=True)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind == ".parquet":
        return _parquet_records(path, required, optional)
    return _csv_records(path, required) if kind == ".csv" else _json_records(path)


def check_fields(required: Iterable[str], names: Iterable[str]) -> None:
    """UserError, which says what was probably meant, unless all `required` fields are among the `names`."""
    names = list(names)
    for field in required:
        if field not in names:
            shown = ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "")
            hint = "where the command has --…-field flags, they choose"
            if {"conversations", "messages"} & set(names):
                hint = "these are conversations already, which format chat reads as they are"
            raise UserError(f"no field {field!r}{closest(field, names)}; there are {shown or 'none'} ({hint})")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """The file's bytes, unpacked if its name ends in .gz. It may be a pipe, so nobody seeks in it."""
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            yield cast(BufferedReader, file)  # a GzipFile has all that is used of one
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged or incomplete ({error}); `gzip -t` checks a file") from None


def _skip_mark(file: BufferedReader) -> int:
    """Skip the byte order mark that files from Windows begin with; return its length, or 0 without one."""
    return len(file.read(len(BOM))) if file.peek(len(BOM)).startswith(BOM) else 0


def _json_records(path: Path) -> Iterator[dict[str, Any]]:
    with _opened(path) as file:
        offset = _skip_mark(file)
        head = file.peek(4096)
        if head.lstrip()[:1] != b"[" or b"\0" in head[:4]:  # zero bytes: of UTF-16, which that names
            yield from parse_records(file, path, offset)
            return
        for number, record in enumerate(parse_json(file.read(), path)):
            if not isinstance(record, dict):
                raise UserError(f"{path}, {record_name(number, lines=False)}: not a JSON object")
            yield record


def _csv_records(path: Path, required: Collection[str]) -> Iterator[dict[str, Any]]:
    """Rows as records of strings, named by the first line. Strict, since one stray quote can hide many rows."""
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    with _opened(path) as file:
        _skip_mark(file)
        reader = csv.reader(_utf8_lines(file, path), strict=True)
        begun = 1
        try:
            header = next(reader, [])  # the first line names the columns
            repeated = {name for name in header if header.count(name) > 1} & set(required)
            if repeated:
                raise UserError(f"{path}, line 1: two columns are called {min(repeated)!r}; rename one")
            _check_columns(path, header, required)
            begun = reader.line_num + 1
            for row in reader:
                if row and len(row) != len(header):
                    raise UserError(
                        f"{path}, line {begun}: {len(row)} cells, but line 1 names {len(header)} columns; "
                        'put "" around cells that hold commas'
                    )
                if row:  # a blank line is no row
                    yield dict(zip(header, row, strict=True))
                begun = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{path}, the row that begins on line {begun}: not valid csv: {error}") from None


def _utf8_lines(file: BufferedReader, path: Path) -> Iterator[str]:
    for number, raw in enumerate(file, 1):
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not UTF-8: {error.reason} ({other_encoding(shlex.quote(str(path)), raw)})"
            ) from None


def _parquet_records(
    path: Path, required: Collection[str], optional: Collection[str] | None
) -> Iterator[dict[str, Any]]:
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"{path}: reading parquet needs pyarrow ({error}): pip install --upgrade pyarrow") from None
    try:
        with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            names = file.schema_arrow.names
            _check_columns(path, names, required)
            wanted = [name for name in names if optional is None or name in required or name in optional]
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as parquet: {str(error).splitlines()[0]}") from None


def _check_columns(path: Path, names: list[str], required: Collection[str]) -> None:
    try:
        check_fields(required, names)
    except UserError as error:
        raise UserError(f"{path}, names of its columns: {error}") from None
