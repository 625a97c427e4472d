"""A sentencepiece model as the tokenizer.json of the tokenizers library, which gives the same ids.

Where the two differ in what they do with the same vocabulary, and how they are made to agree:

* Normalization: fm9g/convert/tokenizer/charsmap.py. The whole text is one word; the dummy prefix is a
  normalizer, since sentencepiece puts it once before a text.
* Unigram: the library finds any entry in a text, also "<s>" or "<0x0A>", and takes the lowest score of any entry,
  less 10, for an unknown character; sentencepiece knows normal pieces alone. Here each piece's score is raised
  by the same `bonus` per character. That changes no comparison between two ways to cut a text, but an entry that
  must not be found gets the bonus of one character only, and so is worse than all others by far.
* BPE: sentencepiece merges the neighbours whose union has the best score, the leftmost first. Each way to cut a piece
  in two pieces is a merge here, in the order of scores.
* User-defined pieces are found before anything else by BPE: a pre-tokenizer cuts them out, and `ignore_merges` makes
  a word that is an entry that entry. Words that spell an entry which BPE would not find are cut once more.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from fm9g.convert.tokenizer.around import added_entry, tokens_around
from fm9g.convert.tokenizer.charsmap import charsmap_normalizers, replace
from fm9g.data.tokens.sentencepiece_proto import (
    BPE,
    BYTE,
    CHAR,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
    read_sentencepiece,
)
from fm9g.errors import UserError, shown

SPACE = "▁"
_UNKNOWN_PENALTY = 10.0  # of sentencepiece and of the tokenizers library
_COMPOSING = ("", "\u0301", "\u0323", "\u3099")  # marks that join the letters before them
# characters that stand for user-defined pieces while the text is normalized: noncharacters, then private ones
_PLACEHOLDERS = (
    *range(0xFDD0, 0xFDF0),
    *(plane + last for plane in range(0x10000, 0x100000, 0x10000) for last in (0xFFFE, 0xFFFF)),
    *range(0xF0000, 0xFFFFE),
)


def tokenizer_json(path: Path, special: Sequence[int], bos: int | None) -> dict[str, Any]:
    """What tokenizer.json says for the sentencepiece model at `path`.

    `special` are the ids to be left out when decoding, `bos` the one to put before a text, if any. Raises UserError
    where the model says something that the tokenizers library cannot do.
    """
    return json_of_model(read_sentencepiece(path), path, special, bos)


def json_of_model(model: SentencePieceModel, path: Path, special: Sequence[int], bos: int | None) -> dict[str, Any]:
    """Like `tokenizer_json`, of a model that was read from `path` and may have been changed since."""
    try:
        return _tokenizer_json(model, special, bos)
    except UserError as error:
        raise UserError(f"{path}: cannot be written as tokenizer.json: {error}") from None


def _tokenizer_json(model: SentencePieceModel, special: Sequence[int], bos: int | None) -> dict[str, Any]:
    texts = [piece.text for piece in model.pieces]
    if len(set(texts)) != len(texts):
        raise UserError("two entries are spelled alike")
    odd = next((piece for piece in model.pieces if not math.isfinite(piece.score)), None)
    if odd is not None:
        raise UserError(f"the score of {shown(odd.text)} is {odd.score}, which is no number")
    if model.whitespace_as_suffix:
        raise UserError("it puts the space after a word (treat_whitespace_as_suffix)")
    if model.algorithm == UNIGRAM:
        core, words = _unigram(model), None
    elif model.algorithm in (BPE, CHAR):
        core, words = _bpe(model)
    else:
        raise UserError("models of the type word are not supported")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_entry(number, texts[number]) for number in sorted(special)],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": words,
        "post_processor": tokens_around([] if bos is None else [(bos, texts[bos])]),
        "decoder": {"type": "Sequence", "decoders": _decoders(model)},
        "model": core,
    }


def _normalizers(model: SentencePieceModel) -> list[dict[str, Any]]:
    space = SPACE if model.escape_whitespaces else " "
    mapped = charsmap_normalizers(model.charsmap) if model.charsmap else []
    kept = _kept_apart(model, mapped)
    marks = list(zip(kept, map(chr, _PLACEHOLDERS), strict=False))
    # where a text holds them itself, the last noncharacter takes their place
    steps = [replace(mark, "\U0010ffff", regex=False) for _, mark in marks]
    steps += [replace(text, mark, regex=False) for text, mark in marks]
    prefix = [{"type": "Prepend", "prepend": space}] if model.dummy_prefix else []
    if model.remove_extra_whitespaces:
        ends = f"[ {SPACE}]" if model.escape_whitespaces else " "
        steps += [*mapped, replace(r"\A +", ""), replace(" {2,}", " ")]
        steps += [replace(ends + r"+\z", ""), *prefix]
    else:
        steps += [*prefix, *mapped]  # a text that the rules leave nothing of has the prefix all the same
    steps += [replace(mark, text, regex=False) for text, mark in marks]
    if model.escape_whitespaces:
        steps.append(replace(" ", SPACE, regex=False))
    return steps


def _kept_apart(model: SentencePieceModel, mapped: list[dict[str, Any]]) -> list[str]:
    """The user-defined pieces, longest first, that normalization would change or join with a mark after them;
    sentencepiece finds them before it normalizes."""
    normalizer = _library(
        {"type": "Sequence", "normalizers": mapped}, {"type": "BPE", "vocab": {}, "merges": []}
    ).normalizer
    changed = []
    for text in model.texts(USER_DEFINED):
        if model.remove_extra_whitespaces and text.strip(" ") != text:
            raise UserError(f"its user-defined piece {text!r} has spaces, of which its normalizer removes some")
        touched = any(normalizer.normalize_str(text + mark) != text + mark for mark in _COMPOSING)
        if touched or (model.remove_extra_whitespaces and "  " in text):
            changed.append(text)
    return sorted(changed, key=len, reverse=True)


def _library(normalizer: dict[str, Any] | None, core: dict[str, Any]) -> tokenizers.Tokenizer:
    empty: dict[str, Any] = dict.fromkeys(("truncation", "padding", "pre_tokenizer", "post_processor", "decoder"))
    values = {**empty, "version": "1.0", "added_tokens": [], "normalizer": normalizer, "model": core}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(values))
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, which is no Exception
            raise
        raise UserError(f"the tokenizers library cannot read what is made of it: {error}") from None


def _unigram(model: SentencePieceModel) -> dict[str, Any]:
    normal = [piece.score for piece in model.pieces if piece.kind == NORMAL]
    if not normal:
        raise UserError("there is no piece in it")
    # sentencepiece looks for the best score from the smallest positive float32 on, so that it is seldom a piece's
    worst, best = min(normal), max(2.0**-126, *normal)
    scores: list[float | None] = []
    for piece in model.pieces:
        try:
            user_defined = _float32(len(piece.text.encode()) * best - 0.1)
        except OverflowError:
            raise UserError(f"the score {best:g} is too large to add up for {shown(piece.text)}") from None
        found = {NORMAL: piece.score, USER_DEFINED: user_defined}
        scores.append(found.get(piece.kind))
    lengths = [len(piece.text) for piece in model.pieces]
    # every score, with its bonus, is above that of what is not to be found: `worst` and the bonus of one character
    needed = [20 - worst]
    needed += [
        (worst - score) / (n - 1) for score, n in zip(scores, lengths, strict=True) if score is not None and n > 1
    ]
    bonus = 2.0 ** math.ceil(math.log2(max(needed)))
    vocab = [
        [piece.text, worst + bonus if score is None else score + bonus * length]
        for piece, score, length in zip(model.pieces, scores, lengths, strict=True)
    ]
    return {"type": "Unigram", "unk_id": _unknown(model), "vocab": vocab, "byte_fallback": model.byte_fallback}


def _float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def _unknown(model: SentencePieceModel) -> int:
    return next(number for number, piece in enumerate(model.pieces) if piece.kind == UNKNOWN)


def _bpe(model: SentencePieceModel) -> tuple[dict[str, Any], dict[str, Any] | None]:
    if model.texts(UNUSED):
        raise UserError("it has unused pieces, which sentencepiece merges and then cuts again")
    core = {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[_unknown(model)].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.text: number for number, piece in enumerate(model.pieces)},
        "merges": _merges(model) if model.algorithm == BPE else [],
    }
    user_defined = sorted(model.texts(USER_DEFINED), key=len, reverse=True)
    if not user_defined:
        return core, None
    patterns = ["|".join(map(_escape, user_defined)), *_cuts(model, core)]
    words = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
    return {**core, "ignore_merges": True}, {"type": "Sequence", "pretokenizers": words}


def _merges(model: SentencePieceModel) -> list[str]:
    """All pairs of pieces that make a piece, best score first; of one piece, those with the longer left part first."""
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
    merges = []
    for text in sorted(scores, key=lambda text: -scores[text]):
        for cut in range(len(text) - 1, 0, -1):
            if text[:cut] in scores and text[cut:] in scores:
                if " " in text:
                    raise UserError(f"the piece {text!r} has a space in it")
                merges.append(f"{text[:cut]} {text[cut:]}")
    return merges


def _cuts(model: SentencePieceModel, core: dict[str, Any]) -> list[str]:
    """A pattern of the first token in those words that spell an entry, but are more than one token."""
    library = _library(None, core).model
    patterns = []
    for text in model.texts(NORMAL, UNKNOWN, CONTROL, BYTE):
        data = text.encode()
        ends = [token.offsets[1] for token in library.tokenize(text)]  # in bytes; one may lie within a character
        cut = next(end for end in ends if end == len(data) or data[end] & 0xC0 != 0x80)
        if len(ends) > 1 and cut < len(data):
            patterns.append(f"{_escape(data[:cut].decode())}(?={_escape(data[cut:].decode())}\\z)")
    return [rf"\A(?:{'|'.join(patterns)})"] if patterns else []


def _escape(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):X}}}" for c in text)


def _decoders(model: SentencePieceModel) -> list[dict[str, Any]]:
    decoders: list[dict[str, Any]] = []
    if model.escape_whitespaces:
        decoders.append(replace(SPACE, " ", regex=False))
    decoders += [{"type": "ByteFallback"}] if model.byte_fallback else []
    decoders.append({"type": "Fuse"})
    if model.dummy_prefix or model.remove_extra_whitespaces:
        spaces = 1 << 16 if model.remove_extra_whitespaces else 1
        decoders.append({"type": "Strip", "content": " ", "start": spaces, "stop": 0})
    return decoders
