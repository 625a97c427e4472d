"""Which tokenizer weights in our names came with: noted beside the file when it is converted."""

from __future__ import annotations

from pathlib import Path

from fm9g.convert.saved_run import json_object, stream_of
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from fm9g.files import write_json
from fm9g.tensors.forms import beside


def note_path(weights: Path) -> Path:
    """Where the note on the tokenizer of `weights` is."""
    return beside(weights, ".tokenizer.json")


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
    vocabulary = json_object(note_path(weights)).get("vocabulary")
    if not isinstance(vocabulary, str):
        vocabulary = stream_of(weights).get("vocabulary")
    return vocabulary if isinstance(vocabulary, str) else None
