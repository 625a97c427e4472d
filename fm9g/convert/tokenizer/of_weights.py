"""Which tokenizer and architecture weights in our names came with: noted beside the file when it is converted."""

from __future__ import annotations

import sys
from pathlib import Path

from fm9g.convert.saved_run import json_object, stream_of
from fm9g.convert.tokenizer.files import training_reads
from fm9g.data.tokens.tokenizer import load_tokenizer
from fm9g.errors import UserError
from fm9g.files import write_json
from fm9g.tensors.forms import beside


def note_path(weights: Path) -> Path:
    """Where the note on the tokenizer of `weights` is."""
    return beside(weights, ".tokenizer.json")


def note_origin(weights: Path, huggingface_dir: Path, architecture: str | None = None) -> None:
    """Write beside `weights` which architecture they were converted from, and the `Tokenizer.vocabulary` of a model
    folder, where training can read one. Where nothing is known there is no note."""
    told = {"architecture": architecture} if architecture else {}
    try:
        tokenizer = load_tokenizer(huggingface_dir)
        told |= {"path": str(huggingface_dir), "vocabulary": tokenizer.vocabulary}
    except UserError as error:  # weights are converted without a tokenizer, too
        if training_reads(huggingface_dir):
            print(f"note: {weights}: which tokenizer it came with is not noted: {error}", file=sys.stderr)
    if told:
        write_json(note_path(weights), told)
    else:
        note_path(weights).unlink(missing_ok=True)  # it is of the weights that were there before


def architecture_of(weights: Path) -> str | None:
    """The architecture that `weights` were converted from, where a note beside them says it."""
    name = json_object(note_path(weights)).get("architecture")
    return name if isinstance(name, str) else None


def vocabulary_of(weights: Path) -> str | None:
    """The `Tokenizer.vocabulary` of the tokenizer that `weights` came with, None where it is not known.

    The note beside them tells it, or else the state.json of the run that saved them.
    """
    vocabulary = json_object(note_path(weights)).get("vocabulary")
    if not isinstance(vocabulary, str):
        vocabulary = stream_of(weights).get("vocabulary")
    return vocabulary if isinstance(vocabulary, str) else None
