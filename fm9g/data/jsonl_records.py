"""The records of jsonl files, and their texts."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fm9g.data.file_kinds import misfit
from fm9g.data.jsonl_files import BOM, find_files, is_plain, read_blocks
from fm9g.data.record import parse_record
from fm9g.errors import UserError
from fm9g.files import require_file


def read_records(sources: Iterable[str | os.PathLike[str]]) -> Iterator[dict[str, Any]]:
    """Yield the records of jsonl files one by one: of all that is indexed too (.jsonl.gz, .jsonl.zst, folders of them),
    and of open pipes.

    A byte order mark and blank lines are left out. UserError names line and byte of a malformed record.
    """
    for source in map(Path, sources):
        for path in find_files([source]) if source.is_dir() else [source]:
            for number, (offset, raw) in enumerate(_lines(path), 1):
                if raw.strip():
                    yield _record(raw, path, number, offset)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line of a jsonl file, and the byte at which it begins."""
    if is_plain(path):
        with open(require_file(path, streamed=True), "rb") as file:
            offset = 0
            for raw in file:
                mark = len(BOM) if offset == 0 and raw.startswith(BOM) else 0
                yield offset + mark, raw[mark:]
                offset += len(raw)
        return
    for block in read_blocks(require_file(path), sys.maxsize):
        offset = block.offset
        for raw in io.BytesIO(block.read()):
            yield offset, raw
            offset += len(raw)


def parse_records(file: BinaryIO, path: str | os.PathLike[str], offset: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the records of the jsonl file `path`, open as `file`, which stands at `offset`."""
    for number, raw in enumerate(file, 1):
        yield _record(raw, path, number, offset)
        offset += len(raw)


def _record(raw: bytes, path: str | os.PathLike[str], number: int, offset: int) -> dict[str, Any]:
    try:
        return parse_record(raw)
    except ValueError as error:
        advice = misfit(path, raw, number)
        hint = f" ({advice})" if advice else ""
        raise UserError(f"{path}, line {number}, byte {offset}: {error}{hint}") from None


def record_texts(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the strings that a model would be trained on: `input` and `output` of each record, if not empty."""
    for record in records:
        for key in ("input", "output"):
            text = record.get(key)
            if isinstance(text, str) and text:
                yield text
