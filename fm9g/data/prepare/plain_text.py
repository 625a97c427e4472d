"""Plain text to jsonl."""

from __future__ import annotations

import json
import sys
from typing import BinaryIO

from fm9g.data.file_kinds import json_for_text, no_text, other_encoding
from fm9g.errors import UserError


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
