"""What the tests of builders share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fm9g.data.index.build import Options
from fm9g.data.index.check import check

OVERWRITE, SKIP, APPEND = Options(overwrite=True), Options(on_error="skip"), Options(append=True)
FILES = {"data.jsonl", "index", "index.h5", "meta.json"}


def dump(record: Any) -> bytes:
    """A line of jsonl."""
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def verified(folder: Path) -> bool:
    """Whether every record fits its checksum, the data its digest and the bounds the data."""
    report = check(folder)
    return report.checksums and report.digest and not report.damaged_count
