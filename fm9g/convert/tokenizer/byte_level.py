"""A byte-level BPE as tokenizer.json, from ranks of tiktoken or from vocab.json and merges.txt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fm9g.convert.tokenizer.ranks import merges_of, read_ranks
from fm9g.data.tokens.added import MOST, is_text
from fm9g.errors import UserError, shown
from fm9g.files import read_json, read_text

# GPT-2 spells a byte by a character that can be seen: itself in Latin-1, or one from U+0100 on
_SEEN = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}


def _letters() -> list[str]:
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in _SEEN else next(others)) for byte in range(256)]


_LETTERS = _letters()


def spelled(token: bytes) -> str:
    """How a token of bytes is spelled in tokenizer.json."""
    return "".join(_LETTERS[byte] for byte in token)


def ranks_json(path: Path, pattern: str, nfc: bool) -> dict[str, Any]:
    """What tokenizer.json says, but for added tokens, of the ranks in `path`: text, in Unicode's NFC where `nfc` says
    so, is cut by `pattern` first, and a piece that is a token is that one."""
    tokens = read_ranks(path)
    pairs = [f"{spelled(left)} {spelled(right)}" for left, right in merges_of(tokens)]
    return _content({spelled(token): rank for rank, token in enumerate(tokens)}, pairs, pattern, nfc, True)


def merges_json(folder: Path, pattern: str) -> dict[str, Any]:
    """What tokenizer.json says, but for added tokens, of vocab.json and merges.txt in `folder`."""
    vocab = read_json(folder / "vocab.json")
    ids = vocab.values() if isinstance(vocab, dict) else [None]
    if not all(isinstance(id, int) and not isinstance(id, bool) and 0 <= id < MOST for id in ids):
        raise UserError(f"{folder / 'vocab.json'}: must hold the id of each token, a whole number below {MOST:,}")
    broken = next((text for text in vocab if not is_text(text)), None)
    if broken is not None:
        raise UserError(f"{folder / 'vocab.json'}: {shown(broken)} has half of a surrogate pair, which is no text")
    twice = len(vocab) - len(set(vocab.values()))
    if twice:
        raise UserError(f"{folder / 'vocab.json'}: {twice} of its tokens have the id of another one")
    lacking = next((byte for byte, letter in enumerate(_LETTERS) if letter not in vocab), None)
    if lacking is not None:
        raise UserError(f"{folder / 'vocab.json'}: no token is the byte 0x{lacking:02X}, as {_LETTERS[lacking]!r}")
    return _content(vocab, _merges(folder / "merges.txt", vocab), pattern, False, False)


def _merges(path: Path, vocab: Mapping[str, int]) -> list[str]:
    found = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        words = line.split()
        if not words or (number == 1 and line.startswith("#version")):
            continue
        if len(words) != 2:
            raise UserError(f"{path}, line {number}: {shown(line)} is not two parts of a token")
        unknown = next((word for word in (*words, "".join(words)) if word not in vocab), None)
        if unknown is not None:
            raise UserError(f"{path}, line {number}: {shown(unknown)} is not in vocab.json")
        found.append(" ".join(words))
    return found


def _content(
    vocab: Mapping[str, int], merges: Sequence[str], pattern: str, nfc: bool, pieces_first: bool
) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pieces_first,
            "vocab": dict(vocab),
            "merges": list(merges),
        },
    }
