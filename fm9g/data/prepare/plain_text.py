"""Plain text to jsonl, and the text of jsonl records."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fm9g.data.file_kinds import json_for_text, misfit, no_text, other_encoding
from fm9g.data.jsonl_files import BOM, find_files, is_plain, read_blocks
from fm9g.data.record import parse_record
from fm9g.errors import UserError
from fm9g.files import require_file


def convert_text(source: BinaryIO, sink: BinaryIO, name: str) -> None:
    """Write each line of UTF-8 text as ``{"input": "", "output": line}``, stripped; blank lines are left out, and told.

    A byte order mark is dropped. UserError names the line and byte (of the source called `name`) that is not UTF-8;
    and a file that is no text at all. A first line that looks like JSON is warned of.
    """
    offset = blank = number = 0
    for number, raw in enumerate(source, 1):
        if number == 1:
            _look_at_start(raw, name)
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {number}, byte {offset + error.start}: not UTF-8: {error.reason} "
                f"({other_encoding('FILE', raw)})"
            ) from None
        offset += len(raw)
        if text:
            sink.write(json.dumps({"input": "", "output": text}, ensure_ascii=False).encode("utf-8") + b"\n")
        blank += not text
    sink.flush()
    if blank:
        print(f"note: {name}: {blank:,} of {number:,} lines are blank and left out", file=sys.stderr)


def _look_at_start(line: bytes, name: str) -> None:
    if kind := no_text("FILE", line):
        raise UserError(f"{name}: not plain text ({kind})")
    if kind := json_for_text("FILE", line):
        print(f"warning: {name}: {kind}; here each line becomes a text as it is", file=sys.stderr)


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
