"""The tokens that a tokenizer's folder adds to its vocabulary file: added_tokens.json and tokenizer_config.json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fm9g.errors import UserError, shown
from fm9g.files import read_json

CONFIG = "tokenizer_config.json"
MOST = 1 << 31  # of ids


class AddedToken(NamedTuple):
    """`strips`: whether it takes white space to its left, and to its right, along; `word`: found as a word alone."""

    id: int
    text: str
    special: bool = True
    strips: tuple[bool, bool] = (False, False)
    word: bool = False


def added_tokens(folder: Path) -> dict[int, AddedToken]:
    """{id: token}, ids ascending; UserError that names the field where they cannot be so."""
    found: dict[int, AddedToken] = {}
    for where, token in _all(folder):
        known = found.get(token.id)
        if known and known.text != token.text:
            raise UserError(f"{where}: id {token.id} is {shown(token.text)}, and {shown(known.text)}: keep one")
        found[token.id] = token  # tokenizer_config.json, which comes last, knows more of it
    ids: dict[str, int] = {}
    for id, token in found.items():
        if ids.setdefault(token.text, id) != id:
            raise UserError(f"{folder / CONFIG}: {shown(token.text)} has the ids {ids[token.text]} and {id}: keep one")
    return dict(sorted(found.items()))


def tokenizer_class(folder: Path) -> str | None:
    """The class that tokenizer_config.json names, if any."""
    found = _object(folder / CONFIG).get("tokenizer_class")
    return found if isinstance(found, str) and found else None


def _all(folder: Path) -> Iterator[tuple[str, AddedToken]]:
    """The tokens, and the field that each is of."""
    where = f"{folder / 'added_tokens.json'}"
    for text, id in _object(folder / "added_tokens.json").items():
        yield where, AddedToken(_id(where, id), _text(where, text), special=False)
    where = f"{folder / CONFIG}: added_tokens_decoder"
    decoder = _object(folder / CONFIG).get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise UserError(f"{where}: must be an object of ids and tokens")
    for number, token in decoder.items():
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not content:
            raise UserError(f'{where}: {shown(number)} must have its spelling as "content"')
        strips = (token.get("lstrip") is True, token.get("rstrip") is True)
        id = _id(where, int(number) if number.isascii() and number.isdecimal() and len(number) < 11 else number)
        text = _text(where, content)
        yield where, AddedToken(id, text, token.get("special") is True, strips, token.get("single_word") is True)


def is_text(text: str) -> bool:
    """Whether a string of JSON is text: it may hold half of a surrogate pair, which no file of UTF-8 can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(where: str, text: str) -> str:
    if not is_text(text):
        raise UserError(f"{where}: {shown(text)} has half of a surrogate pair, which is no text")
    return text


def _id(where: str, id: Any) -> int:
    if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < MOST:
        raise UserError(f"{where}: {shown(id)} is not the id of a token")
    return id


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, an empty one where there is no such file."""
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return content
