"""Tokenizers that tools/tokenizer_json.py wrote, and texts to hold them against what they were written from."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import transformers

from fm9g.convert.tokenizer.from_class import write_tokenizer_json
from fm9g.data.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.convert.test_tokenizer_export import train
from tests.support.ranked import TEXTS

# what the library's Unicode, that of Python and that of `regex` all know, and normalize alike
CHARACTERS = [
    *"aA '\u2019ſßKK\u212a",
    *'sdmtSTrevlLEV019٣½一中文的。，！?.,;:-_#<>|[]()\\/"=+*',
    *" \t\n\r\x0b\x85\u00a0\u3000\u2028",
]
CHARACTERS += [
    *"\u0301\u0308\u0338\u3099éñ가각\u1100\u1161か\u200d\ufe0f",
    "😀",
    "👍🏽",
    "𝔸",
    "𠀀",
    "\x00",
    "\ufffd",
    "\U0010fffe",
]


class Made(NamedTuple):
    """A family's folder as it comes, as it was written, and two who read what was written."""

    source: Path
    folder: Path
    ours: Tokenizer
    theirs: Any


def made(source: Path, family: str | None = None) -> Made:
    folder = source.with_name(source.name + "-json")
    write_tokenizer_json(source, folder, family)
    theirs = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return Made(source, folder, load_tokenizer(folder), theirs)


def rich(count: int, seed: int = 0) -> list[str]:
    """Texts of characters that decide how text is cut, and of whole words."""
    chance = random.Random(seed)
    words = [word for text in TEXTS for word in text.split(" ")]
    found = []
    for _ in range(count):
        parts = [chance.choice(CHARACTERS if chance.random() < 0.7 else words) for _ in range(chance.randrange(30))]
        found.append("".join(part * (chance.randrange(1, 6) if chance.random() < 0.1 else 1) for part in parts))
    return found


def pieces_folder(folder: Path, options: dict[str, Any], **config: Any) -> Path:
    """A folder with a tiny sentencepiece model, and settings."""
    train(folder / "tokenizer.model", **options)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenization.py").write_text("raise SystemExit('code of a model was run')\n")
    return folder
