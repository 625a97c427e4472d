"""Plain text to jsonl, and the text of jsonl records."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from fm9g.data.scan import parse_record
from fm9g.errors import UserError
from fm9g.files import require_file


def convert_text(source: BinaryIO, sink: BinaryIO, name: str) -> None:
    """Write each line of UTF-8 text as ``{"input": "", "output": line}``, stripped; blank lines are left out.

    A byte order mark is dropped. UserError names the line and byte (of the source called `name`) that is not UTF-8.
    """
    offset = 0
    for number, raw in enumerate(source, 1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}, line {number}, byte {offset + error.start}: not UTF-8: {error.reason} "
                "(for Chinese text in GBK: iconv -f GB18030 -t UTF-8)"
            ) from None
        offset += len(raw)
        if text:
            sink.write(json.dumps({"input": "", "output": text}, ensure_ascii=False).encode("utf-8") + b"\n")
    sink.flush()


def read_records(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the records of a jsonl file one by one; UserError names line and byte of a malformed one."""
    with open(require_file(path, streamed=True), "rb") as file:
        yield from parse_records(file, path)


def parse_records(file: BinaryIO, path: str | os.PathLike[str], offset: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the records of the jsonl file `path`, open as `file`, which stands at `offset`."""
    for number, raw in enumerate(file, 1):
        try:
            yield parse_record(raw)
        except ValueError as error:
            raise UserError(f"{path}, line {number}, byte {offset}: {error}") from None
        offset += len(raw)


def record_texts(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the strings that a model would be trained on: `input` and `output` of each record, if not empty."""
    for record in records:
        for key in ("input", "output"):
            text = record.get(key)
            if isinstance(text, str) and text:
                yield text
