"""The texts that a run lets its model go on with, as the setting sample_prompts names them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fm9g.errors import UserError, about
from fm9g.files import read_lines, read_text

MOST = 32  # prompts


def read_prompts(value: str, find: Callable[[str], Path]) -> list[str]:
    """A list in JSON, or a file (which `find` finds): with one a line, or if its name ends in .json such a list; [] for
    an empty value."""
    if not value:
        return []
    with about("sample_prompts"):
        written = value.lstrip().startswith("[")
        if written or value.endswith(".json"):
            texts = [text for text in _listed(value if written else read_text(find(value))) if text.strip()]
        else:
            texts = read_lines(find(value))
        if not 0 < len(texts) <= MOST:
            raise UserError(f"{len(texts)} prompts; give 1 to {MOST}")
        return texts


def _listed(value: str) -> list[str]:
    try:
        texts = json.loads(value)
    except ValueError as error:
        raise UserError(f"no list in JSON: {error}") from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError("must be a list of texts")
    return list(texts)
