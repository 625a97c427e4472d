"""Files given to a reader of jsonl or text that are something else: told by how they begin, with what reads them."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from fm9g.commandline import command
from fm9g.files import require_file

_PREPARE = command("prepare") + " --path {} --output NEW.jsonl"
_TEXT = command("text") + " < {} > NEW.jsonl"
_MARK = b"\xef\xbb\xbf"
_BEGINNINGS = (  # of files that are no text, what they are, and what to do
    (b"PAR1", "a parquet file", _PREPARE),
    (b"PK\x03\x04", "a zip file or an Excel workbook", "unzip it, or save the workbook as csv (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "save it as csv (UTF-8)"),
    (b"\x1f\x8b", "packed by gzip", "gzip -dc < {} > NEW.jsonl"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", "zstd -dc {} > NEW.jsonl"),
    (b"BZh", "packed by bzip2", "bzip2 -dc < {} > NEW.jsonl"),
    (b"\xfd7zXZ", "packed by xz", "xz -dc < {} > NEW.jsonl"),
    (b"\x89HDF", "an HDF5 file", "write its texts as jsonl"),
    (b"ARROW1", "an Arrow file", "write it as parquet"),
)
_ENCODINGS = {  # as Python calls them, as iconv does
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16LE",
    "utf-16-be": "UTF-16BE",
    "utf-32": "UTF-32",
    "utf-32-le": "UTF-32LE",
    "utf-32-be": "UTF-32BE",
}
_LONGEST_LOOK = 1 << 20  # bytes


def misfit(path: str | os.PathLike[str], line: bytes, number: int) -> str:
    """What the file at `path` seems to be, and the command that reads it; "" where its form is not to blame.

    `line` is the bytes of its line `number` (from 1), which is no record. A file is judged by its first line; another
    line only by its characters.
    """
    quoted = shlex.quote(os.fspath(path))
    if line.startswith(_MARK):
        return (
            "a byte order mark stands inside the file, as where files were joined: "
            rf"sed 's/^\xEF\xBB\xBF//' {quoted} > NEW.jsonl"
        )
    if number == 1 and (kind := no_text(quoted, line)):
        return kind
    if not _is_utf8(line):
        return other_encoding(quoted, line)
    return _other_text(Path(path), quoted, line.strip()) if number == 1 else ""


def json_for_text(quoted: str, line: bytes) -> str:
    """What a file is whose first line looks like JSON, not like plain text of a document a line; "" for others."""
    text = line.removeprefix(_MARK).strip()
    if text == b"{":
        return f"it looks like JSON over several lines: jq -c . {quoted} > NEW.jsonl"
    if text.startswith(b"{") and text.endswith(b"}") and b'"' in text:
        return f"it looks like jsonl, which {command('index')} reads as it is"
    if text == b"[" or text.startswith((b"[{", b'["')):
        return f"it looks like a JSON array: {_PREPARE.format(quoted)}"
    return ""


def folder_misfit(files: list[Path]) -> str:
    """What the first of these files that is data seems to be, none of which has the name of a jsonl file."""
    for path in files:
        if path.suffix.lower() not in (".json", ".csv", ".tsv", ".parquet", ".txt", ".xlsx"):
            continue
        with open(require_file(path), "rb") as file:
            line = file.readline(_LONGEST_LOOK)
        if path.suffix.lower() == ".json" and line.startswith(b"{") and line.rstrip().endswith(b"}"):
            return f"there is {path}: a file of one object a line can be given by its name"
        kind = misfit(path, line, 1)
        return f"there is {path}" + (f": {kind}" if kind else ", which can be given by its name")
    return ""


def other_encoding(quoted: str, line: bytes) -> str:
    """The command that makes UTF-8 of text which is none; `quoted` is its file, as a shell takes it."""
    name = _ENCODINGS.get(json.detect_encoding(line))
    if name:
        return f"it is {name} text: iconv -f {name} -t UTF-8 {quoted} > NEW"
    return f"for Chinese text in GBK: iconv -f GB18030 -t UTF-8 {quoted} > NEW"


def no_text(quoted: str, line: bytes) -> str:
    """What a file is whose first line is not in UTF-8 nor in an encoding of Chinese alone, and what to do; or ""."""
    for beginning, kind, remedy in _BEGINNINGS:
        if line.startswith(beginning):
            return f"it is {kind}: {remedy.format(quoted)}"
    return other_encoding(quoted, line) if json.detect_encoding(line) in _ENCODINGS else ""


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _other_text(path: Path, quoted: str, line: bytes) -> str:
    if path.name.lower().endswith((".csv", ".csv.gz")):
        return f"it is csv: {_PREPARE.format(quoted)}"
    if path.suffix.lower() == ".tsv":
        return f"it is a table with tabs: save it as csv, then {_PREPARE.format('NEW.csv')}"
    if line.startswith(b"["):
        return (
            f"it looks like a JSON array: jq -c '.[]' {quoted} > NEW.jsonl (input and output, or conversations for "
            f"format chat); pairs of other fields: {_PREPARE.format(quoted)}"
        )
    if line.startswith(b"{") and line.endswith(b"},"):
        return f"a comma stands after each object: sed 's/,[[:space:]]*$//' {quoted} > NEW.jsonl"
    if line.startswith(b"{"):
        whole = line.endswith(b"}")
        return "" if whole else f"an object must stand on one line: jq -c . {quoted} > NEW.jsonl"
    if path.suffix.lower() == ".txt" or line[:1].isalpha() or line[:1] >= b"\x80":
        return f"if it is plain text, a document a line: {_TEXT.format(quoted)}"
    return ""
