"""What a tokenizer makes of text: unknown tokens, and the characters that do not come back when ids are decoded.

A tokenizer may drop newlines, collapse spaces, or turn one character into another. A model trained with it never sees
what is lost, and can never write it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from fm9g.data.tokens.tokenizer import Tokenizer, without_surrogates

NOTEWORTHY = 0.001  # the share of tokens that are unknown, or of characters that are lost, from which it is a warning
_NAMED = 4  # lost characters that are named
_NAMES = {"\n": "newline", "\r": "carriage return", "\t": "tab", " ": "space", "\u3000": "ideographic space"}


class Survey:
    """Counts over texts and their token ids, added one by one; memory does not grow with the texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.texts = 0
        self.tokens = 0
        self.unknown = 0  # tokens
        self.changed = 0  # texts that come back as another text
        self.characters = 0
        self.met: Counter[str] = Counter()  # {character: times}, of the texts that come back as another
        self.lost: Counter[str] = Counter()  # {character: times it did not come back}

    def add(self, text: str, ids: Sequence[int]) -> None:
        """Count a text, given with what the tokenizer made of it."""
        text = without_surrogates(text)
        special = self._tokenizer.special
        for id in ids:
            if id in special:  # written by a transform: decoding leaves it out, and so it is not a loss
                text = text.replace(special[id], "", 1)
        self.texts += 1
        self.tokens += len(ids)
        self.characters += len(text)
        self.unknown += sum(id == self._tokenizer.unknown_id for id in ids)
        back = self._tokenizer.decode(ids)
        if back != text:
            self.changed += 1
            before = Counter(text)
            self.met += before
            self.lost += before - Counter(back)

    @property
    def unknown_share(self) -> float:
        """Of the tokens."""
        return self.unknown / max(1, self.tokens)

    @property
    def lost_share(self) -> float:
        """Of the characters."""
        return self.lost.total() / max(1, self.characters)

    def lines(self) -> list[tuple[bool, str]]:
        """(whether it is worth a warning, what was found in words); [] where every text comes back as it was."""
        said = []
        if self.unknown:
            warns = self.unknown_share >= NOTEWORTHY
            said.append((warns, f"{_share(self.unknown_share)} of its tokens are unknown (UNK)"))
        if self.changed:
            warns = self.lost_share >= NOTEWORTHY or self.lost["\n"] > 0
            said.append(
                (warns, f"{self.changed:,} of {self.texts:,} texts do not survive the tokenizer: {self._losses()}")
            )
        return said

    def warnings(self) -> list[str]:
        """Those of `lines` that are worth a warning: a rare character lost is not."""
        return [said for warns, said in self.lines() if warns]

    def _losses(self) -> str:
        named = ", ".join(
            f"{_name(character)} ({times:,} of {self.met[character]:,})"
            for character, times in self.lost.most_common(_NAMED)
        )
        if not named:
            return "decoded, they are other text"
        rest = len(self.lost) - _NAMED
        others = f" and {rest:,} others" if rest > 0 else ""
        return f"decoded, they lack {_share(self.lost_share)} of the characters: {named}{others}"


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= NOTEWORTHY else f"less than {NOTEWORTHY:.1%}"


def _name(character: str) -> str:
    """A character as a person would call it."""
    if character in _NAMES:
        return _NAMES[character]
    return f"'{character}'" if character.isprintable() else unicodedata.name(character, f"U+{ord(character):04X}")
