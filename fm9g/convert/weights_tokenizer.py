"""Which tokenizer the weights in a .pt file came with: noted beside the file when it is converted."""

from __future__ import annotations

from pathlib import Path

from fm9g.data.tokenizer import load_tokenizer
from fm9g.errors import UserError
from fm9g.files import read_json, write_json


def note_path(weights: Path) -> Path:
    """Where the note on the tokenizer of `weights` is."""
    return weights.with_suffix(".tokenizer.json")


def note_tokenizer(weights: Path, huggingface_dir: Path) -> None:
    """Write the fingerprint of a model folder's tokenizer beside `weights`; nothing where training cannot read one."""
    try:
        tokenizer = load_tokenizer(huggingface_dir)
    except UserError:  # weights are converted without a tokenizer, too
        note_path(weights).unlink(missing_ok=True)  # of weights that these replace
        return
    write_json(note_path(weights), {"path": str(huggingface_dir), "fingerprint": tokenizer.fingerprint})


def recorded_tokenizer(weights: Path) -> str | None:
    """The fingerprint in the note beside `weights`, None where there is none."""
    path = note_path(weights)
    note = read_json(path) if path.is_file() else {}
    if not isinstance(note, dict):
        raise UserError(f"{path}: expected an object with the fingerprint of a tokenizer")
    fingerprint: str | None = note.get("fingerprint")
    return fingerprint
