"""What the run that saved some weights says of itself, in the state.json beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fm9g.errors import UserError
from fm9g.files import read_json


def stream_of(weights: Path) -> dict[str, Any]:
    """What the data of the run that saved `weights` was; {} where that is not known."""
    stream = json_object(weights.with_name("state.json")).get("stream")
    return stream if isinstance(stream, dict) else {}


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`, an empty one where it holds none: it may be anybody's."""
    try:
        value = read_json(path)
    except (UserError, OSError):
        return {}
    return value if isinstance(value, dict) else {}
