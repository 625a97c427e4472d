"""Which pieces a tokenizer has for text, to give some of them to another one, and in which letters it spells them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece
import tokenizers

from fm9g.data.tokens.sentencepiece_proto import BPE, NORMAL, UNIGRAM, SentencePieceModel, read_sentencepiece
from fm9g.data.tokens.special import Vocabulary
from fm9g.data.tokens.tokenizer import read_library
from fm9g.errors import UserError, shown
from fm9g.files import require_file

BYTES, BLANKS = "of bytes", "of characters, with ▁ for a blank"  # the letters that pieces are spelled in
_ALGORITHMS = {3: "words", 4: "characters"}  # of sentencepiece, that have no pieces
_FRAMES = ("", "a", "0")  # what may stand around a piece in a text


class Pieces(NamedTuple):
    """`path` of the file; `letters`: BYTES or BLANKS; `texts`: its pieces for text by id; `others`: how many of its
    entries are none (special tokens, control pieces, single bytes)."""

    path: Path
    letters: str
    texts: list[str]
    others: int


def pieces_file(path: Path) -> Path:
    """The file whose pieces are merged of a tokenizer, which may be a folder: what training reads, but of a Unigram in
    tokenizer.json, whose scores are made for another library, the tokenizer.model beside it."""
    if path.is_dir():
        path /= next((name for name in ("tokenizer.json", "tokenizer.model") if os.path.lexists(path / name)), "")
    model = path.with_name("tokenizer.model")
    if path.suffix != ".json" or not model.exists():
        return path
    read_library(require_file(path))
    content = json.loads(path.read_bytes())
    if content["model"].get("type") != "Unigram":
        return path
    texts = [piece.text for piece in sentencepieces(model).pieces]
    if Vocabulary.of(content).spellings != dict(enumerate(texts)):
        raise UserError(
            f"{path}: a Unigram with other tokens than {model.name} beside it: give that, or make them agree"
        )
    return model


def pieces_of(path: Path) -> Pieces:
    """The pieces in the file `path`; UserError where it is no byte pair encoding, nor one of sentencepiece's."""
    if path.suffix != ".json":
        model = sentencepieces(path)
        texts = [text for text in model.texts(NORMAL) if text]
        return Pieces(path, BLANKS, texts, len(model.pieces) - len(texts))
    content = bpe_content(path)
    vocabulary = Vocabulary.of(content)
    names = {token["content"] for token in vocabulary.added.values()} | {content["model"].get("unk_token")}
    if content["model"].get("byte_fallback"):
        names |= {f"<0x{byte:02X}>" for byte in range(256)}
    ordered = sorted((id, text) for text, id in content["model"]["vocab"].items())
    texts = [text for _, text in ordered if text and text not in names]
    return Pieces(path, letters_of(content, path), texts, len(vocabulary.spellings) - len(texts))


def sentencepieces(path: Path) -> SentencePieceModel:
    """A `.model` file whose vocabulary is of pieces; UserError for another one."""
    model = read_sentencepiece(require_file(path))
    if model.algorithm not in (BPE, UNIGRAM):
        raise UserError(
            f"{path}: is a sentencepiece model of {_ALGORITHMS.get(model.algorithm, 'an unknown kind')}, not of "
            "pieces: train one with model_type=bpe or unigram"
        )
    if model.whitespace_as_suffix or not model.escape_whitespaces:
        raise UserError(f"{path}: does not put ▁ before a word (treat_whitespace_as_suffix, escape_whitespaces)")
    return model


def bpe_content(path: Path) -> dict[str, Any]:
    """What a tokenizer.json says that is a byte pair encoding; UserError for another one."""
    read_library(require_file(path))
    content = json.loads(path.read_bytes())
    model = content["model"]
    if "merges" not in model:
        raise UserError(
            f"{path}: is a {model.get('type')} model, and pieces are merged into BPE here: give a tokenizer.json of "
            "BPE, or of a Unigram its sentencepiece .model"
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise UserError(f"{path}: {key}={shown(model[key])}: such pieces are not merged here")
    return content


def letters_of(content: Mapping[str, Any], path: Path) -> str:
    """BYTES or BLANKS; UserError where a tokenizer.json spells pieces otherwise."""
    told = json.dumps([content.get("normalizer"), content.get("pre_tokenizer")], ensure_ascii=False)
    if '"ByteLevel"' in told:
        return BYTES
    if "▁" in told:
        return BLANKS
    raise UserError(f"{path}: its pieces are neither bytes (ByteLevel) nor have ▁ for a blank: it cannot be merged")


def text_of(piece: str, letters: str) -> str | None:
    """The text that a piece spells; None for bytes that are a part of a character."""
    if letters == BLANKS:
        return piece.replace("▁", " ")
    text = tokenizers.decoders.ByteLevel().decode([piece])
    return None if "\ufffd" in text else text


def kept_whole(path: Path, pieces: Sequence[str], letters: str) -> list[str]:
    """Those of `pieces` that a text can hold once the tokenizer at `path` has normalized it and cut it into words."""
    words = _words_of(path)
    found = []
    for piece in pieces:
        text = text_of(piece, letters)
        if text is None or any(piece in word for frame in _FRAMES for word in words(f"{frame}{text}{frame}")):
            found.append(piece)
    return found


def _words_of(path: Path) -> Any:
    """What gives the words of a text that pieces are looked for in."""
    if path.suffix != ".json":
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        return lambda text: [processor.normalize(text)]
    library = tokenizers.Tokenizer.from_file(str(path))
    normalize, cut = library.normalizer, library.pre_tokenizer

    def words(text: str) -> list[str]:
        text = normalize.normalize_str(text) if normalize else text
        return [word for word, _ in cut.pre_tokenize_str(text)] if cut else [text]

    return words
