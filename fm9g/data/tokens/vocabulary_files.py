"""Folders whose vocabulary file does not say the whole tokenizer, and what is to be done with them."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from fm9g.commandline import command
from fm9g.data.tokens.added import CONFIG, added_tokens, tokenizer_class
from fm9g.data.tokens.sentencepiece_proto import read_sentencepiece
from fm9g.errors import shown

_LINE = 1 << 13  # bytes that a first line of ranks fits in
_ADDING = {"ChatGLMTokenizer": "[gMASK], sop and more"}  # what a class has beside its vocabulary file


def why_not_alone(folder: Path) -> str | None:
    """What to tell who wants to read `folder`, without a tokenizer.json, where its files hold more than is read."""
    model = folder / "tokenizer.model"
    if not model.is_file():
        name = _other(folder)
        return name and f"{folder}: holds {name}, and no tokenizer.json: {_write(folder)}"
    if is_ranks(model):
        return f"{model}: holds ranks of tiktoken, not a sentencepiece model: {_write(folder)}"
    lost = _lost(folder, model)
    if lost is None:
        return None
    return f"{folder}: {lost} beside tokenizer.model: {_write(folder)}; {model} is the same without them"


def is_ranks(path: Path) -> bool:
    """Whether a file begins as ranks of tiktoken do: a token in base64 and a number."""
    with path.open("rb") as file:
        words = file.read(_LINE).partition(b"\n")[0].split()
    try:
        return len(words) == 2 and words[1].isdigit() and bool(base64.b64decode(words[0], validate=True))
    except binascii.Error:
        return False


def _other(folder: Path) -> str | None:
    """The vocabulary file that `_write` reads, of those that are not read here."""
    ranks = next(iter(sorted(folder.glob("*.tiktoken"))), None)
    if ranks:
        return ranks.name
    bloom = (tokenizer_class(folder) or "").startswith("Bloom") and (folder / "vocab.json").exists()
    return "vocab.json" if bloom else None


def _lost(folder: Path, model: Path) -> str | None:
    found = tokenizer_class(folder)
    if found in _ADDING:
        return f"its tokenizer_class {found} has {_ADDING[found]}"
    added = added_tokens(folder)
    pieces = read_sentencepiece(model).pieces if added else []
    lost = [token for id, token in added.items() if id >= len(pieces) or pieces[id].text != token.text]
    if not lost:
        return None
    where = CONFIG if (folder / CONFIG).exists() else "added_tokens.json"
    return f"{where} has {shown(lost[0].text)}{f' and {len(lost) - 1} more tokens' if lost[1:] else ''}"


def _write(folder: Path) -> str:
    return f"write one that has them all: {command('tokenizer-json')} --tokenizer {folder} --output DIR"
