"""Tokenizers in the form of tiktoken, and an encoder that reads them by the definition, to hold ours against."""

from __future__ import annotations

import base64
import itertools
import json
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import regex  # type: ignore[import-untyped]
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog, don't they? We'LL see: 3,141.59 in 2024.",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少？中文分词器，训练与导出。",
    "def f(x):\n    return x  ==  y\n\n\n\tfor i in range(100):\r\n        print(i)   ",
    "naïve café e\u0301 Straße Привет мир 한국어 ไทย 😀👍🏽 👨\u200d👩\u200d👧 １２３ ½ \u3000 \u00a0",
]
NUMBER = {"qwen": r"\p{N}", "glm4": r"\p{N}{1,3}"}


def trained(vocab_size: int) -> list[bytes]:
    """The tokens, by rank, of a byte-level BPE of TEXTS."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    # another code than that of the project: the bytes of a letter are what the library spells by it
    letters = {pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(chr(n))[0][0]: n for n in range(128)}
    for character in map(chr, (*range(0x80, 0x800), *range(0x800, 0xD800, 0x1000), *range(0x10000, 0x110000, 0x10000))):
        spelling = pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(character)[0][0]
        letters |= dict(zip(spelling, character.encode(), strict=True))
    unused = sorted(set(range(256)) - set(letters.values()))  # no text has these bytes
    letters |= dict(zip(sorted(set(alphabet) - letters.keys()), unused, strict=True))
    vocab = sorted((id, text) for text, id in library.get_vocab().items())
    return [bytes(letters[letter] for letter in text) for _, text in vocab]


def write_ranks(path: Path, tokens: Sequence[bytes]) -> None:
    """A file of a token in base64 and its rank a line."""
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    path.write_text("".join(lines))


def folder_of(
    folder: Path, kind: str, tokens: Sequence[bytes], config: dict[str, Any] | None = None, **more: Any
) -> Path:
    """A folder as Qwen-1 ("qwen") or GLM-4 ("glm4") has, and code in it that must not be run."""
    folder.mkdir(parents=True)
    write_ranks(folder / {"qwen": "qwen.tiktoken", "glm4": "tokenizer.model"}[kind], tokens)
    name = {"qwen": "QWenTokenizer", "glm4": "ChatGLM4Tokenizer"}[kind]
    settings = {"tokenizer_class": name, "auto_map": {"AutoTokenizer": [f"tokenization.{name}", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **(config or {}), **more}))
    (folder / "tokenization.py").write_text("raise SystemExit('code of a model was run')\n")
    return folder


class Encoder:
    """Splits, and joins what has the lowest rank until nothing is left to join."""

    def __init__(self, kind: str, tokens: Sequence[bytes], special: Sequence[str]):
        self._ranks = {token: rank for rank, token in enumerate(tokens)}
        self.special = {text: len(tokens) + place for place, text in enumerate(special)}
        self._nfc = kind == "qwen"
        self._pattern = regex.compile(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
            + NUMBER[kind]
            + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )

    def encode(self, text: str, allowed: Collection[str] = ()) -> list[int]:
        """The ids of `text`, where special tokens that are `allowed` may be spelled."""
        text = unicodedata.normalize("NFC", text) if self._nfc else text
        if not allowed:
            return [id for piece in self._pattern.findall(text) for id in self._piece(piece.encode())]
        found = regex.split("(" + "|".join(map(regex.escape, allowed)) + ")", text)
        return [id for part in found for id in ([self.special[part]] if part in allowed else self.encode_plain(part))]

    def encode_plain(self, text: str) -> list[int]:
        """The ids of text that is normalized."""
        return [id for piece in self._pattern.findall(text) for id in self._piece(piece.encode())]

    def _piece(self, piece: bytes) -> list[int]:
        if piece in self._ranks:
            return [self._ranks[piece]]
        parts = [bytes([byte]) for byte in piece]
        while True:
            pairs = [(self._ranks.get(a + b), n) for n, (a, b) in enumerate(itertools.pairwise(parts))]
            known = [(rank, n) for rank, n in pairs if rank is not None]
            if not known:
                return [self._ranks[part] for part in parts]
            _, n = min(known)
            parts[n : n + 2] = [parts[n] + parts[n + 1]]
