"""Which tokenizer the weights in a .pt file came with: noted beside the file when it is converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from fm9g.files import read_json, write_json


def note_path(weights: Path) -> Path:
    """Where the note on the tokenizer of `weights` is."""
    return weights.with_suffix(".tokenizer.json")


def note_tokenizer(weights: Path, huggingface_dir: Path) -> None:
    """Write the `Tokenizer.vocabulary` of a model folder beside `weights`; nothing where training cannot read one."""
    try:
        tokenizer = load_tokenizer(huggingface_dir)
    except UserError:  # weights are converted without a tokenizer, too
        note_path(weights).unlink(missing_ok=True)  # of weights that these replace
        return
    write_json(note_path(weights), {"path": str(huggingface_dir), "vocabulary": tokenizer.vocabulary})


def vocabulary_of(weights: Path) -> str | None:
    """The `Tokenizer.vocabulary` of the tokenizer that `weights` came with, None where it is not known.

    The note beside them tells it, or else the state.json of the run that saved them.
    """
    vocabulary = _object(note_path(weights)).get("vocabulary")
    if not isinstance(vocabulary, str):
        stream = _object(weights.with_name("state.json")).get("stream")
        vocabulary = stream.get("vocabulary") if isinstance(stream, dict) else None
    return vocabulary if isinstance(vocabulary, str) else None


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`, an empty one where it holds none: it may be anybody's."""
    try:
        value = read_json(path)
    except (UserError, OSError):
        return {}
    return value if isinstance(value, dict) else {}
